"""Commit protocol of the counters when generations change and tenants appear during a session.

No event is skipped, whichever partition notices the change first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any
from unittest.mock import patch

import pytest

from store.counters import Committed, Floor, Generation
from store.records import CounterPage, Event, StoreUnavailable
from store.settings import Settings
from store.windows import DAY_MS
from streams.commit import CounterCommitter
from streams.tenant_state import RewindRequired
from tests.support.contract import LOG, assert_counts, question
from tests.support.events import NOW_MS, TODAY, make_event, sourced
from tests.support.stores import Stores, some_events


def committer_of(stores: Stores) -> CounterCommitter:
    async def utc(tenant: str) -> str:
        return "UTC"

    return CounterCommitter(stores.counters, stores.history, now_ms=lambda: NOW_MS, timezone_of=utc)


def with_stores(redis_url: str, database_url: str, go: Callable[[Stores], Awaitable[None]]) -> None:
    """Run the scenario `go` on empty stores."""

    async def run() -> None:
        async with Stores(Settings(redis_url=redis_url, database_url=database_url)) as stores:
            await go(stores)

    asyncio.run(run())


async def start_session(committer: CounterCommitter, earliest_offsets: Mapping[int, int]) -> None:
    """Start a session as a worker does after all partitions are assigned to it."""
    starts = await committer.counted(LOG, earliest_offsets)
    committer.start_session(LOG, starts, earliest_offsets)


async def total_of(stores: Stores, tenant: str) -> int:
    answer = await stores.counters.read(question("action", "alltime")._replace(tenant=tenant))
    assert isinstance(answer, CounterPage)
    return sum(group.total for group in answer.page.groups)


async def store(stores: Stores, partition: int, batch: Sequence[Event], first: int | None) -> None:
    """Write the batch to history, from offset `first`, or from 0 if it is the first batch."""
    begin = first or 0
    assert isinstance(
        await stores.history.write(
            topic="t",
            topic_id=LOG,
            partition=partition,
            expected_offset=first,
            next_offset=begin + len(batch),
            events=sourced(*batch, first=begin),
        ),
        int,
    )


def test_a_generation_behind_in_one_partition_is_noticed_in_another(
    redis_url: str, database_url: str
) -> None:
    """History has all of partition 0, but less of partition 1 than the counters had."""

    async def go(stores: Stores) -> None:
        zero, one, more = some_events(10), some_events(30), some_events(2)
        committer = committer_of(stores)
        committer.start_session(LOG, {0: 0, 1: 0})
        await committer.commit("acme", 0, sourced(*zero), 10)
        await committer.commit("acme", 1, sourced(*one), 30)
        await store(stores, 0, zero, None)
        await store(stores, 1, one[:20], None)
        await stores.rebuild()
        with pytest.raises(RewindRequired):
            await committer.commit("acme", 0, sourced(more[0], first=10), 11)
            await committer.commit("acme", 1, sourced(more[1], first=30), 31)
        committer.start_session(LOG, {0: 10, 1: 20})
        await committer.commit("acme", 0, sourced(more[0], first=10), 11)
        await committer.commit("acme", 1, sourced(*one[20:], more[1], first=20), 31)
        await assert_counts(stores.counters, [*zero, *one, *more], TODAY)

    with_stores(redis_url, database_url, go)


async def report(stores: Stores, offsets: Mapping[int, int], end: int | None = None) -> None:
    """Report that the workers have counted to these offsets, as they do twice a second."""
    instance = await stores.counters.instance()
    floors = {p: Floor(offset, end, instance) for p, offset in offsets.items()}
    await stores.counters.report_floors(LOG, floors)


def test_a_new_tenant_sends_no_worker_back(redis_url: str, database_url: str) -> None:
    """Its watermarks begin where the workers are now, not where its creator's session began."""

    async def go(stores: Stores) -> None:
        earliest = {0: 0, 1: 0}
        creator, other = committer_of(stores), committer_of(stores)
        for committer in (creator, other):
            committer.start_session(LOG, earliest)
        before = some_events(3_000)
        await creator.commit("acme", 0, sourced(*before[:10]), 10)
        await other.commit("acme", 1, sourced(*before[10:]), 2_990)
        await report(stores, {0: 10, 1: 2_990})
        await start_session(other, earliest)
        first, second = (make_event(tenant="new", customer=f"C-{n}") for n in range(2))
        await creator.commit("new", 0, sourced(first, first=10), 11)
        new = await active(stores, "new")
        assert await stores.counters.watermarks(new, LOG) == {0: 11, 1: 2_990}
        await other.commit("new", 1, sourced(second, first=2_990), 2_991)
        assert await total_of(stores, "new") == 2

    with_stores(redis_url, database_url, go)


