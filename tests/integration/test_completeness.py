"""New counters answer only when they have every event of history."""

from __future__ import annotations

import asyncio

import pytest

from store.settings import Settings
from streams.commit import CounterCommitter
from tests.support.contract import LOG
from tests.support.events import NOW_MS, sourced
from tests.support.stores import Stores, some_events

ROWS = 40


@pytest.mark.parametrize(
    ("start", "lost", "whole"),
    [
        pytest.param(0, None, True, id="the log reaches back to the first row"),
        pytest.param(10, None, False, id="retention took the log's beginning before"),
        pytest.param(0, (10, 5), False, id="retention took offsets while they were filled"),
        pytest.param(10, (3, 5), False, id="as well as before"),
    ],
)
def test_fresh_counters_answer_only_with_all_of_history(
    redis_url: str, database_url: str, start: int, lost: tuple[int, int] | None, whole: bool
) -> None:
    async def go() -> None:
        async with Stores(Settings(redis_url=redis_url, database_url=database_url)) as stores:
            batch = some_events(ROWS)
            await stores.store(batch, None)

            async def utc(tenant: str) -> str:
                return "UTC"

            committer = CounterCommitter(
                stores.counters, stores.history, now_ms=lambda: NOW_MS, timezone_of=utc
            )
            committer.start_session(LOG, {0: start})
            await committer.commit("acme", 0, sourced(*batch[start:20], first=start), 20)
            assert not await complete(stores), "half of it is counted"
            await committer.tenants.try_mark_complete("acme")
            assert not await complete(stores), "history has more"
            if lost is not None:
                await stores.counters.note_lost(LOG, 0, *lost)
            await committer.commit("acme", 0, sourced(*batch[20:], first=20), ROWS)
            assert await committer.tenants.try_mark_complete("acme") == whole
            assert await complete(stores) == whole

    asyncio.run(go())


async def complete(stores: Stores) -> bool:
    generation = await stores.counters.generation("acme")
    assert generation is not None
    return generation.complete


def test_a_truncated_topic_completes_no_counters_that_were_behind(
    redis_url: str, database_url: str
) -> None:
    """The previous generation was to read again what the topic has lost since.

    New records reach the offsets at which it would have been complete. History has the old ones.
    """

    async def go() -> None:
        async with Stores(Settings(redis_url=redis_url, database_url=database_url)) as stores:
            batch = some_events(ROWS)

            async def utc(tenant: str) -> str:
                return "UTC"

            committer = CounterCommitter(
                stores.counters, stores.history, now_ms=lambda: NOW_MS, timezone_of=utc
            )
            committer.start_session(LOG, {0: 0})
            await committer.commit("acme", 0, sourced(*batch[:10]), 10)
            await stores.store(batch[:10], None)
            await stores.rebuild()
            await committer.tenants.reload(await committer.tenants.get("acme"))
            await committer.commit("acme", 0, sourced(*batch[10:], first=10), ROWS)
            await stores.store(batch[10:], 10)
            await stores.counters.rollback("acme", now_ms=NOW_MS)
            committer.start_session(LOG, {0: 10})
            await committer.reset(0, 10, 20)
            other = some_events(ROWS)
            committer.start_session(LOG, {0: 10})
            await committer.commit("acme", 0, sourced(*other, first=10), 10 + ROWS)
            assert not await complete(stores)
            await committer.tenants.try_mark_complete("acme")
            assert not await complete(stores), "history has the rows that the topic lost"

    asyncio.run(go())
