"""The shape that every kind of server has for tests, and the faults they can be given."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from kafka.admin import KafkaAdminClient

from cli.embedded.server import Server


class Service(Protocol):
    """A server under test. After `kill` or `stop`, `start` brings it back on the same port with
    the same data (the wheels' broker keeps none)."""

    @property
    def name(self) -> str: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...
    def kill(self) -> None:
        """SIGKILL: it has no time to write anything."""

    def pause(self) -> None:
        """Frozen: connections stay open and nothing is answered."""

    def resume(self) -> None: ...
    def alive(self) -> bool: ...


class KafkaService(Service, Protocol):
    @property
    def bootstrap(self) -> str: ...


class UrlService(Service, Protocol):
    @property
    def url(self) -> str: ...


class Services(NamedTuple):
    kind: str
    kafka: KafkaService
    redis: UrlService
    postgres: UrlService


class Faults(Server):
    """Faults for a server that is our own child process."""

    _paused = False

    def kill(self) -> None:
        process = self._process
        if process is None:
            return
        for pid in _family(process.pid):
            _signal(pid, signal.SIGKILL)
        process.wait()
        self._process, self._paused = None, False

    def pause(self) -> None:
        assert self._process is not None, f"{self.name} does not run"
        # The parent first, which then has no more children; all of them, since PostgreSQL answers
        # from its children.
        _signal(self._process.pid, signal.SIGSTOP)
        for pid in _family(self._process.pid)[1:]:
            _signal(pid, signal.SIGSTOP)
        self._paused = True

    def resume(self) -> None:
        if self._process is not None and self._paused:
            for pid in reversed(_family(self._process.pid)):
                _signal(pid, signal.SIGCONT)
        self._paused = False

    def stop(self, timeout_s: float = 30.0) -> None:
        self.resume()  # a frozen process does not hear SIGTERM
        super().stop(timeout_s)


def revive(service: Service) -> None:
    """Whatever a test before did to it, it answers again."""
    service.resume()
    if not service.alive():
        service.start()


def create_topics(bootstrap: str, partitions: Mapping[str, int]) -> None:
    """Creates topics (name -> partitions) and returns when each has its leaders."""
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        admin.create_topics(
            {
                name: {"num_partitions": count, "replication_factor": 1}
                for name, count in partitions.items()
            },
            wait_for_metadata=True,
        )
    finally:
        admin.close()


def _family(pid: int) -> list[int]:
    """The process and its descendants, parents first."""
    parent_of: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue  # gone meanwhile
            parent_of[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    family = [pid]
    for member in family:
        family += [child for child, parent in parent_of.items() if parent == member]
    return family


def _signal(pid: int, which: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, which)
