"""A command of ours that `up` runs as a child process: started, watched, started again when it
dies, and stopped."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from cli.console import CliError, say
from cli.embedded.server import tail

_LAUNCHER: Final = Path(__file__).with_name("launch.py")
_LOG_BYTES_MAX: Final = 20_000_000

RESTARTS_MAX: Final = 5
RESTARTS_WITHIN_S: Final = 300.0
RESTART_AFTER_S: Final = 1.0


class Child:
    """`interaction-summary NAME ARGUMENTS…`, logging to `folder`/NAME.log.

    It is out of reach of our terminal's Ctrl-C, so that we decide the order in which all end, and
    on Linux it ends when we do, however that is."""

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
        self._arguments = arguments
        self._environment = environment
        self._folder = folder
        self._stop_timeout_s = stop_timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._restarts_s: deque[float] = deque(maxlen=RESTARTS_MAX)
        self._restart_at_s: float | None = None

    def start(self) -> None:
        launcher = [sys.executable, "-I", "-S", str(_LAUNCHER), str(os.getpid())]
        launcher += [str(int(signal.SIGTERM)), "-1", "-1"]
        # -P: our modules from where we are installed, never from the folder we are run in.
        command = [sys.executable, "-P", "-m", "cli.main", self.name, *self._arguments]
        with self.log_path.open("wb" if self._log_is_large() else "ab") as log:
            self._process = subprocess.Popen(
                launcher + command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                env=dict(self._environment),
                start_new_session=True,
            )

    def ended(self) -> int | None:
        """The exit code (negative: the signal) of a child that ended by itself, else None."""
        return None if self._process is None else self._process.poll()

    def wait(self) -> int:
        assert self._process is not None
        return self._process.wait()

    def keep_alive(self) -> None:
        """To be called often: starts it again after it died, and says so. Raises CliError when it
        has died too often."""
        now_s = time.monotonic()
        if self._restart_at_s is not None:
            if now_s >= self._restart_at_s:
                self._restart_at_s = None
                self.start()
            return
        code = self.ended()
        if code is None:
            return
        why = self.last_words(code)
        if len(self._restarts_s) == RESTARTS_MAX and (
            now_s - self._restarts_s[0] < RESTARTS_WITHIN_S
        ):
            raise CliError(f"{why}; that was too often ({self.log_path})")
        say(f"{why}; starting it again")
        self._restarts_s.append(now_s)
        self._restart_at_s = now_s + RESTART_AFTER_S

    def last_words(self, code: int) -> str:
        """One line on how it ended."""
        if code < 0:
            return f"{self.name} was ended by {signal.Signals(-code).name}"
        last = tail(self.log_path, 1).strip()
        return f"{self.name} ended with exit code {code}" + (f": {last[:300]}" if last else "")

    def stop(self) -> None:
        """Asks it to end, and makes it when it takes too long."""
        process, self._process = self._process, None
        self._restart_at_s = None
        if process is None or process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            process.wait(self._stop_timeout_s)
        except subprocess.TimeoutExpired:
            say(f"{self.name} did not end within {self._stop_timeout_s:g} s and is killed")
            process.kill()
            process.wait()

    def _log_is_large(self) -> bool:
        return self.log_path.exists() and self.log_path.stat().st_size > _LOG_BYTES_MAX
