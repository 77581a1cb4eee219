"""Supervised command: one of our commands as a child process of `up`, restarted when it ends."""

from __future__ import annotations

import signal
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from cli.console import CliError, print_note
from cli.embedded.child_process import ChildProcess, tail

_LOG_BYTES_MAX: Final = 20_000_000

RESTARTS_MAX: Final = 5
RESTARTS_WITHIN_S: Final = 300.0
RESTART_AFTER_S: Final = 1.0


class Command:
    """`interaction-summary NAME ARGUMENTS…`, logging to `folder`/NAME.log.

    Ctrl-C in our terminal does not reach it, so that `up` decides the order in which all processes
    stop. On Linux it ends when `up` ends, in any way.
    """

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        folder: Path,
        *,
        stop_timeout_s: float,
    ) -> None:
        self.name = name
        self.log_path = folder / f"{name}.log"
        self._stop_timeout_s = stop_timeout_s
        self._process = ChildProcess(
            # -P: import our modules from the installation, never from the current folder.
            [sys.executable, "-P", "-m", "cli.main", name, *arguments],
            environment=environment,
            log_path=self.log_path,
            working_dir=folder,
            ends_with_parent=True,
            log_bytes_max=_LOG_BYTES_MAX,
        )
        self._restarts_s: deque[float] = deque(maxlen=RESTARTS_MAX)
        self._restart_at_s: float | None = None

    def start(self) -> None:
        self._process.start()

    def wait(self) -> int:
        """Return the exit code when the command has ended."""
        return self._process.wait()

    def keep_alive(self) -> None:
        """Restart the command if it has ended, after a delay, and print why; to be called often.

        Raises CliError if it ended more than RESTARTS_MAX times within RESTARTS_WITHIN_S.
        """
        now_s = time.monotonic()
        if self._restart_at_s is not None:
            if now_s >= self._restart_at_s:
                self._restart_at_s = None
                self.start()
            return
        code = self._process.exit_code()
        if code is None:
            return
        reason = self.describe_end(code)
        if len(self._restarts_s) == RESTARTS_MAX and (
            now_s - self._restarts_s[0] < RESTARTS_WITHIN_S
        ):
            raise CliError(
                f"{reason}; it ended more than {RESTARTS_MAX} times within {RESTARTS_WITHIN_S:g} s "
                f"(see {self.log_path})"
            )
        print_note(f"{reason}; starting it again")
        self._restarts_s.append(now_s)
        self._restart_at_s = now_s + RESTART_AFTER_S

    def describe_end(self, code: int) -> str:
        """Return one line on how the command ended, with the last line of its log."""
        if code < 0:
            return f"{self.name} was ended by {signal.Signals(-code).name}"
        last = tail(self.log_path, 1).strip()
        return f"{self.name} ended with exit code {code}" + (f": {last[:300]}" if last else "")

    def stop(self) -> None:
        """Stop the command with SIGTERM, and with SIGKILL after its stop timeout."""
        self._restart_at_s = None
        if self._process.is_running() and not self._process.stop(self._stop_timeout_s):
            print_note(f"{self.name} did not end within {self._stop_timeout_s:g} s and was killed")
