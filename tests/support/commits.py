"""Commits to real counters, one by one: what tests of the scripts share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from store.counters import Generation
from store.records import Event
from store.redis.client import make_client
from store.redis.counters import RedisCounters
from store.settings import Settings
from store.windows import Calendar
from streams.aggregate import aggregate
from tests.support.contract import LOG
from tests.support.events import TODAY, sourced

UTC = Calendar("UTC")


@asynccontextmanager
async def opened(url: str, **limits: Any) -> AsyncIterator[tuple[Any, RedisCounters]]:
    """Yield a client of an empty Redis, and counters there, with `limits` of `RedisCounters`."""
    client: Any = make_client(Settings(redis_url=url), timeout_s=10, retries=0)
    try:
        await client.flushdb()
        yield client, RedisCounters(client, "is", **limits)
    finally:
        await client.aclose()


async def create(counters: RedisCounters) -> Generation:
    """Create the first generation of the tenant `acme`."""
    return await counters.create("acme", day=TODAY, timezone="UTC", complete=True, watermarks=())


async def commit(
    counters: RedisCounters,
    generation: Generation,
    batch: Sequence[Event],
    start: int,
    *,
    keep_pending: bool = False,
) -> Any:
    """Commit a batch of partition 0 that begins at the offset `start`; return the answer."""
    return await counters.commit(
        generation,
        topic_id=LOG,
        partition=0,
        expected_offset=start or None,
        next_offset=start + len(batch),
        deltas=aggregate(sourced(*batch, first=start), UTC),
        keep_pending=keep_pending,
    )
