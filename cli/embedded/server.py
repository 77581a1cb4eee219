"""Base class of the embedded servers: start, wait until ready, stop."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar, Final

from cli.embedded.child_process import ChildProcess, tail

HOST: Final = "127.0.0.1"
_LOG_BYTES_MAX: Final = 5_000_000
_POLL_S: Final = 0.02

#: A port of 127.0.0.1, or the path of a Unix socket.
Endpoint = int | Path

PORTS = range(15_000, 32_000)
"""Where `free_port` looks. Test processes that run side by side each take a part of it."""


class StackError(Exception):
    """A server could not be started.

    The first line of the message names the server and the reason; the end of the server's log
    follows if there is one.
    """


def free_port() -> int:
    """Return a TCP port of the loopback interface on which nothing listens.

    The port is below the range that the OS gives to outgoing connections (32768 and up): a client
    that keeps trying to reach a stopped server could otherwise be given that very port, connect to
    itself and keep the server from binding it again. Raises StackError.
    """
    for _ in range(200):
        port = random.choice(PORTS)
        if is_free(port):
            return port
    raise StackError(f"no free port found on {HOST} between {PORTS.start} and {PORTS.stop}")


def is_free(port: int) -> bool:
    """Return whether 127.0.0.1:`port` can be bound."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


class Server:
    """Child process that listens on `endpoint` and logs to `log_path`.

    It has a session of its own, so that Ctrl-C in our terminal does not reach it, and ends when we
    end, in any way. Subclasses define `name`, `endpoint`, `_command` and `_answers`.
    """

    name: ClassVar[str]
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    """Ends the server in an orderly way: what it has acknowledged is on disk afterwards."""

    def __init__(self, log_path: Path) -> None:
        self.log_path = log_path.absolute()
        self.inherited_fds: Sequence[int] = ()
        """File descriptors that the server keeps open, so that it holds the locks on them."""
        self._process: ChildProcess | None = None

    # --- defined by subclasses

    def _command(self) -> list[str]:
        """Return the program (an absolute path) and its arguments."""
        raise NotImplementedError

    def _answers(self) -> bool:
        """Return whether the server answers a request of its own protocol.

        An OSError means no.
        """
        raise NotImplementedError

    def _prepare(self) -> None:
        """Create what the server needs before its first start."""

    def _user(self) -> tuple[int, int] | None:
        """Return the (uid, gid) to run as; None keeps our user."""
        return None

    # --- public

    @property
    def endpoint(self) -> Endpoint:
        """Where the server listens: a port of 127.0.0.1, or a Unix socket."""
        raise NotImplementedError

    @property
    def address(self) -> str:
        """The endpoint, for people."""
        return f"{HOST}:{self.endpoint}" if isinstance(self.endpoint, int) else str(self.endpoint)

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def alive(self) -> bool:
        return self._process is not None and self._process.is_running()

    def start(self, timeout_s: float = 60.0) -> None:
        """Start the server and return when it answers; does nothing if it runs.

        Raises StackError, after which the server does not run.
        """
        if self.alive():
            return
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        self._prepare()
        if isinstance(self.endpoint, int) and not is_free(self.endpoint):
            raise StackError(f"{self.name}: port {self.endpoint} of {HOST} is in use")
        process = ChildProcess(
            self._command(),
            environment=server_environment(),
            log_path=self.log_path,
            working_dir=Path("/"),
            stop_signal=self.stop_signal,
            ends_with_parent=True,
            user=self._user(),
            inherited_fds=self.inherited_fds,
            log_bytes_max=_LOG_BYTES_MAX,
        )
        process.start()
        self._process = process
        try:
            self._wait_until_ready(process, timeout_s)
        except BaseException:  # Ctrl-C during the wait included
            self.stop(timeout_s=5)
            raise

    def stop(self, timeout_s: float = 10.0) -> None:
        """Stop the server, with SIGKILL after `timeout_s`. Its data stays."""
        process, self._process = self._process, None
        if process is not None:
            process.stop(timeout_s)

    def _wait_until_ready(self, process: ChildProcess, timeout_s: float) -> None:
        deadline_s = time.monotonic() + timeout_s
        while time.monotonic() < deadline_s:
            if (code := process.exit_code()) is not None:
                raise self._failure(f"ended at once with exit code {code}")
            with contextlib.suppress(OSError):
                if self._answers():
                    return
            time.sleep(_POLL_S)
        raise self._failure(f"did not answer within {timeout_s:.0f} s")

    def _failure(self, reason: str) -> StackError:
        return StackError(
            f"{self.name} {reason}; see {self.log_path}\n{tail(self.log_path)}".rstrip()
        )


class TcpServer(Server):
    """Server on a port of the loopback interface, which every user of this machine can reach."""

    def __init__(self, port: int | None, log_path: Path) -> None:
        """`port` of None is replaced by a free one."""
        super().__init__(log_path)
        self.port = free_port() if port is None else port

    @property
    def endpoint(self) -> Endpoint:
        return self.port


def ask(endpoint: Endpoint, question: bytes, answered: Callable[[bytes], bool]) -> bool:
    """Send `question` to a server and return `answered(first bytes of the response)`.

    `answered` gets at least 4 bytes, or fewer if the server closes the connection. Raises OSError.
    """
    is_port = isinstance(endpoint, int)
    with socket.socket(socket.AF_INET if is_port else socket.AF_UNIX) as connection:
        connection.settimeout(1)
        connection.connect((HOST, endpoint) if is_port else str(endpoint))
        connection.settimeout(2)
        connection.sendall(question)
        response = b""
        while len(response) < 4 and (part := connection.recv(4_096)):
            response += part
        return answered(response)


def server_environment() -> dict[str, str]:
    """Return the environment of the servers and their helpers.

    It leaves out our own variables: the servers read PGDATA, LISTENER_URL and the like, and would
    not run as configured here.
    """
    kept = ("PATH", "HOME", "TMPDIR", "JAVA_HOME")
    return {"LC_ALL": "C", **{name: os.environ[name] for name in kept if name in os.environ}}
