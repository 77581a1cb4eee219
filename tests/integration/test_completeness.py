"""Counters that start afresh answer only when they hold all that history has."""

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
