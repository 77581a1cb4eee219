"""Servers, child processes and processor times that the benches share.

Servers listen on 127.0.0.1 only and keep their data in a temporary folder. Both end with the bench.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import redis

from bench.cpu_time import cpu_s
from cli.embedded.child_process import ChildProcess, tail
from cli.embedded.server import Server
from cli.migrate import migrate_all
from cli.traffic.synthetic import Traffic
from store.settings import Settings
from streams.kafka.sender import Sender
from tests.support.services.start import start_services
from tests.support.services.tcp import TcpValkey

ROOT = Path(__file__).parent.parent
TENANT = "acme"


#: Sources of the servers: wheels as in `up`, or Apache Kafka's jars and Debian's packages.
KINDS = ("wheels", "real")


class Bench(NamedTuple):
    """Running servers with topics and tables, and their addresses."""

    settings: Settings
    env: Mapping[str, str]
    """Environment of child processes: without the settings of the shell that runs the bench."""
    pids: Mapping[str, int | None]
    """Server name -> process id, None if it has none."""
    folder: Path

    def cpu_s(self) -> dict[str, float]:
        """Return the seconds of processor time that each server has used so far."""
        return {name: cpu_s(pid, family=True) for name, pid in self.pids.items()}


@contextlib.contextmanager
def servers(kind: str = "wheels", **changes: Any) -> Iterator[Bench]:
    """Start broker, Valkey or Redis, and PostgreSQL, with topics and tables; stop them at the end.

    `kind` is one of KINDS. `changes` are settings that differ from the defaults. Raises StackError
    if a server is not available.
    """
    # Without this, SIGTERM would end the bench at once and leave its child processes running.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with temporary_folder() as folder, start_services(kind, durable=True) as services:
        processes = cast(tuple[Server, ...], services[1:])
        pids = {server.name: server.pid for server in processes}
        found = {
            "kafka_bootstrap_servers": services.kafka.bootstrap,
            "redis_url": services.redis.url,
            "database_url": services.postgres.url,
        }
        settings = Settings(**{**defaults(), **found, **changes})
        asyncio.run(migrate_all(settings))
        names = (*found, *changes)
        env = environment() | {name.upper(): str(getattr(settings, name)) for name in names}
        yield Bench(settings, env, pids, folder)


@contextlib.contextmanager
def counters_only(program: Path | None = None) -> Iterator[str]:
    """Start a Valkey without persistence, or `program` in its place; yield its URL."""
    with temporary_folder() as folder:
        valkey = TcpValkey(None, folder, program=program)
        valkey.start()
        try:
            client = redis.Redis.from_url(valkey.url)
            client.config_set("appendonly", "no")
            client.close()
            yield valkey.url
        finally:
            valkey.stop()


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="interaction-summary-bench-"))
    folder.chmod(0o755)  # PostgreSQL may have to run as a user of its own
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def environment() -> dict[str, str]:
    """Return the environment without the variables of our settings."""
    own = {name.upper() for name in Settings.model_fields}
    return {name: value for name, value in os.environ.items() if name.upper() not in own}


def defaults() -> dict[str, Any]:
    return {name: field.default for name, field in Settings.model_fields.items()}


class Process:
    """Python process of ours. `with` starts it and stops it: SIGTERM, then SIGKILL after 15 s."""

    def __init__(self, arguments: Sequence[str], env: Mapping[str, str], log: Path) -> None:
        self._child = ChildProcess(
            [sys.executable, "-m", *arguments], environment=env, log_path=log, working_dir=ROOT
        )

    def __enter__(self) -> Process:
        self._child.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._child.stop(15)

    def check(self) -> None:
        """Raise SystemExit if the process has ended."""
        if not self._child.is_running():
            command = " ".join(self._child.command)
            raise SystemExit(f"{command} ended:\n{tail(self._child.log_path)}")

    @property
    def pid(self) -> int:
        """Its process id, once it was started."""
        pid = self._child.pid
        assert pid is not None
        return pid

    def cpu_s(self) -> float:
        """Return the processor time that the process has used, in seconds."""
        return cpu_s(self._child.pid)


def wait_until(
    done: Callable[[], bool], process: Process, timeout_s: float, description: str
) -> None:
    """Poll every 20 ms until `done` returns True.

    Raises SystemExit if the process ends or the timeout expires.
    """
    deadline_s = time.monotonic() + timeout_s
    while not done():
        process.check()
        if time.monotonic() > deadline_s:
            raise SystemExit(f"timeout after {timeout_s:.0f} s while waiting for {description}")
        time.sleep(0.02)


async def produce(settings: Settings, events: int, customers: int) -> None:
    """Fill the topic with synthetic events of one tenant that occurred up to now."""
    traffic = Traffic(seed=1, customers=customers, tenants=(TENANT,))
    now_ms = time.time_ns() // 1_000_000
    async with Sender(settings, settings.interactions_topic) as sender:
        for _ in range(events):
            record = traffic.record(now_ms)
            await sender.send(record.key, record.value)
