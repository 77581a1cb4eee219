"""The embedded stack: a Kafka-compatible broker, Valkey and PostgreSQL, from wheels.

    with Stack(Path(".data")) as stack:
        ...  # our commands find the servers through stack.environment()

Valkey and PostgreSQL listen on Unix sockets in folders that other users cannot enter. The broker
can only listen on a port, here of 127.0.0.1, and asks for no password, so every user of this
machine can connect to it. The stack is for laptops and tests. Valkey and PostgreSQL keep their data
in `data_dir`; the broker keeps topics in memory and starts empty.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from cli.embedded.private_folder import check_owner, make_private
from cli.embedded.server import Server, StackError
from cli.embedded.servers import Broker, Postgres, Valkey

# How long a start waits for what is left of a killed run: the process itself, which ends at once,
# and its servers, which write their data and end by themselves.
_KILLED_RUN_S: Final = 1.0
_KILLED_SERVERS_S: Final = 20.0


class Stack:
    """The three servers in one data folder, which one run at a time may use."""

    def __init__(self, data_dir: Path, *, broker_port: int | None = None) -> None:
        """Create the servers; a port of None is replaced by a free one, different in each run."""
        self.data_dir = data_dir.absolute()
        self.postgres = Postgres(self.data_dir)
        self.valkey = Valkey(self.data_dir)
        self.broker = Broker(broker_port, self.data_dir)
        self.servers: tuple[Server, ...] = (self.postgres, self.valkey, self.broker)
        self._lock_fds: list[int] = []

    def environment(self) -> dict[str, str]:
        """Return the environment variables with which our commands use this stack, once it runs.

        None of them is a secret: what protects the servers is who may open their sockets.
        """
        return {
            "KAFKA_BOOTSTRAP_SERVERS": self.broker.bootstrap,
            "REDIS_URL": self.valkey.url,
            "DATABASE_URL": self.postgres.url,
        }

    def start(self, started: Callable[[Server], None] = lambda server: None) -> None:
        """Start all servers and call `started` after each.

        Raises StackError, after which no server runs.
        """
        try:
            check_owner(self.data_dir)
            self._lock()
            make_private(self.data_dir)
            for server in self.servers:
                server.start()
                started(server)
        except BaseException:
            self.stop()
            raise

    def stop(self, timeout_s: float = 10.0) -> None:
        """Stop all servers in reverse order; `timeout_s` is for each of them."""
        for server in reversed(self.servers):
            server.stop(timeout_s)
        while self._lock_fds:
            os.close(self._lock_fds.pop())

    def dead(self) -> list[Server]:
        """Return the servers that do not run."""
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
        # Two locks. `run.lock` is held by this process: if it is taken, another run is alive.
        # `servers.lock` is inherited by the servers: after a killed run it is held until the last
        # of them has ended, so that two servers never write the same files.
        run_lock, servers_lock = self.data_dir / "run.lock", self.data_dir / "servers.lock"
        fd = self._open_lock(run_lock)
        if not _locked_within(_KILLED_RUN_S, fd):
            owner = run_lock.read_text()
            raise self._failed(f"is in use by another run, process {owner}")
        os.ftruncate(fd, 0)
        os.write(fd, str(os.getpid()).encode())
        fd = self._open_lock(servers_lock)
        if not _locked_within(_KILLED_SERVERS_S, fd):
            raise self._failed("is in use by servers of a killed run; stop them first")
        for server in self.servers:
            server.inherited_fds = (fd,)

    def _open_lock(self, path: Path) -> int:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._lock_fds.append(fd)
        return fd

    def _failed(self, reason: str) -> StackError:
        return StackError(f"{self.data_dir} {reason}")


def _locked_within(timeout_s: float, fd: int) -> bool:
    """Take the lock; return False if another process holds it after `timeout_s`."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline_s:
                return False
            time.sleep(0.05)
