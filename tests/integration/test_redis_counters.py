"""The Redis store passes the contract suite of a counter store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import hypothesis
import pytest
from hypothesis.stateful import run_state_machine_as_test

from store.counters import (
    Committed,
    CounterStore,
    Deltas,
    Generation,
    PartitionProgress,
    Position,
    Rolled,
    Visible,
)
from store.records import CounterPage
from store.redis.active import TENANTS_PER_CALL
from store.redis.client import make_client
from store.redis.counters import RedisCounters
from store.settings import Settings
from store.windows import DAY_MS, PERIODS
from streams.aggregate import aggregate
from tests.support.contract import (
    LOG,
    UTC,
    CounterStoreContract,
    OpenStore,
    Writer,
    assert_counts,
    question,
    start,
)
from tests.support.events import NOW_MS, TODAY, make_event, sourced
from tests.support.state_machine import Protocol


@asynccontextmanager
async def open_redis(redis_url: str, **options: Any) -> AsyncIterator[CounterStore]:
    client = make_client(Settings(redis_url=redis_url), timeout_s=10, retries=0)
    try:
        await client.flushdb()
        yield RedisCounters(client, "is", **options)
    finally:
        await client.aclose()


class TestRedisCounters(CounterStoreContract):
    @pytest.fixture
    def open_store(self, redis_url: str) -> OpenStore:
        return lambda: open_redis(redis_url)

    @pytest.fixture
    def open_limited_store(
        self, redis_url: str
    ) -> Callable[[int], AbstractAsyncContextManager[CounterStore]]:
        return lambda groups_max: open_redis(redis_url, groups_max=groups_max)


@pytest.mark.parametrize("all_ranks", [pytest.param(True, marks=pytest.mark.long), False])
def test_the_commit_protocol_keeps_its_invariant_in_any_interleaving(
    redis_url: str, all_ranks: bool
) -> None:
    class RedisProtocol(Protocol):
        open_store = staticmethod(lambda: open_redis(redis_url, all_ranks=all_ranks))

    run_state_machine_as_test(
        RedisProtocol,
        settings=hypothesis.settings(
            max_examples=40, stateful_step_count=25, deadline=None, report_multiple_bugs=False
        ),
    )


def counts_of_one(day: int, count: int, customer: str = "C-1", offer: str = "off_1") -> Deltas:
    """Return the deltas of `count` clicks in one sum."""
    triples = [day, 0, count]
    return Deltas(("click",), (), [offer, triples], (), (), [customer, triples, [offer, day]])


async def keys_of(url: str) -> set[str]:
    """Return the keys of the tenant's first generation, by the end of their names."""
    client = make_client(Settings(redis_url=url), timeout_s=10, retries=0)
    try:
        keys = [key.decode() async for key in client.scan_iter(match="is:{acme/0}:1:*")]
    finally:
        await client.aclose()
    return {key.removeprefix("is:{acme/0}:1:") for key in keys}


def test_nothing_of_the_days_that_left_stays(redis_url: str) -> None:
    """Roll a tenant without traffic: only the all-time record, its ranks and meta are left.

    No tile, daily rank, due set or identity remains.
    """

    async def go() -> None:
        async with open_redis(redis_url) as store:
            writer = await start(store)
            batch = [make_event(occurred_ms=NOW_MS - age * DAY_MS) for age in range(-3, 33)]
            await writer.commit(batch)
            before = await keys_of(redis_url)
            assert {f"r:u:d{TODAY}", f"due:{TODAY + 1}", f"own:{NOW_MS // DAY_MS}"} <= before
            for ahead in range(1, 36):
                await roll_all(writer, TODAY + ahead)
            kinds = ("a", "t", "c", "u")
            (event,) = {(e.offer, e.creative, e.channel, e.customer) for e in batch}
            assert await keys_of(redis_url) == {
                "meta",
                "offers",
                *(f"r:{kind}:a" for kind in kinds),
                *(f"{kind}:{id_}" for kind, id_ in zip(kinds, event, strict=True)),
            }
            client = make_client(Settings(redis_url=redis_url), timeout_s=10, retries=0)
            fields = await client.hkeys(f"is:{{acme/0}}:1:u:{event[3]}")
            assert sorted(fields) == [b"-1", b"q", b"s"]
            assert not [
                f
                for f in await client.hkeys("is:{acme/0}:1:meta")
                if f[:2] in (b"d:", b"o:", b"n:")
            ]
            await client.aclose()
            await assert_counts(store, batch, TODAY + 35)

    asyncio.run(go())