def test_a_copy_counts_where_the_first_one_was_rejected(redis_url: str, database_url: str) -> None:
    """It was redriven. The tenant's counters begin after the first one, which is read again."""

    async def go(stores: Stores) -> None:
        committer = committer_of(stores)
        await report(stores, {0: 7})
        committer.start_session(LOG, {0: 0})
        first, second = some_events(2)
        batch = sourced(first, second, first=5) + sourced(first, second, first, first=7)
        await committer.commit("acme", 0, batch, 11)
        await assert_counts(stores.counters, [first, second], TODAY)

    with_stores(redis_url, database_url, go)


@pytest.mark.parametrize("by_creator", [False, True])
def test_a_tenant_whose_creation_was_lost_is_not_complete(
    redis_url: str, database_url: str, by_creator: bool
) -> None:
    """A failover loses the last second of one node, and a worker creates the tenant again."""

    async def go(stores: Stores) -> None:
        earliest = {0: 0, 1: 0}
        workers = [committer_of(stores), committer_of(stores)]
        for committer in workers:
            committer.start_session(LOG, earliest)
        await workers[0].commit("acme", 0, [], 11)
        await workers[1].commit("acme", 1, [], 11)
        await workers[0].commit("new", 0, sourced(make_event(tenant="new")), 11)
        assert (await active(stores, "new")).complete
        await report(stores, {0: 11, 1: 11})
        keys = await stores.client.keys("is:{new/0}:*")
        await stores.client.delete(*keys)
        first = 0 if by_creator else 1
        for partition in (first, 1 - first):
            committer = workers[partition]
            await start_session(committer, earliest)
            again = make_event(tenant="new", customer=f"C-{partition}")
            await committer.commit("new", partition, sourced(again, first=11), 12)
        assert not (await active(stores, "new")).complete

    with_stores(redis_url, database_url, go)


async def active(stores: Stores, tenant: str) -> Generation:
    generation = await stores.counters.generation(tenant)
    assert generation is not None
    return generation


def test_a_floor_of_another_instance_is_not_trusted(redis_url: str, database_url: str) -> None:
    """Redis has restarted since, and may have lost the tenant's counters below it."""

    async def go(stores: Stores) -> None:
        committer = committer_of(stores)
        await stores.counters.report_floors(LOG, {0: Floor(7, 7, "another")})
        committer.start_session(LOG, {0: 0})
        first, second = some_events(2)
        await committer.commit("acme", 0, sourced(first), 1)
        await committer.commit("acme", 0, sourced(second, first=7), 8)
        await assert_counts(stores.counters, [first, second], TODAY)

    with_stores(redis_url, database_url, go)


def test_a_new_tenant_begins_where_a_partition_was_truncated(
    redis_url: str, database_url: str
) -> None:
    """Its creator reads another partition, and its session began before the truncation."""

    async def go(stores: Stores) -> None:
        earliest = {0: 0, 1: 0}
        creator, other = committer_of(stores), committer_of(stores)
        other.start_session(LOG, earliest)
        await other.commit("acme", 0, sourced(*some_events(20)), 20)
        await other.commit("acme", 1, [], 5)
        await start_session(creator, earliest)
        await other.reset(0, 5, 10)
        await report(stores, {0: 5}, end=10)
        event = sourced(make_event(tenant="new"), first=5)
        with pytest.raises(RewindRequired):
            await creator.commit("new", 1, event, 6)
        await start_session(creator, earliest)
        await creator.commit("new", 1, event, 6)
        await start_session(other, earliest)
        await other.commit("new", 0, sourced(make_event(tenant="new"), first=5), 6)
        assert await total_of(stores, "new") == 2

    with_stores(redis_url, database_url, go)


