"""A server that we start, wait for and stop: what the embedded stack's three have in common."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO, ClassVar, Final

HOST: Final = "127.0.0.1"
_LAUNCHER: Final = Path(__file__).with_name("launch.py")
_LOG_BYTES_MAX: Final = 5_000_000
_LOG_TAIL_LINES: Final = 15
_POLL_S: Final = 0.02

PORTS = range(15_000, 32_000)
"""Where `free_port` looks. Test processes that run side by side each take a part of it."""

# Linux tells a child that its parent is gone when the *thread* that started it ends. So all are
# started by one thread that lives as long as the process does.
_starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="server-starter")


class StackError(Exception):
    """A server could not be started. The message's first line says which and why; where there is
    a log, its end follows."""


def free_port() -> int:
    """A TCP port of the loopback that nothing listens on, asked of the OS.

    From below the range that the OS gives to outgoing connections (32768 up): a client that keeps
    trying to reach a server which is down could otherwise be given that very port, connect to
    itself, and keep the server from coming back."""
    for _ in range(200):
        port = random.choice(PORTS)
        if is_free(port):
            return port
    raise StackError(f"no free port found on {HOST} between {PORTS.start} and {PORTS.stop}")


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


class Server:
    """One child process that listens on 127.0.0.1:`port` and logs to `log_path`.

    It does not get our Ctrl-C (a session of its own), and is stopped when we end in any way."""

    name: ClassVar[str]
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    """Ends the server in order: what it has acknowledged is on disk afterwards."""

    def __init__(self, port: int | None, log_path: Path) -> None:
        self.port = free_port() if port is None else port
        self.log_path = log_path.absolute()
        self.inherited_fds: Sequence[int] = ()
        """Descriptors that the server keeps open, so that a lock on one lasts as long as it."""
        self._process: subprocess.Popen[bytes] | None = None

    # --- what each kind of server says
    def _command(self) -> list[str]:
        """Program (an absolute path) and arguments."""
        raise NotImplementedError

    def _answers(self) -> bool:
        """Whether the server answers its own protocol, ready for work. OSError counts as no."""
        raise NotImplementedError

    def _prepare(self) -> None:
        """Whatever has to be there before the first start."""

    def _user(self) -> tuple[int, int] | None:
        """(uid, gid) to run as; None = as we are."""
        return None

    # --- what a user of it calls
    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, timeout_s: float = 60.0) -> None:
        """Returns when the server answers. Raises StackError; nothing is left running then."""
        if self.alive():
            return
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        self._prepare()
        if not is_free(self.port):
            raise StackError(f"{self.name}: port {self.port} of {HOST} is in use")
        self._process = self._launch(self._command())
        try:
            self._wait_until_ready(timeout_s)
        except BaseException:  # Ctrl-C while we wait included
            self.stop(timeout_s=5)
            raise

    def stop(self, timeout_s: float = 10.0) -> None:
        """Asks the server to end, and makes it after `timeout_s`. Data stays."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(self.stop_signal)
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    # --- inside
    def _launch(self, command: list[str]) -> subprocess.Popen[bytes]:
        uid, gid = self._user() or (-1, -1)
        launcher = [sys.executable, "-I", "-S", str(_LAUNCHER), str(os.getpid())]
        launcher += [str(int(self.stop_signal)), str(uid), str(gid), *command]

        def spawn() -> subprocess.Popen[bytes]:
            with self._open_log() as log:
                return subprocess.Popen(
                    launcher,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd="/",
                    env=_environment(),
                    start_new_session=True,
                    pass_fds=tuple(self.inherited_fds),
                )

        return _starter.submit(spawn).result()

    def _open_log(self) -> BinaryIO:
        grown = self.log_path.exists() and self.log_path.stat().st_size > _LOG_BYTES_MAX
        return self.log_path.open("wb" if grown else "ab")

    def _wait_until_ready(self, timeout_s: float) -> None:
        process = self._process
        assert process is not None
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if (code := process.poll()) is not None:
                raise self._failure(f"ended at once with exit code {code}")
            with contextlib.suppress(OSError):
                if self._answers():
                    return
            time.sleep(_POLL_S)
        raise self._failure(f"did not answer within {timeout_s:.0f} s")

    def _failure(self, why: str) -> StackError:
        return StackError(f"{self.name} {why}; see {self.log_path}\n{tail(self.log_path)}".rstrip())


def tail(path: Path, lines: int = _LOG_TAIL_LINES) -> str:
    """The last lines of a log, indented."""
    try:
        text = path.read_text(errors="replace")[-8_192:]
    except OSError:
        return ""
    return "\n".join(f"  {line}" for line in text.splitlines()[-lines:])


def run(
    command: Sequence[str | Path],
    what: str,
    user: tuple[int, int] | None = None,
    timeout_s: float = 60.0,
) -> str:
    """Runs a helper program to its end and returns what it printed, errors too. Raises StackError
    with `what` and its output."""
    uid, gid = user or (None, None)
    try:
        done = subprocess.run(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd="/",
            env=_environment(),
            timeout=timeout_s,
            user=uid,
            group=gid,
            extra_groups=None if user is None else [],
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StackError(f"{what} failed: {error}") from error
    output = done.stdout.decode(errors="replace").strip()
    if done.returncode:
        raise StackError(f"{what} failed with exit code {done.returncode}\n{output}")
    return output


def find_program(name: str, *folders: str) -> Path | None:
    """A program on PATH, or in one of the folders that a plain user's PATH often lacks."""
    found = shutil.which(name) or shutil.which(name, path=os.pathsep.join(folders))
    return Path(found) if found else None


def wheel_file(package: str, inside: str) -> Path:
    """A file or folder that a wheel of the extra `embedded` brings; the package is not imported.
    Raises StackError."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise StackError(f"{package} is not installed: pip install 'interaction-summary[embedded]'")
    return Path(spec.origin).parent / inside


def ask(port: int, question: bytes, answered: Callable[[bytes], bool]) -> bool:
    """Sends bytes to 127.0.0.1:`port` and shows the first bytes of the answer (4 at least, or
    none) to `answered`. Raises OSError."""
    with socket.create_connection((HOST, port), timeout=1) as connection:
        connection.settimeout(2)
        connection.sendall(question)
        answer = b""
        while len(answer) < 4 and (part := connection.recv(4_096)):
            answer += part
        return answered(answer)


def _environment() -> dict[str, str]:
    # Not ours: the servers read PGDATA, LISTENER_URL and their like, and would not be the ones we
    # describe.
    kept = ("PATH", "HOME", "TMPDIR", "JAVA_HOME")
    return {"LC_ALL": "C", **{name: os.environ[name] for name in kept if name in os.environ}}
