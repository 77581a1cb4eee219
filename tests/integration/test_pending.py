"""Deltas that are pending: what answers meanwhile, and what folds them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from unittest.mock import patch

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from store.audit import Correction
from store.counters import Committed, Generation
from store.records import CounterPage, Event, Incomplete
from store.redis import fold
from store.redis.audit import RawGroup
from store.redis.counters import RedisCounters
from streams.folds import PENDING_EVENTS_MAX, PENDING_MAX_S, Folds
from tests.support.commits import UTC, commit, create, opened
from tests.support.contract import LOG, assert_counts, question
from tests.support.events import NOW_MS, TODAY, events, make_event
from tests.support.oracle import groups_of, page_of


async def keep(
    counters: RedisCounters, generation: Generation, batch: Sequence[Event], start: int
) -> Committed:
    """Commit a batch that begins at `start`, and leave what can be left pending."""
    answer = await commit(counters, generation, batch, start, keep_pending=True)
    assert isinstance(answer, Committed), answer
    return answer


async def fold_all(counters: RedisCounters, generation: Generation) -> int:
    """Fold until nothing is pending; return the number of calls."""
    calls = 1
    while (await counters.fold(generation)).pending:
        calls += 1
    return calls


async def pending(counters: RedisCounters) -> int:
    page = await counters.read(question("action", "alltime"))
    assert isinstance(page, CounterPage), page
    return page.pending


def test_a_page_says_how_many_events_it_lacks_and_customers_lack_none(redis_url: str) -> None:
    async def go() -> None:
        async with opened(redis_url) as (_, counters):
            generation = await create(counters)
            batch = [make_event(customer=f"C-{n % 3}", offer=f"off_{n}") for n in range(10)]
            assert (await keep(counters, generation, batch[:4], 0)).pending == 4
            assert (await keep(counters, generation, batch[4:], 4)).pending == 10
            customers = await counters.read(question("customer", "weekly"))
            assert isinstance(customers, CounterPage)
            assert customers.pending == 0
            want = groups_of(batch, "customer", question("customer", "weekly").window, UTC)
            assert customers.page == page_of(want, 100, 0)
            actions = await counters.read(question("action", "weekly"))
            assert isinstance(actions, CounterPage)
            assert (actions.page.groups, actions.pending) == ([], 10)
            assert await fold_all(counters, generation) == 1
            await assert_counts(counters, batch, TODAY)
            assert await pending(counters) == 0

    asyncio.run(go())


def test_more_groups_than_one_call_changes_are_folded_by_several(redis_url: str) -> None:
    async def go() -> None:
        async with opened(redis_url) as (_, counters):
            generation = await create(counters)
            batch = [
                make_event(offer=f"off_{n}", creative=f"cr_{n}", occurred_ms=NOW_MS - n * 10**7)
                for n in range(fold.GROUPS)
            ]
            for start in range(0, fold.GROUPS, 50):
                await keep(counters, generation, batch[start : start + 50], start)
            assert await fold_all(counters, generation) >= 2
            await assert_counts(counters, batch, TODAY)

    asyncio.run(go())


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    batches=st.lists(
        st.lists(events(days=range(TODAY - 33, TODAY + 2)), min_size=1, max_size=6),
        min_size=1,
        max_size=6,
    ),
    folds=st.lists(st.integers(0, 3), min_size=6, max_size=6),
    part_bytes=st.integers(0, 400),
    groups=st.integers(1, 4),
)
def test_folds_of_any_size_between_commits_count_each_event_once(
    redis_url: str, batches: list[list[Event]], folds: list[int], part_bytes: int, groups: int
) -> None:
    """Parts are summed some at a time, and what a call leaves is found by the next one."""

    async def go() -> None:
        async with opened(redis_url) as (_, counters):
            generation = await create(counters)
            start = 0
            with patch.object(fold, "BYTES", part_bytes), patch.object(fold, "GROUPS", groups):
                for batch, calls in zip(batches, folds, strict=False):
                    left = (await keep(counters, generation, batch, start)).pending
                    start += len(batch)
                    for _ in range(calls):
                        after = (await counters.fold(generation)).pending
                        assert after <= left, "never more than before"
                        left = after
                await fold_all(counters, generation)
            await assert_counts(counters, [event for batch in batches for event in batch], TODAY)
            assert await pending(counters) == 0

    asyncio.run(go())


def test_groups_beyond_the_limit_are_the_same_however_they_are_folded(redis_url: str) -> None:
    """The order of events decides which groups are too many, so parts keep theirs."""
    batches = [[make_event(offer=f"off_{n}") for n in (3, 1)], [make_event(offer="off_2")]]
    batches += [[make_event(offer=f"off_{n}") for n in (1, 2, 9, 8)] for _ in range(3)]

    async def count(part_bytes: int, groups: int, *, keeps: bool) -> list[RawGroup]:
        async with opened(redis_url, groups_max=3) as (_, counters):
            generation = await create(counters)
            start = 0
            for batch in batches:
                await commit(counters, generation, batch, start, keep_pending=keeps)
                start += len(batch)
            with patch.object(fold, "BYTES", part_bytes), patch.object(fold, "GROUPS", groups):
                await fold_all(counters, generation)
            chunk = await counters.audited().read("acme", "action", ["off_3", "off_9", "__other__"])
            assert chunk is not None
            return [chunk.groups[id_] for id_ in ("off_3", "off_9", "__other__")]

    async def go() -> None:
        want = await count(0, 1, keeps=False)
        assert want[0].fields
        assert not want[1].fields
        assert want[2].fields
        assert await count(0, 1, keeps=True) == want
        assert await count(100, 2, keeps=True) == want
        assert await count(100_000, 100, keeps=True) == want

    asyncio.run(go())


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    batch=st.lists(events(days=range(TODAY - 33, TODAY + 2)), min_size=1, max_size=12),
    days=st.sampled_from((1, 6, 7, 31, 40)),
    roll_first=st.booleans(),
)
def test_midnight_between_a_commit_and_its_fold_changes_nothing(
    redis_url: str, batch: list[Event], days: int, roll_first: bool
) -> None:
    """Windows are those of the day of the fold, or of the roll that follows it."""

    async def roll(counters: RedisCounters, generation: Generation) -> None:
        while True:
            rolled = await counters.roll(generation, TODAY + days, now_ms=NOW_MS, records_max=3)
            if getattr(rolled, "finished", False):
                return

    async def go() -> None:
        async with opened(redis_url) as (_, counters):
            generation = await create(counters)
            await keep(counters, generation, batch, 0)
            if roll_first:
                await roll(counters, generation)
            await fold_all(counters, generation)
            await roll(counters, generation)
            await assert_counts(counters, batch, TODAY + days)

    asyncio.run(go())


def test_offers_beyond_the_limit_are_noticed_before_they_are_folded(redis_url: str) -> None:
    """Customers' distinct offers are unknown from the commit on, as without pending deltas."""

    async def go() -> None:
        async with opened(redis_url, groups_max=3) as (_, counters):
            generation = await create(counters)
            batch = [make_event(offer=f"off_{n}", customer=f"C-{n % 2}") for n in range(6)]
            await keep(counters, generation, batch, 0)
            capped = Incomplete("capped")
            assert await counters.read(question("customer", "alltime")) == capped
            answer = await counters.fold(generation)
            assert list(answer.overflow) == [("action", 3)]
            assert await counters.read(question("action", "alltime")) == capped

    asyncio.run(go())


