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
        self.process = ChildProcess(
            [sys.executable, "-m", "cli.main", "worker"],
            environment=os.environ | {k.upper(): str(v) for k, v in values.items()},
            log_path=self._log_path,
            working_dir=ROOT,
            own_session=False,
        )
        self._mark = 0

    def start(self) -> None:
        """Start the process; its log continues."""
        self.process.start()

    def signal(self, which: signal.Signals) -> None:
        """Send a signal to the process, if it runs."""
        self.process.send_signal(which)

    def kill(self) -> None:
        """End the process with SIGKILL."""
        self.process.kill()

    def stop(self) -> int:
        """Stop the process in order, also a frozen one; return its exit code."""
        self.signal(signal.SIGCONT)
        self.process.stop(15)
        return self.process.wait()

    def revive(self) -> bool:
        """Start the process if it has ended, as a supervisor does; return whether it had."""
        if self.process.is_running():
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
