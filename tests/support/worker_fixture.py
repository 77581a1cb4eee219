"""A worker process with clients of its servers, for tests of faults."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaProducer
from kafka.admin import KafkaAdminClient

from store.postgres.history import PostgresHistory
from store.postgres.pool import make_pool
from store.records import CounterPage, Event, Incomplete, Question, StoreUnavailable
from store.redis.client import make_client
from store.redis.counters import RedisCounters
from store.settings import Settings
from store.windows import Calendar, window_of
from tests.support.events import encode, make_event
from tests.support.waiting import TIMEOUT_S, eventually_async
from tests.support.worker_process import ROOT, WorkerProcess

UTC = Calendar("UTC")


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def make_events(n: int, *, customers: int = 50) -> list[Event]:
    return [
        make_event(customer=f"C-{i % customers}", offer=f"off_{i % 7}", occurred_ms=now_ms())
        for i in range(n)
    ]


class WorkerFixture:
    """A worker process, clients of its stores, and the events sent to it."""

    def __init__(self, settings: Settings, worker: WorkerProcess) -> None:
        self.settings, self.worker = settings, worker
        self.client: Any = make_client(settings, timeout_s=5, retries=0)
        self.counters = RedisCounters(self.client, settings.redis_prefix)
        self.pool = make_pool(settings, max_size=2)
        self.history = PostgresHistory(self.pool)
        self.sent: list[Event] = []

    def admin(self) -> KafkaAdminClient:
        return KafkaAdminClient(bootstrap_servers=self.settings.brokers)

    def command(self, *words: str) -> str:
        """Run `interaction-summary WORDS` on the same servers, and return its standard output."""
        done = subprocess.run(
            [sys.executable, "-m", "cli.main", *words],
            cwd=ROOT,
            env=self.worker.env,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    async def send(self, events: Sequence[Event], *, partition: int | None = None) -> None:
        """Send events, and return when Kafka has acknowledged all."""
        producer = AIOKafkaProducer(bootstrap_servers=self.settings.brokers, acks="all")
        await producer.start()
        try:
            sent = [
                await producer.send(
                    self.settings.interactions_topic,
                    encode(event),
                    key=event.customer.encode(),
                    partition=partition,
                )
                for event in events
            ]
            await asyncio.gather(*sent)
        finally:
            await producer.stop()
        self.sent += events

    def question(self) -> Question:
        today = UTC.day_of(now_ms())
        return Question(
            "acme", "action", "alltime", window_of("alltime", today), today, "UTC", 100, 0
        )

    async def counted(self) -> int | Incomplete | None:
        """Return how many events a reader finds in the counters; None: Redis does not answer."""
        try:
            answer = await self.counters.read(self.question())
        except StoreUnavailable:
            return None
        if isinstance(answer, CounterPage):
            return sum(group.total for group in answer.page.groups)
        assert isinstance(answer, Incomplete)  # no version was asked with
        return answer

    async def stored(self) -> int | None:
        """Return how many events history has; None: Postgres does not answer."""
        try:
            page = await self.history.read(self.question())
        except StoreUnavailable:
            return None
        return sum(group.total for group in page.groups)

    async def wait_counted(self, n: int, timeout_s: float = TIMEOUT_S) -> None:
        async def all_counted() -> bool:
            counted = await self.counted()
            assert counted == n, f"counted {counted}, not {n}\n{self.worker.log_tail(6)}"
            return True

        await eventually_async(all_counted, timeout_s=timeout_s, message=f"{n} events counted")

    async def wait_ended(self) -> int:
        """Wait until the worker has ended by itself; return its exit code."""

        async def ended() -> bool:
            return self.worker.exit_code() is not None

        await eventually_async(ended, message="the worker ends")
        code = self.worker.exit_code()
        assert code is not None
        return code

    async def wait_logged(self, text: str, timeout_s: float = TIMEOUT_S) -> None:
        async def logged() -> bool:
            return text in self.worker.log_tail(400)

        await eventually_async(logged, timeout_s=timeout_s, message=f"a log line with {text!r}")

    async def wait_stored(self, n: int, timeout_s: float = TIMEOUT_S) -> None:
        async def all_stored() -> bool:
            stored = await self.stored()
            assert stored == n, f"stored {stored}, not {n}\n{self.worker.log_tail(6)}"
            return True

        await eventually_async(all_stored, timeout_s=timeout_s, message=f"{n} events in history")


@asynccontextmanager
async def open_worker_fixture(
    settings: Settings, *, start: bool = True, **changes: Any
) -> AsyncIterator[WorkerFixture]:
    """Start a worker and connect to its servers; if the test fails, print the end of its log."""
    settings = settings.model_copy(update=changes)
    folder = Path(tempfile.mkdtemp(prefix="fixture-"))
    fixture = WorkerFixture(settings, WorkerProcess("fixture-worker", settings, folder))
    await fixture.pool.open()
    if start:
        fixture.worker.start()
    try:
        yield fixture
    except BaseException:
        sys.stderr.write(fixture.worker.log_tail(40))
        raise
    finally:
        fixture.worker.stop_if_started()
        await fixture.pool.close()
        await fixture.client.aclose()
