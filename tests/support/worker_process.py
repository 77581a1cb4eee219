"""A worker as a child process."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from store.settings import Settings

ROOT = Path(__file__).parents[2]


class WorkerProcess:
    """A worker process that can be frozen, killed, stopped and started again."""

    def __init__(
        self, name: str, settings: Settings, folder: Path, session_timeout_s: float = 6.0
    ) -> None:
        self.name = name
        self._log_path = folder / f"{name}.log"
        values = settings.model_dump()
        values |= {
            "worker_instance_id": name,
            "kafka_session_timeout_s": session_timeout_s,
        }
        self.env = os.environ | {k.upper(): str(v) for k, v in values.items()}
        self.process: subprocess.Popen[bytes] | None = None
        self._mark = 0

    def start(self) -> None:
        with self._log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "cli.main", "worker"],
                cwd=ROOT,
                env=self.env,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )

    def signal(self, which: signal.Signals) -> None:
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(which)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        assert self.process is not None
        self.process.wait()

    def stop(self) -> int:
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        assert self.process is not None
        try:
            return self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.kill()
            return -9

    def revive(self) -> bool:
        """Start the worker again if it has ended, as a supervisor does; return whether it had."""
        assert self.process is not None
        if self.process.poll() is None:
            return False
        self.start()
        return True

    def mark_log(self) -> None:
        self._mark = len(self._log_path.read_bytes())

    def log_since_mark(self) -> str:
        return self._log_path.read_bytes()[self._mark :].decode(errors="replace")

    def log_tail(self, lines: int = 15) -> str:
        return "\n".join(self._log_path.read_text(errors="replace").splitlines()[-lines:])
