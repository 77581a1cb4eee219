"""Child process with a log file and an end that is enforced, for servers and for our commands."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

_LAUNCHER: Final = Path(__file__).with_name("launch.py")
_TAIL_LINES: Final = 15
_TAIL_CHARACTERS: Final = 8_192

# Linux sends the parent-death signal when the *thread* that started the child ends. So one thread,
# which lives as long as the process, starts all children that end with their parent.
_starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="child-starter")


class ChildProcess:
    """A program that runs as a child process and writes to a log file.

    `start` may be called again after the process has ended. Standard input is empty. By default
    the child has a session of its own, so that Ctrl-C in our terminal does not reach it.

    Arguments:
        command: Absolute path of the program, then its arguments.
        environment: The whole environment of the child; nothing is inherited.
        log_path: Gets standard output and standard error, appended.
        working_dir: Working directory of the child.
        stop_signal: Signal that asks the program to end in an orderly way.
        ends_with_parent: On Linux, the child gets `stop_signal` when we end, in any way.
        user: (uid, gid) to run as, only with `ends_with_parent`; None keeps our user.
        own_session: False keeps the child in our session and process group.
        log_bytes_max: A larger log is emptied at the start; None = never.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        log_path: Path,
        working_dir: Path,
        stop_signal: signal.Signals = signal.SIGTERM,
        ends_with_parent: bool = False,
        user: tuple[int, int] | None = None,
        inherited_fds: Sequence[int] = (),
        own_session: bool = True,
        log_bytes_max: int | None = None,
    ) -> None:
        assert user is None or ends_with_parent, "only the launcher changes the user"
        self.command = list(command)
        self.log_path = log_path
        self._environment = dict(environment)
        self._working_dir = working_dir
        self._stop_signal = stop_signal
        self._ends_with_parent = ends_with_parent
        self._user = user
        self._inherited_fds = tuple(inherited_fds)
        self._own_session = own_session
        self._log_bytes_max = log_bytes_max
        self._log_start = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        return self._started().pid

    def start(self) -> None:
        """Start the program. Raises OSError if that is not possible."""
        assert not self.is_running(), f"{self.command} runs already"
        if self._ends_with_parent:
            uid, gid = self._user or (-1, -1)
            launcher = [sys.executable, "-I", "-S", str(_LAUNCHER), str(os.getpid())]
            launcher += [str(int(self._stop_signal)), str(uid), str(gid)]
            self._process = _starter.submit(self._spawn, launcher + self.command).result()
        else:
            self._process = self._spawn(self.command)

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def exit_code(self) -> int | None:
        """Return the exit code (negative: the signal that ended it), or None while it runs."""
        return self._started().poll()

    def wait(self, timeout_s: float | None = None) -> int:
        """Return the exit code when the process has ended; raise subprocess.TimeoutExpired."""
        return self._started().wait(timeout_s)

    def send_signal(self, which: signal.Signals) -> None:
        """Send a signal; does nothing if the process has ended."""
        with contextlib.suppress(ProcessLookupError):
            self._started().send_signal(which)

    def stop(self, timeout_s: float) -> bool:
        """Send the stop signal, and SIGKILL if the process runs longer than `timeout_s`.

        Returns when the process has ended: True if in time, False if it was killed.
        """
        self.send_signal(self._stop_signal)
        try:
            self.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            return False
        return True

    def kill(self) -> None:
        """Send SIGKILL and return when the process has ended."""
        self.send_signal(signal.SIGKILL)
        self.wait()

    def log(self) -> str:
        """Return the output since the last start."""
        return self.log_path.read_bytes()[self._log_start :].decode(errors="replace")

    def _started(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, f"{self.command} was never started"
        return self._process

    def _spawn(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        size = self.log_path.stat().st_size if self.log_path.exists() else 0
        empties = self._log_bytes_max is not None and size > self._log_bytes_max
        self._log_start = 0 if empties else size
        with open(self.log_path, "wb" if empties else "ab", opener=_for_us_only) as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._working_dir,
                env=self._environment,
                start_new_session=self._own_session,
                pass_fds=self._inherited_fds,
            )


def _for_us_only(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def tail(path: Path, lines: int = _TAIL_LINES) -> str:
    """Return the last lines of a log, indented; empty if there is no log."""
    try:
        text = path.read_text(errors="replace")[-_TAIL_CHARACTERS:]
    except OSError:
        return ""
    return "\n".join(f"  {line}" for line in text.splitlines()[-lines:])