async def roll_all(writer: Writer, day: int) -> None:
    """Roll as a worker does when its clock and the tenant's day are at `day`."""
    finished = False
    while not finished:
        answer = await writer.store.roll(
            writer.generation, day, now_ms=NOW_MS + (day - TODAY) * DAY_MS, records_max=3
        )
        assert isinstance(answer, Rolled)
        finished = answer.finished


def test_nothing_of_a_dropped_generation_stays(redis_url: str) -> None:
    """Drop a generation that is half built, or was active and is in the middle of a roll.

    The latter has events of days after the window day.
    """

    async def go() -> None:
        async with open_redis(redis_url) as store:
            writer = await start(store)
            ages = (-40, -9, -1, 0, 3, 30, 50)
            batch = [make_event(occurred_ms=NOW_MS - age * DAY_MS) for age in ages]
            await writer.commit(batch)
            await count_without_arrival_time(writer)
            await store.roll(writer.generation, TODAY + 8, now_ms=NOW_MS, records_max=1)
            await count_without_arrival_time(writer)
            building = await store.build(
                "acme", day=TODAY + 8, timezone="UTC", token="t", watermarks=[]
            )
            assert await store.swap(building, now_ms=NOW_MS, behind=True)
            assert len(await keys_of(redis_url)) > 20
            await store.drop(writer.generation)
            assert await keys_of(redis_url) == set()

    asyncio.run(go())


async def count_without_arrival_time(writer: Writer) -> None:
    """Count an event whose record has the time stamp -1: it has none."""
    first = writer.watermarks.get(1)
    start = first or 0
    answer = await writer.store.commit(
        writer.generation._replace(day=(await active(writer.store)).day),
        topic_id=LOG,
        partition=1,
        expected_offset=first,
        next_offset=start + 1,
        deltas=aggregate(sourced(make_event(), first=start, recorded_ms=-1), UTC),
    )
    assert isinstance(answer, Committed), answer
    writer.watermarks[1] = start + 1


async def active(store: CounterStore) -> Generation:
    generation = await store.generation("acme")
    assert generation is not None
    return generation


def test_identities_of_records_without_a_time_stamp_are_forgotten(redis_url: str) -> None:
    async def go() -> None:
        async with open_redis(redis_url) as store:
            writer = await start(store)
            await count_without_arrival_time(writer)
            assert "own:-1" in await keys_of(redis_url)
            await roll_all(writer, TODAY + 1)
            assert "own:-1" not in await keys_of(redis_url)

    asyncio.run(go())


def test_a_generation_that_is_behind_forgets_no_identities(redis_url: str) -> None:
    """After a rollback, records are read again that the dedup horizon has passed.

    Their copies must be recognized, however late the roll comes.
    """

    async def go() -> None:
        async with open_redis(redis_url) as store:
            writer = await start(store)
            await writer.commit([make_event()])
            client = make_client(Settings(redis_url=redis_url), timeout_s=10, retries=0)
            await client.hset("is:{acme/0}:1:meta", f"t:{LOG}:0", "100")
            identities = f"own:{NOW_MS // DAY_MS}"
            await roll_all(writer, TODAY + 5)
            assert identities in await keys_of(redis_url)
            await client.hdel("is:{acme/0}:1:meta", f"t:{LOG}:0")
            await client.aclose()
            await roll_all(writer, TODAY + 6)
            assert identities not in await keys_of(redis_url)

    asyncio.run(go())


def test_counts_of_any_size_are_kept(redis_url: str) -> None:
    """From numbers of one byte to those just below what a double holds."""

    async def go() -> None:
        async with open_redis(redis_url) as store:
            writer = await start(store)
            total = 0
            for place, count in enumerate((1, 127, 128, 255, 65_536, 2**31, 2**32, 2**52)):
                answer = await store.commit(
                    writer.generation,
                    topic_id=LOG,
                    partition=0,
                    expected_offset=place or None,
                    next_offset=place + 1,
                    deltas=counts_of_one(TODAY, count),
                )
                assert answer == Committed()
                total += count
                for period in PERIODS:
                    for group_by in ("action", "customer"):
                        page = await store.read(question(group_by, period))
                        assert isinstance(page, CounterPage)
                        assert [g.counts for g in page.page.groups] == [{"click": total}]

    asyncio.run(go())


