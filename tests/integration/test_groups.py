"""Reads of one group and of counts per day: when the counters must not answer, and shards."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence

import pytest

from store.counters import Committed
from store.records import (
    GROUPINGS,
    CountedGroup,
    CountedTrend,
    Event,
    Grouping,
    GroupQuestion,
    Incomplete,
    TrendQuestion,
)
from store.redis.counters import RedisCounters
from store.settings import Settings
from store.shards import by_shard, shard_of
from store.windows import PERIODS, Window, exact_window, window_of
from tests.support.commits import UTC, commit, create, opened
from tests.support.contract import Writer, start
from tests.support.events import NOW_MS, TODAY, make_event, sourced
from tests.support.oracle import groups_of, trend_counts
from tests.support.pipeline_fixture import open_pipeline, values_of

SHARDS = 3
EVERYTHING = Window(None, None)


def group(group_by: Grouping, id_: str, *, today: int = TODAY) -> GroupQuestion:
    return GroupQuestion("acme", group_by, id_, today, "UTC")


def trend(
    group_by: Grouping, id_: str | None = None, *, days: int = 31, today: int = TODAY
) -> TrendQuestion:
    return TrendQuestion("acme", group_by, id_, exact_window(days, today), today, "UTC")


async def assert_answers(counters: RedisCounters, counted: Sequence[Event], today: int) -> None:
    """Compare some groups and trends of the counters with the expected counts."""
    for group_by in GROUPINGS:
        ids = [found.id for found in groups_of(counted, group_by, EVERYTHING, UTC)]
        for id_ in ids[:5]:
            answer = await counters.read_group(group(group_by, id_, today=today))
            assert isinstance(answer, CountedGroup), answer
            assert answer.found is not None
            for period in PERIODS:
                groups = groups_of(counted, group_by, window_of(period, today), UTC)
                want = {each.id: each for each in groups}.get(id_)
                assert answer.found[period].counts == (want.counts if want else {})
                if group_by == "customer":
                    unique = want.unique_actions if want else 0
                    assert answer.found[period].unique_actions == unique
        # the sum of customers is asked of the actions
        sums: list[str | None] = [] if group_by == "customer" else [None]
        for one in (*ids[:5], *sums):
            for days in (1, 7, 31):
                found = await counters.read_trend(trend(group_by, one, days=days, today=today))
                assert isinstance(found, CountedTrend), found
                window = exact_window(days, today)
                assert found.found == trend_counts(counted, group_by, one, window, UTC)


def test_a_group_that_may_be_pending_is_not_unknown(redis_url: str) -> None:
    async def go() -> None:
        async with opened(redis_url) as (_, counters):
            generation = await create(counters)
            batch = [make_event(customer="C-1", offer="gold")]
            answer = await commit(counters, generation, batch, 0, keep_pending=True)
            assert isinstance(answer, Committed)
            assert await counters.read_group(group("action", "gold")) == Incomplete("pending")
            assert await counters.read_trend(trend("action", "gold")) == Incomplete("pending")
            summed = await counters.read_trend(trend("action"))
            assert summed == CountedTrend({}, 0, pending=1)
            # nothing of customers is ever pending
            assert await counters.read_group(group("customer", "C-2")) == CountedGroup(None, 0)
            await counters.fold(generation)
            await assert_answers(counters, batch, TODAY)
            assert await counters.read_group(group("action", "blue")) == CountedGroup(None, 0)
            assert await counters.read_trend(trend("action", "blue")) == CountedTrend(None, 0)

    asyncio.run(go())


@pytest.mark.parametrize("group_by", ["action", "customer"])
def test_a_lost_record_is_not_an_unknown_group(redis_url: str, group_by: Grouping) -> None:
    async def go() -> None:
        async with opened(redis_url) as (client, counters):
            writer = await start(counters)
            await writer.commit([make_event(customer="x", offer="x")])
            code = "a" if group_by == "action" else "u"
            assert await client.delete(f"is:{{acme/0}}:{writer.generation.number}:{code}:x") == 1
            lost = Incomplete("lost_record")
            assert await counters.read_group(group(group_by, "x")) == lost
            assert await counters.read_trend(trend(group_by, "x")) == lost
            if group_by == "action":
                assert await counters.read_trend(trend("action")) == lost

    asyncio.run(go())


def test_counters_that_are_not_those_of_the_question_do_not_answer(redis_url: str) -> None:
    async def go() -> None:
        async with opened(redis_url) as (client, counters):
            questions = (group("action", "gold"), group("customer", "C-1"))
            trends = (trend("action", "gold"), trend("action"), trend("customer", "C-1"))

            async def reasons(move_days: int = 0, timezone: str = "UTC") -> set[object]:
                today = TODAY + move_days
                found: list[object] = [
                    await counters.read_group(q._replace(today=today, timezone=timezone))
                    for q in questions
                ]
                found += [
                    await counters.read_trend(q._replace(today=today, timezone=timezone))
                    for q in trends
                ]
                return {each.reason if isinstance(each, Incomplete) else each for each in found}

            assert await reasons() == {"no_generation"}
            writer = await start(counters)
            await writer.commit([make_event(offer="gold")])
            assert await reasons(1) == {"other_day"}
            assert await reasons(timezone="Asia/Tokyo") == {"other_timezone"}
            meta = f"is:{{acme/0}}:{writer.generation.number}:meta"
            await client.hset(meta, "rolled", TODAY - 1)
            assert await reasons() == {"rolling"}
            await client.hset(meta, mapping={"rolled": TODAY, "complete": 0})
            assert await reasons() == {"not_complete"}

    asyncio.run(go())


def test_more_groups_or_offers_than_are_counted_are_not_answered(redis_url: str) -> None:
    async def go() -> None:
        async with opened(redis_url, groups_max=2, offers_max=2) as (_, counters):
            writer = await start(counters)
            await writer.commit([make_event(offer=f"off_{i}", channel="c") for i in range(3)])
            capped = Incomplete("capped")
            for asked in (
                group("action", "off_0"),
                group("action", "__other__"),
                group("customer", "C-1"),
            ):
                assert await counters.read_group(asked) == capped
            assert await counters.read_trend(trend("action")) == capped
            channel = await counters.read_group(group("channel", "c"))
            assert isinstance(channel, CountedGroup)

    asyncio.run(go())


def test_the_sum_of_too_many_groups_is_left_to_history(redis_url: str) -> None:
    async def go() -> None:
        async with opened(redis_url) as (_, counters):
            writer = await start(counters)
            await writer.commit([make_event(offer=f"off_{i}") for i in range(400)])
            for days in (1, 31):
                summed = await counters.read_trend(trend("action", days=days))
                assert summed == CountedTrend({TODAY: {"impression": 400}}, 0)
            await writer.commit([make_event(offer=f"off_{i}") for i in range(400, 857)])
            assert await counters.read_trend(trend("action")) == Incomplete("too_many_groups")
            summed = await counters.read_trend(trend("action", days=1))
            assert summed == CountedTrend({TODAY: {"impression": 857}}, 0)
            await writer.commit([make_event(offer="off_857")])
            found = await counters.read_trend(trend("action", days=1))
            assert found == Incomplete("too_many_groups")
            one = await counters.read_trend(trend("action", "off_7"))
            assert one == CountedTrend({TODAY: {"impression": 1}}, 0)
            channels = await counters.read_trend(trend("channel"))
            assert channels == CountedTrend({TODAY: {"impression": 858}}, 0)

    asyncio.run(go())


def test_groups_roll_with_the_windows(redis_url: str) -> None:
    """Events of the last 45 days and of tomorrow; each midnight, the windows move by a day."""

    async def go() -> None:
        async with opened(redis_url) as (_, counters):
            writer = await start(counters)
            counted = [
                make_event(
                    customer=f"C-{n % 3}",
                    offer=f"off_{n % 5}",
                    creative=None if n % 4 == 0 else f"cr_{n % 3}",
                    channel=None if n % 3 == 0 else "web",
                    outcome=("impression", "click", "convert")[n % 3],
                    occurred_ms=NOW_MS - (n - 1) * 86_400_000,
                )
                for n in range(46)
            ]
            await writer.commit(counted)
            for today in (TODAY, TODAY + 1, TODAY + 2, TODAY + 8, TODAY + 40):
                await writer.roll(today)
                await assert_answers(counters, counted, today)

    asyncio.run(go())


@pytest.fixture
def stores(redis_url: str, database_url: str) -> Settings:
    return Settings(redis_url=redis_url, database_url=database_url)


def test_the_answers_of_several_shards_are_those_of_one(redis_url: str) -> None:
    """The reader has answered for the one shard of a tenant that was removed."""

    async def go() -> None:
        async with opened(redis_url) as (_, counters):
            for shards in (1, SHARDS, 1):
                generation = await counters.create(
                    "acme",
                    day=TODAY,
                    timezone="UTC",
                    complete=True,
                    watermarks=[],
                    shards=shards,
                )
                batch = [
                    make_event(
                        customer=f"C-{n % 7}",
                        offer=f"off_{n % 3}",
                        creative=None if n % 2 else "cr",
                        occurred_ms=NOW_MS - n * 7_200_000,
                    )
                    for n in range(40)
                ]
                assert len({shard_of(event.customer, SHARDS) for event in batch}) == SHARDS
                of_shards = by_shard(generation.layout, sourced(*batch))
                async for each in counters.active_generations(["acme"]):
                    writer = Writer(counters, each)
                    events = [found.event for found in of_shards[each.tenant]]
                    # a partition that the removed tenant has not read
                    assert await writer.commit(events, partition=next(partitions)) == Committed()
                await assert_answers(counters, batch, TODAY)
                unknown = await counters.read_group(group("customer", "nobody"))
                assert unknown == CountedGroup(None, 0)
                ended = await counters.removals.end("acme", {})
                await counters.removals.delete(ended)
                gone = await counters.read_group(group("action", "off_1"))
                assert gone == Incomplete("no_generation")

    partitions = itertools.count()
    asyncio.run(go())


def test_a_shard_that_is_lost_is_not_left_out_of_a_sum(stores: Settings) -> None:
    async def go() -> None:
        async with open_pipeline(stores) as worker:
            counters = worker.counters
            await counters.create(
                "acme", day=TODAY, timezone="UTC", complete=True, watermarks=[], shards=SHARDS
            )
            batch = [make_event(customer=f"C-{n}", offer="gold") for n in range(20)]
            await worker.process(0, values_of(batch))
            lost = [each.tenant async for each in counters.active_generations(["acme"])][2]
            slot = "{" + lost.partition("@")[0] + "}"
            client = counters._client
            await client.unlink(*await client.keys(f"*{slot}*"))
            gone = Incomplete("no_generation")
            assert await counters.read_group(group("action", "gold")) == gone
            assert await counters.read_trend(trend("action")) == gone
            for event in batch:
                answer = await counters.read_group(group("customer", event.customer))
                # one shard has all of a customer
                is_lost = shard_of(event.customer, SHARDS) == 2
                assert (answer == gone) is is_lost, event.customer

    asyncio.run(go())
