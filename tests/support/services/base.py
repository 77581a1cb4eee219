"""The interface of every kind of server under test, and the faults it can be given."""

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
    """A server under test.

    After `kill` or `stop`, `start` runs it again on the same port with the same data (the broker
    from wheels keeps no data).
    """

    @property
    def name(self) -> str: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...
    def kill(self) -> None:
        """End the server by SIGKILL, so that it cannot write anything."""

    def pause(self) -> None:
        """Freeze the server: connections stay open and no request is answered."""

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
    """Faults of a server that is a child process."""

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
        # The parent first, so that it starts no more children; then its children, since those of
        # PostgreSQL answer the requests.
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
        self.resume()  # a frozen process does not handle SIGTERM
        super().stop(timeout_s)


def revive(service: Service) -> None:
    """Make the server answer again after the faults of an earlier test."""
    service.resume()
    if not service.alive():
        service.start()


def create_topics(
    bootstrap: str, partitions: Mapping[str, int], configs: Mapping[str, str] | None = None
) -> None:
    """Create topics (name -> partitions) and return when all partitions have a leader."""
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        admin.create_topics(
            {
                name: {
                    "num_partitions": count,
                    "replication_factor": 1,
                    "configs": dict(configs or {}),
                }
                for name, count in partitions.items()
            },
            wait_for_metadata=True,
        )
    finally:
        admin.close()


def _family(pid: int) -> list[int]:
    """Return the process and its descendants, parents first."""
    parent_of: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue  # the process has ended
            parent_of[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    family = [pid]
    for member in family:
        family += [child for child, parent in parent_of.items() if parent == member]
    return family


def _signal(pid: int, which: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, which)