def test_a_customer_counted_while_the_roll_waits_keeps_the_latest_day_of_an_offer(
    redis_url: str,
) -> None:
    """The record still says that the offer will be seen on a day to come, which has come since."""

    async def go() -> None:
        async with open_redis(redis_url) as store:
            writer = await start(store)
            batch = [make_event(occurred_ms=NOW_MS + DAY_MS)]
            await writer.commit(batch)
            await store.roll(writer.generation, TODAY + 2, now_ms=NOW_MS, records_max=0)
            writer.generation = writer.generation._replace(day=TODAY + 2)
            batch += (late := [make_event(occurred_ms=NOW_MS + 2 * DAY_MS)])
            assert await writer.commit(late) == Committed()
            await writer.roll(TODAY + 2)
            await assert_counts(store, batch, TODAY + 2)


def test_the_lag_is_unknown_where_a_partitions_worker_says_nothing(redis_url: str) -> None:
    """The last report says that all is counted; events since then are unknown."""

    async def go() -> None:
        client = make_client(Settings(redis_url=redis_url), timeout_s=10, retries=0)
        try:
            counters = RedisCounters(client, "is")
            await counters.reports.report_progress(
                [
                    PartitionProgress(LOG, 0, 70, 72, NOW_MS),
                    PartitionProgress(LOG, 1, 5, 5, NOW_MS - 9_000),
                ]
            )
            assert await counters.reports.lag(NOW_MS) == 2
            assert await counters.reports.lag(NOW_MS + 2_000) is None
        finally:
            await client.aclose()

    asyncio.run(go())


def test_a_rate_is_kept_apart_from_what_older_readers_parse(redis_url: str) -> None:
    async def go() -> None:
        client: Any = make_client(Settings(redis_url=redis_url), timeout_s=10, retries=0)
        try:
            reports = RedisCounters(client, "is").reports
            progress = [
                PartitionProgress(LOG, 0, 70, 72, NOW_MS, Visible(1, 2, 3), 12.5),
                PartitionProgress(LOG, 1, 5, None, NOW_MS),
            ]
            await reports.report_progress(progress)
            assert await reports.progress() == progress
            stored = await client.hgetall("is:progress")
            assert stored[f"{LOG}:0".encode()] == f"70,72,{NOW_MS},1,2,3".encode()
        finally:
            await client.aclose()

    asyncio.run(go())


def test_the_overview_has_all_generations_of_all_tenants(redis_url: str) -> None:
    async def go() -> None:
        client: Any = make_client(Settings(redis_url=redis_url), timeout_s=10, retries=0)
        try:
            counters = RedisCounters(client, "is")
            for index in range(TENANTS_PER_CALL + 2):
                await counters.create(
                    f"t-{index:04}", day=TODAY, timezone="UTC", complete=True, watermarks=[]
                )
            for token in ("first", "second"):
                building = await counters.build(
                    "t-0001",
                    day=TODAY,
                    timezone="Asia/Tokyo",
                    token=token,
                    watermarks=[Position(LOG, 0, 7)],
                )
                if token == "first":
                    await counters.swap(building, now_ms=NOW_MS)
            found = await counters.overview()
            assert [tenant.tenant for tenant in found] == sorted(await counters.tenants())
            assert len(found) == TENANTS_PER_CALL + 2
            assert [len(tenant.generations) for tenant in found[:3]] == [1, 3, 1]
            assert list(found[1].generations) == await counters.generations("t-0001")
            assert (found[1].generation, found[1].timezone) == (2, "Asia/Tokyo")
            assert [
                (state.active, state.building, state.replaced_ms) for state in found[1].generations
            ] == [(False, False, NOW_MS), (True, False, None), (False, True, None)]
        finally:
            await client.aclose()

    asyncio.run(go())


def test_of_two_imports_the_earlier_one_may_announce_last(redis_url: str) -> None:
    async def go() -> None:
        client: Any = make_client(Settings(redis_url=redis_url), timeout_s=10, retries=0)
        try:
            counters = RedisCounters(client, "is")
            for version in (9, 10, 9):
                await counters.announce_catalog("acme", version)
            assert await client.get("is:{acme/0}:catalog") == b"10"
        finally:
            await client.aclose()

    asyncio.run(go())
