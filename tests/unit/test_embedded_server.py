"""A server of the embedded stack that cannot be started at all."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import ClassVar

import pytest

from cli.embedded.server import TcpServer


class Sleeper(TcpServer):
    name: ClassVar[str] = "sleeper"

    def _command(self) -> list[str]:
        return [sys.executable, "-c", "import time; time.sleep(60)"]

    def _answers(self) -> bool:
        return True


def test_a_server_that_was_never_started_can_be_stopped(tmp_path: Path) -> None:
    """The error of the start reaches the caller; the stop that follows it does nothing."""
    log_path = tmp_path / "sleeper.log"
    log_path.mkdir()  # the log cannot be opened
    server = Sleeper(None, log_path)
    with pytest.raises(IsADirectoryError):
        server.start()
    server.stop()
    assert server.pid is None
    assert not server.alive()
