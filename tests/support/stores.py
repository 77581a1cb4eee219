"""Counters and history of one test on real servers, and events to fill them with."""

from __future__ import annotations

from typing import Any, Self

from store.postgres.history import HistoryWriter
from store.postgres.pool import make_pool
from store.records import Event
from store.redis.client import make_client
from store.redis.counters import RedisCounters
from store.settings import Settings
from store.windows import DAY_MS
from streams.rebuild import Failure, Options, Rebuilder, RebuildError, RebuildResult
from streams.rebuild.progress import Report
from tests.support.contract import LOG
from tests.support.events import NOW_MS, make_event, sourced


def some_events(n: int) -> list[Event]:
    """Return `n` new events of five customers and three offers, over the last 50 days."""
    return [
        make_event(
            customer=f"C-{i % 5}",
            offer=f"off_{i % 3}",
            creative=None if i % 4 == 0 else f"cr_{i % 3}",
            outcome=("impression", "click", "convert")[i % 3],
            occurred_ms=NOW_MS - (i % 50) * DAY_MS,
        )
        for i in range(n)
    ]


class Stores:
    """Counters in Redis and history in PostgreSQL, opened by `async with`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.client: Any = make_client(settings, timeout_s=10, retries=0)
        self.counters = RedisCounters(self.client, "is")
        self.pool = make_pool(settings, max_size=3)
        self.history = HistoryWriter(self.pool)

    async def __aenter__(self) -> Self:
        await self.pool.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.pool.close()
        await self.client.aclose()

    async def store(self, batch: list[Event], first: int | None) -> None:
        """Write the batch to history, from offset `first`, or from 0 if it is the first batch."""
        begin = first or 0
        written = await self.history.write(
            topic="t",
            topic_id=LOG,
            partition=0,
            expected_offset=first,
            next_offset=begin + len(batch),
            events=sourced(*batch, first=begin),
        )
        assert isinstance(written, int), written

    async def rebuild(
        self, report: Report = lambda progress: None, **options: Any
    ) -> RebuildResult:
        """Rebuild the counters of `acme` from history, without Kafka, whatever is lost."""
        rebuilder = Rebuilder(
            self.settings, self.counters, self.pool, now_ms=lambda: NOW_MS, report=report
        )
        chosen = Options(source="history", force=True)._replace(**options)
        (outcome,) = [outcome async for outcome in rebuilder.rebuild(["acme"], chosen)]
        if isinstance(outcome, Failure):
            raise RebuildError(outcome.reason)
        return outcome