def test_an_audit_folds_first(redis_url: str) -> None:
    async def go() -> None:
        async with opened(redis_url) as (_, counters):
            generation = await create(counters)
            await keep(counters, generation, [make_event(offer="off_1")], 0)
            chunk = await counters.audited().read("acme", "action", ["off_1"])
            assert chunk is not None
            assert chunk.groups["off_1"].fields, "the record is there"
            assert await pending(counters) == 0

    asyncio.run(go())


def test_a_repair_knows_how_many_events_are_counted_while_some_are_pending(redis_url: str) -> None:
    """A rebuild with fewer events is refused only where their number is known."""

    async def go() -> None:
        async with opened(redis_url) as (client, counters):
            generation = await create(counters)
            await commit(counters, generation, [make_event(offer="off_1")], 0)
            audited = counters.audited()
            chunk = await audited.read("acme", "action", ["off_1"])
            assert chunk is not None
            batch = [make_event(offer=f"off_{n % 3}") for n in range(5)]
            await keep(counters, generation, batch, 1)
            with patch.object(fold, "GROUPS", 1):
                assert (await counters.fold(generation)).pending == 5, "one group is changed"
            fix = [Correction("off_1", {"impression": 1}, {}, {})]
            assert await audited.adjust("acme", chunk.generation, "action", fix)
            assert await client.hget("is:{acme/0}:1:meta", "events") == b"7"

    asyncio.run(go())


def test_the_worker_folds_when_no_records_wait_and_when_much_or_old_is_pending(
    redis_url: str,
) -> None:
    async def go() -> None:
        async with opened(redis_url) as (_, counters):
            generation = await create(counters)
            clock = [0.0]
            folds = Folds(counters, on_answer=lambda *_: None, monotonic_s=lambda: clock[0])
            start = 0

            async def count(n: int, *, more: bool) -> int:
                nonlocal start
                answer = await keep(counters, generation, [make_event() for _ in range(n)], start)
                start += n
                await folds.after_commit(generation, answer.pending, more=more)
                return await pending(counters)

            assert await count(10, more=True) == 10, "records wait"
            assert await count(10, more=False) == 0
            assert await count(PENDING_EVENTS_MAX - 1, more=True) == PENDING_EVENTS_MAX - 1
            assert await count(1, more=True) == 0, "too much"
            assert await count(10, more=True) == 10
            await folds.fold_old()
            assert await pending(counters) == 10, "not old yet"
            clock[0] += PENDING_MAX_S
            await folds.fold_old()
            assert await pending(counters) == 0
            assert await count(10, more=True) == 10
            await folds.fold_all()
            assert await pending(counters) == 0

    asyncio.run(go())


def test_another_worker_finds_what_one_left_pending(redis_url: str) -> None:
    async def go() -> None:
        async with opened(redis_url) as (_, counters):
            generation = await create(counters)
            await keep(counters, generation, [make_event()], 0)
            (found,) = [each async for each in counters.active_counted(["acme"], LOG)]
            assert found.pending == 1
            folds = Folds(counters, on_answer=lambda *_: None, monotonic_s=lambda: 0.0)
            folds.note(found.generation, found.pending)
            await folds.fold_all()
            assert await pending(counters) == 0

    asyncio.run(go())
