"""Counters that lack events of a topic that was replaced are not complete."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable

from store.counters import Missing, Position
from store.offsets import Gap
from store.settings import Settings
from streams.completeness import complete
from streams.replaced_topics import note_uncounted
from tests.support.contract import LOG
from tests.support.events import TODAY, make_event, sourced
from tests.support.stores import Stores, some_events

NEW_TOPIC = str(uuid.uuid4())


def with_stores(redis_url: str, database_url: str, go: Callable[[Stores], Awaitable[None]]) -> None:
    """Run `go` on a history of 40 events of `acme`, and on empty counters."""

    async def run() -> None:
        settings = Settings(redis_url=redis_url, database_url=database_url)
        async with Stores(settings) as stores:
            await stores.store(some_events(40), None)
            await go(stores)

    asyncio.run(run())


async def missing_after(stores: Stores, tenant: str, counted: int) -> Missing:
    """Return what the counters lack that have counted so far, once a worker has looked."""
    generation = await stores.counters.create(
        tenant,
        day=TODAY,
        timezone="UTC",
        complete=True,
        watermarks=[Position(LOG, 0, counted), Position(NEW_TOPIC, 0, 0)],
    )
    await note_uncounted(stores.counters, stores.history, NEW_TOPIC)
    found = await stores.counters.generation(tenant)
    assert found is not None
    missing = await stores.counters.missing(generation)
    assert found.complete == (missing == Missing([], [], False))
    return missing


def test_counters_of_before_the_end_of_a_replaced_topic_are_not_complete(
    redis_url: str, database_url: str
) -> None:
    async def go(stores: Stores) -> None:
        missing = await missing_after(stores, "acme", 30)
        assert missing.gaps == [Gap(LOG, 0, 30, 40)]
        generation = await stores.counters.generation("acme")
        assert generation is not None
        assert not await complete(stores.counters, stores.history, generation, NEW_TOPIC)
        await stores.rebuild()
        generation = await stores.counters.generation("acme")
        assert generation is not None and generation.complete

    with_stores(redis_url, database_url, go)


def test_counters_that_have_all_of_a_replaced_topic_stay_complete(
    redis_url: str, database_url: str
) -> None:
    async def go(stores: Stores) -> None:
        assert (await missing_after(stores, "acme", 40)).gaps == []

    with_stores(redis_url, database_url, go)


def test_a_tenant_without_events_in_the_missing_part_stays_complete(
    redis_url: str, database_url: str
) -> None:
    async def go(stores: Stores) -> None:
        await stores.history.write(
            topic="t",
            topic_id=LOG,
            partition=0,
            expected_offset=40,
            next_offset=41,
            events=sourced(make_event(tenant="other"), first=40),
        )
        assert (await missing_after(stores, "other", 41)).gaps == []
        assert (await missing_after(stores, "quiet", 30)).gaps == []

    with_stores(redis_url, database_url, go)


def test_without_history_nothing_is_noted(redis_url: str, database_url: str) -> None:
    async def go(stores: Stores) -> None:
        await stores.pool.close()  # as if Postgres did not answer
        assert (await missing_after(stores, "acme", 30)).gaps == []

    with_stores(redis_url, database_url, go)