def test_a_rollback_behind_the_session_is_noticed_for_a_tenant_without_events_before(
    redis_url: str, database_url: str
) -> None:
    """The session starts after all is counted, and has seen no event of the tenant.

    Then the tenant's counters are rolled back to a generation that has fewer events.
    """

    async def go(stores: Stores) -> None:
        batch, more = some_events(20), some_events(1)
        before = committer_of(stores)
        before.start_session(LOG, {0: 0})
        await before.commit("acme", 0, sourced(*batch[:15]), 15)
        await store(stores, 0, batch[:15], None)
        await stores.rebuild()
        before.start_session(LOG, {0: 15})
        await before.commit("acme", 0, sourced(*batch[15:], first=15), 20)
        committer = committer_of(stores)
        committer.start_session(LOG, {0: 20})
        await stores.counters.rollback("acme", now_ms=NOW_MS)
        with pytest.raises(RewindRequired):
            await committer.commit("acme", 0, sourced(*more, first=20), 21)

    with_stores(redis_url, database_url, go)


def test_a_generation_without_a_watermark_of_a_partition_is_behind_there(
    redis_url: str, database_url: str
) -> None:
    """History has nothing of partition 1 when the rebuild reads it."""

    async def go(stores: Stores) -> None:
        zero, one, more = some_events(10), some_events(30), some_events(2)
        committer = committer_of(stores)
        committer.start_session(LOG, {0: 0, 1: 0})
        await committer.commit("acme", 0, sourced(*zero), 10)
        await committer.commit("acme", 1, sourced(*one), 30)
        await store(stores, 0, zero, None)
        await stores.rebuild()
        with pytest.raises(RewindRequired):
            await committer.commit("acme", 0, sourced(more[0], first=10), 11)
            await committer.commit("acme", 1, sourced(more[1], first=30), 31)

    with_stores(redis_url, database_url, go)


def test_all_tenants_of_a_commit_batch_have_counters_before_one_is_counted(
    redis_url: str, database_url: str
) -> None:
    """A crash between the commits of two tenants must not skip the second one's events.

    Without counters the second tenant is unknown at the next start; its counters would start at the
    lowest watermark of the known tenants, which is above its first event.
    """

    async def go(stores: Stores) -> None:
        acme, umbrella = sourced(*some_events(5)), sourced(make_event(tenant="umbrella"), first=5)
        committer = committer_of(stores)
        committer.start_session(LOG, {0: 0})
        assert await committer.tenants.refuse_excess(["acme", "umbrella"]) == set()
        await committer.commit("acme", 0, acme, 6)
        # The worker crashes here.
        committer = committer_of(stores)
        await start_session(committer, {0: 0})
        assert await committer.tenants.refuse_excess(["acme", "umbrella"]) == set()
        await committer.commit("acme", 0, acme, 6)
        await committer.commit("umbrella", 0, umbrella, 6)
        assert await total_of(stores, "umbrella") == 1

    with_stores(redis_url, database_url, go)


def test_reading_starts_at_the_earliest_offset_if_a_tenant_has_no_watermark(
    redis_url: str, database_url: str
) -> None:
    """Partition 1 was added, and a worker crashed after it counted one of two tenants there."""

    async def go(stores: Stores) -> None:
        committer = committer_of(stores)
        committer.start_session(LOG, {0: 0})
        await committer.tenants.refuse_excess(["acme", "umbrella"])
        committer.start_session(LOG, {0: 0, 1: 0})
        await committer.commit("acme", 1, sourced(*some_events(5)), 6)
        assert await committer_of(stores).counted(LOG, {0: 0, 1: 0}) == {0: 0, 1: 0}

    with_stores(redis_url, database_url, go)


