"""A worker process under test, and what a fault test does to it."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from cli.embedded.child_process import ChildProcess
from store.settings import Settings

ROOT = Path(__file__).parents[2]


class WorkerProcess:
    """One worker process, as `interaction-summary worker` starts it."""

    def __init__(
        self, name: str, settings: Settings, folder: Path, session_timeout_s: float = 6.0
    ) -> None:
        self.name = name
        self._log_path = folder / f"{name}.log"
        values = settings.model_dump() | {
            "worker_instance_id": name,
            "kafka_session_timeout_s": session_timeout_s,
        }
        self.env = os.environ | {k.upper(): str(v) for k, v in values.items()}
        self._started = False
        self._process = ChildProcess(
            [sys.executable, "-m", "cli.main", "worker"],
            environment=self.env,
            log_path=self._log_path,
            working_dir=ROOT,
            own_session=False,
        )
        self._mark = 0

    def start(self) -> None:
        """Start the process; its log continues."""
        self._started = True
        self._process.start()

    def signal(self, which: signal.Signals) -> None:
        """Send a signal to the process, if it runs."""
        self._process.send_signal(which)

    def kill(self) -> None:
        """End the process with SIGKILL."""
        self._process.kill()

    def stop(self) -> int:
        """Stop the process in order, also a frozen one; return its exit code."""
        self.signal(signal.SIGCONT)
        self._process.stop(15)
        return self._process.wait()

    def stop_if_started(self) -> None:
        """Stop the process unless it was never started."""
        if self._started:
            self.stop()

    def is_running(self) -> bool:
        """Return whether the process was started and has not ended."""
        return self._process.is_running()

    def exit_code(self) -> int | None:
        """Return the exit code; None while the process runs."""
        return self._process.exit_code()

    def revive(self) -> bool:
        """Start the process if it has ended, as a supervisor does; return whether it had."""
        if self._process.is_running():
            return False
        self.start()
        return True

    def mark_log(self) -> None:
        """Let `log_since_mark` begin here."""
        self._mark = len(self._log_path.read_bytes())

    def log_since_mark(self) -> str:
        """Return what the process has logged since `mark_log`."""
        return self._log_path.read_bytes()[self._mark :].decode(errors="replace")

    def log_tail(self, lines: int = 15) -> str:
        """Return the last lines of the log."""
        return "\n".join(self._log_path.read_text(errors="replace").splitlines()[-lines:])
