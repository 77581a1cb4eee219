"""Start of the servers of one kind."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cli.embedded.server import StackError
from tests.support.services import real, wheels
from tests.support.services.base import Services


@contextmanager
def start_services(kind: str, *, durable: bool = False) -> Iterator[Services]:
    """Start servers of one kind, and stop them and delete their data at the end.

    `durable`: whether PostgreSQL waits for the disk; has no effect on containers. Raises
    StackError.
    """
    # Not pytest's own temporary folder: when we are root, PostgreSQL runs as another user, who has
    # no access to it.
    folder = Path(tempfile.mkdtemp(prefix="interaction-summary-"))
    folder.chmod(0o755)
    chosen: Services | None = None
    try:
        chosen = _choose(kind, folder, durable)
        for service in chosen[1:]:
            service.start()
        yield chosen
    finally:
        for service in reversed(chosen[1:] if chosen else ()):
            service.stop()
            if hasattr(service, "remove"):
                service.remove()
        shutil.rmtree(folder, ignore_errors=True)


def _choose(kind: str, folder: Path, durable: bool) -> Services:
    if kind == "real":
        return real.services(folder, durable=durable)
    if kind != "wheels":
        from tests.support.services import containers  # slow to import, and needed only here

        if containers.engine_answers():
            return containers.services()
        if kind == "docker":
            raise StackError("no Docker engine answers on this machine")
    return wheels.services(folder, durable=durable)
