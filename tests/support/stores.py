"""Counters and history of one test, on real servers."""

from __future__ import annotations

from typing import Any

from store.postgres.history import HistoryWriter
from store.postgres.pool import make_pool
from store.records import Catalog, Event
from store.redis.client import make_client
from store.redis.counters import RedisCounters
from store.settings import Settings
from streams.rebuild import rebuild_from_history
from tests.support.contract import LOG
from tests.support.events import NOW_MS, make_event, sourced

DAY = 86_400_000


def some_events(n: int) -> list[Event]:
    return [
        make_event(
            customer=f"C-{i % 5}",
            offer=f"off_{i % 3}",
            creative=None if i % 4 == 0 else f"cr_{i % 3}",
            outcome=("impression", "click", "convert")[i % 3],
            occurred_ms=NOW_MS - (i % 50) * DAY,
        )
        for i in range(n)
    ]


class Stores:
    def __init__(self, settings: Settings) -> None:
        self.client: Any = make_client(settings, timeout_s=10, retries=0)
        self.counters = RedisCounters(self.client, "is")
        self.pool = make_pool(settings, max_size=3)
        self.history = HistoryWriter(self.pool)

    async def __aenter__(self) -> Stores:
        await self.pool.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.pool.close()
        await self.client.aclose()

    async def store(self, batch: list[Event], first: int | None) -> None:
        begin = first or 0
        await self.history.write(
            topic="t",
            topic_id=LOG,
            partition=0,
            first=first,
            next_offset=begin + len(batch),
            events=sourced(*batch, first=begin),
        )

    async def rebuild(self, **options: Any) -> Any:
        return await rebuild_from_history(
            self.counters,
            self.pool,
            Catalog("acme", "UTC"),
            now_ms=lambda: NOW_MS,
            batch_events=7,
            dedup_horizon_h=48,
            arrived_ms=NOW_MS,
            **options,
        )
