"""Rebuild from history: the same counters as counting gave, also while a worker counts."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from store.counters import Activated, Committed
from store.records import GROUPINGS, CounterPage, Incomplete
from store.settings import Settings
from store.windows import PERIODS
from streams.commit import CounterCommitter
from streams.rebuild import RebuildError
from streams.rebuild.progress import Progress
from streams.tenant_state import RewindRequired
from tests.support.contract import LOG, Writer, assert_counts, question, start
from tests.support.events import NOW_MS, TODAY, make_event, sourced
from tests.support.stores import Stores, some_events

DAY = 86_400_000


def test_the_rebuilt_generation_answers_as_the_live_one_did(
    redis_url: str, database_url: str
) -> None:
    async def go() -> None:
        async with Stores(Settings(redis_url=redis_url, database_url=database_url)) as stores:
            batch = some_events(100)
            writer = await start(stores.counters)
            assert await writer.commit(batch) == Committed()
            await stores.store(batch, None)
            before = [
                await stores.counters.read(question(g, p)) for g in GROUPINGS for p in PERIODS
            ]
            done = await stores.rebuild()
            assert (done.events, done.generation, done.previous_generation) == (100, 2, 1)
            after = [await stores.counters.read(question(g, p)) for g in GROUPINGS for p in PERIODS]
            assert after == before
            assert all(isinstance(answer, CounterPage) for answer in after)

    asyncio.run(go())


def test_a_live_writer_is_sent_back_to_where_history_was_and_counts_nothing_twice(
    redis_url: str, database_url: str
) -> None:
    """The counters were ahead of history at the snapshot; the rest is read again from the topic.

    An event that a producer repeats is recognised by its identity.
    """

    async def go() -> None:
        async with Stores(Settings(redis_url=redis_url, database_url=database_url)) as stores:
            batch = some_events(60)
            await stores.store(batch[:40], None)

            async def utc(tenant: str) -> str:
                return "UTC"

            committer = CounterCommitter(
                stores.counters, stores.history, now_ms=lambda: NOW_MS, timezone_of=utc
            )
            committer.start_session(LOG, {0: 0})
            await committer.commit("acme", 0, sourced(*batch), 60)
            await stores.rebuild()
            asked = question("action", "alltime")
            assert await stores.counters.read(asked) == Incomplete("not_complete")
            more = [*some_events(3), batch[7]]
            with pytest.raises(RewindRequired):
                await committer.commit("acme", 0, sourced(*more, first=60), 64)
            generation = await stores.counters.generation("acme")
            assert generation is not None
            assert await stores.counters.watermarks(generation, LOG) == {0: 40}
            committer.start_session(LOG, {0: 40})
            await committer.commit("acme", 0, sourced(*batch[40:], *more, first=40), 64)
            await assert_counts(stores.counters, batch + more[:3], TODAY)

    asyncio.run(go())


def test_a_dry_run_and_a_rollback_leave_the_live_generation_as_it_was(
    redis_url: str, database_url: str
) -> None:
    async def go() -> None:
        async with Stores(Settings(redis_url=redis_url, database_url=database_url)) as stores:
            batch = some_events(30)
            writer = await start(stores.counters)
            await writer.commit(batch)
            await stores.store(batch[:10], None)
            await stores.rebuild(dry_run=True)
            await assert_counts(stores.counters, batch, TODAY)
            keys = {key async for key in stores.client.scan_iter("is:{acme/0}:2:*")}
            assert keys == set(), "a dry run leaves nothing behind"
            await stores.rebuild()
            asked = question("action", "alltime")
            assert await stores.counters.read(asked) == Incomplete("not_complete")
            assert await stores.counters.rollback("acme", now_ms=NOW_MS) == Activated(1, 3, [])
            await assert_counts(stores.counters, batch, TODAY)

    asyncio.run(go())


def test_whether_counters_and_history_are_even(redis_url: str, database_url: str) -> None:
    async def go() -> None:
        async with Stores(Settings(redis_url=redis_url, database_url=database_url)) as stores:
            batch = some_events(20)
            writer: Writer = await start(stores.counters)

            async def even() -> bool:
                marks = await stores.counters.all_watermarks(writer.generation)
                return await stores.history.matches_counters("acme", marks)

            assert await even()
            await writer.commit(batch)
            assert not await even(), "history lacks what counters have"
            await stores.store(batch, None)
            assert await even()
            await stores.store(some_events(5), 20)
            assert not await even(), "counters lack what history has"
            assert await stores.history.tenants() == ["acme"]

    asyncio.run(go())


def test_a_rebuild_that_cannot_go_on_leaves_nothing(redis_url: str, database_url: str) -> None:
    """The generation under construction is taken over by another rebuild."""

    async def go() -> None:
        async with Stores(Settings(redis_url=redis_url, database_url=database_url)) as stores:
            await stores.store(some_events(30), None)
            await start(stores.counters)

            def interfere(_: Progress) -> None:
                asyncio.get_running_loop().create_task(
                    stores.client.hset("is:{acme/0}:2:meta", "building", "another token")
                )

            with pytest.raises(RebuildError):
                await stores.rebuild(interfere)
            active = await stores.counters.generation("acme")
            assert active is not None
            assert active.number == 1

    asyncio.run(go())


async def generations_of(stores: Stores) -> set[int]:
    keys = [key.decode() async for key in stores.client.scan_iter("is:{acme/0}:*:meta")]
    return {int(key.split(":")[2]) for key in keys}


def test_only_the_generation_before_stays(redis_url: str, database_url: str) -> None:
    """Also after a rollback left a newer one, and after dry runs have used up numbers."""

    async def go() -> None:
        async with Stores(Settings(redis_url=redis_url, database_url=database_url)) as stores:
            await stores.store(some_events(3), None)
            await stores.rebuild()
            await stores.rebuild()
            await stores.counters.rollback("acme", now_ms=NOW_MS)
            for _ in range(7):
                await stores.rebuild(dry_run=True)
            await stores.rebuild()
            assert await generations_of(stores) == {1, 10}
            await stores.rebuild()
            assert await generations_of(stores) == {10, 11}

    asyncio.run(go())


def test_counters_that_only_a_rebuild_made_are_rolled_and_shown(
    redis_url: str, database_url: str
) -> None:
    """After a flush, for a tenant whose events are no longer in the topic."""

    async def go() -> None:
        async with Stores(Settings(redis_url=redis_url, database_url=database_url)) as stores:
            await stores.store(some_events(3), None)
            await stores.rebuild()
            assert await stores.counters.tenants() == ["acme"]

    asyncio.run(go())


def test_the_largest_batch_is_counted_whole_whatever_is_in_it(
    redis_url: str, database_url: str
) -> None:
    """The batch has one customer and as many offers as events.

    A script that failed half-way would keep the identities without their counts.
    """
    largest = next(
        bound.le
        for bound in Settings.model_fields["commit_batch_events"].metadata
        if hasattr(bound, "le")
    )

    async def go() -> None:
        async with Stores(Settings(redis_url=redis_url, database_url=database_url)) as stores:
            batch = [
                make_event(offer=f"off_{i}", occurred_ms=NOW_MS - i % 40 * DAY)
                for i in range(largest)
            ]
            writer = await start(stores.counters)
            assert await writer.commit(batch) == Committed()
            page = await stores.counters.read(question("customer", "alltime"))
            assert isinstance(page, CounterPage)
            assert [(g.total, g.unique_actions) for g in page.page.groups] == [(largest, largest)]

    asyncio.run(go())


def test_identities_that_share_a_half_are_rebuilt(redis_url: str, database_url: str) -> None:
    """The counters remember 64 of the 128 bits; history tells such events apart."""

    async def go() -> None:
        async with Stores(Settings(redis_url=redis_url, database_url=database_url)) as stores:
            first, other = some_events(2)
            twin = msgspec.structs.replace(other, event_id=first.event_id[:8] + bytes(8))
            await stores.store([first, twin], None)
            assert (await stores.rebuild()).events == 2
            await assert_counts(stores.counters, [first, twin], TODAY)

    asyncio.run(go())