def test_a_rollback_is_noticed_without_an_event(redis_url: str, database_url: str) -> None:
    """No later event would make the worker read again what the older generation lacks."""

    async def go(stores: Stores) -> None:
        batch = some_events(20)
        committer = committer_of(stores)
        committer.start_session(LOG, {0: 0})
        await committer.commit("acme", 0, sourced(*batch[:15]), 15)
        await store(stores, 0, batch[:15], None)
        await stores.rebuild()
        await committer.commit("acme", 0, sourced(*batch[15:], first=15), 20)
        await stores.counters.rollback("acme", now_ms=NOW_MS)
        active = await stores.counters.generation("acme")
        assert active is not None
        with pytest.raises(RewindRequired):
            await committer.tenants.adopt_generation(active)
        await start_session(committer, {0: 0})
        await committer.commit("acme", 0, sourced(*batch[15:], first=15), 20)
        await assert_counts(stores.counters, batch, TODAY)

    with_stores(redis_url, database_url, go)


def test_counters_are_not_marked_complete_before_a_session_starts(
    redis_url: str, database_url: str
) -> None:
    """A worker checks tenants before it knows the id of the topic."""

    async def go(stores: Stores) -> None:
        await store(stores, 0, some_events(5), None)
        committer = committer_of(stores)
        await stores.counters.create(
            "acme", day=TODAY, timezone="UTC", complete=False, watermarks=[]
        )
        assert not await committer.tenants.try_mark_complete("acme")

    with_stores(redis_url, database_url, go)


def test_a_duplicate_is_recognized_after_days_without_a_worker(
    redis_url: str, database_url: str
) -> None:
    """Event and duplicate arrived an hour apart, before three days without a worker.

    The roll forgets identities by the arrival watermark, not by the clock.
    """

    async def go(stores: Stores) -> None:
        event, then = make_event(), NOW_MS
        committer = committer_of(stores)
        committer.start_session(LOG, {0: 0})
        await committer.commit("acme", 0, sourced(event, recorded_ms=then), 1)
        await stores.counters.reports.report_arrivals(LOG, {0: then, 1: then + 3 * DAY_MS})
        generation = await stores.counters.generation("acme")
        assert generation is not None
        arrived_ms = min((await stores.counters.reports.arrivals(LOG)).values())
        await stores.counters.roll(generation, TODAY + 3, now_ms=arrived_ms, records_max=100)
        committer.start_session(LOG, {0: 1})
        duplicate = sourced(event, first=1, recorded_ms=then + 3_600_000)
        await committer.commit("acme", 0, duplicate, 2)
        await assert_counts(stores.counters, [event], TODAY + 3)

    with_stores(redis_url, database_url, go)


def test_tenants_that_are_behind_are_returned_lowest_watermark_first(
    redis_url: str, database_url: str
) -> None:
    """The lowest watermark is where the next start begins to read, so it is moved first."""

    async def go(stores: Stores) -> None:
        committer = committer_of(stores)
        await start_session(committer, {0: 0, 1: 0})
        for tenant, offset in (("a", 20), ("b", 5), ("c", 10)):
            event = make_event(tenant=tenant)
            await committer.commit(tenant, 0, sourced(event, first=offset - 1), offset)
        assert committer.tenants.behind(0, 20) == ["b", "c"]
        assert committer.tenants.behind(0, 5) == []
        assert committer.tenants.behind(1, 0) == []
        assert set(committer.tenants.behind(1, 1)) == {"a", "b", "c"}
        await committer.commit("b", 0, [], 20)
        assert committer.tenants.behind(0, 20) == ["c"]

    with_stores(redis_url, database_url, go)


def test_what_a_commit_without_an_answer_left_pending_is_folded(
    redis_url: str, database_url: str
) -> None:
    """It was made; only its refusal, when it is sent again, tells the worker of it."""

    async def go(stores: Stores) -> None:
        committer = committer_of(stores)
        await start_session(committer, {0: 0})
        await committer.commit("acme", 0, sourced(make_event()), 1)
        send = stores.counters.commit
        with patch.object(stores.counters, "commit") as commit:

            async def lose(*args: Any, **options: Any) -> Any:
                commit.side_effect = send
                assert await send(*args, **options) == Committed(pending=1)
                raise StoreUnavailable("connection lost")

            commit.side_effect = lose
            await committer.commit("acme", 0, sourced(make_event(), first=1), 2, more=True)
            assert commit.await_count == 2
        assert await total_of(stores, "acme") == 1
        await committer.folds.fold_all()
        assert await total_of(stores, "acme") == 2

    with_stores(redis_url, database_url, go)
