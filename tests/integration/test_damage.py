"""Scripts that fail half-way: the generation is damaged, and nothing else stops."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from store.audit import Correction
from store.counters import Activated, Committed
from store.records import CounterPage, Event, Incomplete
from store.redis.counters import RedisCounters
from store.windows import DAY_MS
from tests.support.commits import UTC, commit, create, opened
from tests.support.contract import LOG, Writer, assert_counts, question
from tests.support.events import NOW_MS, TODAY, events, make_event
from tests.support.oracle import groups_of, page_of

#: Commands of scripts that write nothing.
READS = ("GET", "HGET", "HMGET", "HKEYS", "HLEN", "LRANGE", "LLEN", "TIME")


async def assert_damaged(counters: RedisCounters, watermark: int) -> None:
    """Assert that the active generation says why it does not answer; and its watermark."""
    generation = await counters.generation("acme")
    assert generation is not None
    assert not generation.complete
    assert "WRONGTYPE" in (await counters.missing(generation)).damaged
    assert await counters.read(question("customer", "alltime")) == Incomplete("not_complete")
    assert await counters.watermarks(generation, LOG) == {0: watermark}


@pytest.mark.parametrize("keep_pending", [False, True])
def test_a_commit_that_fails_half_way_costs_the_generation_and_not_the_worker(
    redis_url: str, keep_pending: bool
) -> None:
    """The record of a customer has another type: someone else has written the key."""

    async def go() -> None:
        async with opened(redis_url) as (client, counters):
            generation = await create(counters)
            await client.set("is:{acme/0}:1:u:C-1", "x")
            batch = [make_event(customer=f"C-{n}") for n in range(3)]
            answer = await commit(counters, generation, batch, 0, keep_pending=keep_pending)
            assert isinstance(answer, Committed)
            assert "WRONGTYPE" in answer.damaged
            await assert_damaged(counters, 3)
            more = [make_event(customer="C-7")]
            assert isinstance(await commit(counters, generation, more, 3), Committed)
            await assert_damaged(counters, 4)

            building = await counters.build(
                "acme", day=TODAY, timezone="UTC", token="t", watermarks=[]
            )
            assert await Writer(counters, building).commit([*batch, *more]) == Committed()
            swapped = await counters.swap(building, now_ms=NOW_MS)
            assert isinstance(swapped, Activated), swapped
            await assert_counts(counters, [*batch, *more], TODAY)

    asyncio.run(go())


def test_a_fold_that_fails_half_way_costs_the_generation_and_ends(redis_url: str) -> None:
    async def go() -> None:
        async with opened(redis_url) as (client, counters):
            generation = await create(counters)
            await client.set("is:{acme/0}:1:a:off_1", "x")
            batch = [make_event(offer=f"off_{n}") for n in range(3)]
            answer = await commit(counters, generation, batch, 0, keep_pending=True)
            assert answer == Committed(pending=3)
            assert "WRONGTYPE" in (await counters.fold(generation)).damaged
            assert await counters.fold(generation) == Committed()
            await assert_damaged(counters, 3)

    asyncio.run(go())


def test_pending_deltas_that_are_lost_are_noticed(redis_url: str) -> None:
    async def go() -> None:
        async with opened(redis_url) as (client, counters):
            generation = await create(counters)
            await commit(counters, generation, [make_event()], 0, keep_pending=True)
            assert await client.delete("is:{acme/0}:1:pending") == 1
            assert (await counters.fold(generation)).damaged == "pending deltas are lost"
            found = await counters.generation("acme")
            assert found is not None
            assert not found.complete

    asyncio.run(go())


def test_a_repair_that_fails_half_way_damages_the_generation(redis_url: str) -> None:
    async def go() -> None:
        async with opened(redis_url) as (client, counters):
            generation = await create(counters)
            await commit(counters, generation, [make_event(offer="off_1")], 0)
            audited = counters.audited()
            chunk = await audited.read("acme", "action", ["off_1"])
            assert chunk is not None
            await client.set("is:{acme/0}:1:r:a:a", "x")
            fix = [Correction("off_1", {"impression": 1}, {}, {})]
            assert not await audited.adjust("acme", chunk.generation, "action", fix)
            await assert_damaged(counters, 1)

    asyncio.run(go())


def test_a_roll_rolls_the_other_records_and_damages_the_generation(redis_url: str) -> None:
    """One record cannot be read. It would be wrong from then on, and nothing would say so."""

    async def go() -> None:
        async with opened(redis_url) as (client, counters):
            generation = await create(counters)
            batch = [make_event(customer=f"C-{n}") for n in range(50)]
            await commit(counters, generation, batch, 0)
            await client.hset("is:{acme/0}:1:u:C-7", "s", b"\xc1")
            await Writer(counters, generation).roll(TODAY + 8, records_max=10)
            found = await counters.generation("acme")
            assert found is not None
            assert (found.rolled, found.complete) == (TODAY + 8, False)
            assert (await counters.missing(found)).damaged
            weekly = await client.zrange("is:{acme/0}:1:r:u:w", 0, -1)
            assert weekly == [b"C-7"], "all others have left the week"

    asyncio.run(go())


def test_a_customer_of_thousands_of_offers_is_rolled(redis_url: str) -> None:
    """Its offers of the new day, counted before the roll, all change their fields with it."""

    async def go() -> None:
        async with opened(redis_url, offers_max=10_000) as (_, counters):
            writer = Writer(counters, await create(counters))
            batch = [make_event(customer=f"C-{n}") for n in range(30)]
            tomorrow = [
                make_event(customer="anonymous", offer=f"off_{n}", occurred_ms=NOW_MS + DAY_MS)
                for n in range(9_000)
            ]
            await writer.commit(batch)
            for start in range(0, 9_000, 500):
                await writer.commit(tomorrow[start : start + 500])
            await writer.roll(TODAY + 1, records_max=40)
            found = await counters.generation("acme")
            assert found is not None
            assert found.complete
            for group_by in ("customer", "action"):
                asked = question(group_by, "weekly", today=TODAY + 1)
                answer = await counters.read(asked)
                assert isinstance(answer, CounterPage), answer
                want = groups_of([*batch, *tomorrow], group_by, asked.window, UTC)
                assert answer.page == page_of(want, 100, 0)

    asyncio.run(go())


def test_what_fails_before_the_first_write_has_changed_nothing(redis_url: str) -> None:
    """A right that the ACL lacks, for the list of pending deltas: an upgrade that missed it."""

    async def go() -> None:
        async with opened(redis_url) as (client, counters):
            generation = await create(counters)
            before = await client.hgetall("is:{acme/0}:1:meta")
            await client.set("is:{acme/0}:1:pending", "x")  # RPUSH fails, as without its right
            with pytest.raises(Exception, match="WRONGTYPE"):
                await commit(counters, generation, [make_event()], 0, keep_pending=True)
            assert await client.hgetall("is:{acme/0}:1:meta") == before
            await client.delete("is:{acme/0}:1:pending")
            answer = await commit(counters, generation, [make_event()], 0, keep_pending=True)
            assert answer == Committed(pending=1)
            page = await counters.read(question("customer", "alltime"))
            assert isinstance(page, CounterPage)

    asyncio.run(go())


async def lua_commands(client: Any, call: Callable[[], Awaitable[Any]]) -> list[list[str]]:
    """Return the words of the commands that scripts run during the call."""
    async with client.monitor() as monitor:
        await call()
        await client.echo("the end")
        found: list[list[str]] = []
        while True:
            command = await monitor.next_command()
            if "the end" in command["command"]:
                return found
            if command["client_type"] == "lua":
                found.append(command["command"].split())


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    batch=st.lists(
        events(days=range(TODAY - 33, TODAY - 29)) | events(days=range(TODAY - 7, TODAY + 3)),
        min_size=1,
        max_size=12,
    )
)
def test_each_key_that_is_written_was_touched_before(redis_url: str, batch: list[Event]) -> None:
    """Whatever the days: of a commit, of one that leaves deltas pending, and of a fold."""

    async def go() -> None:
        async with opened(redis_url) as (client, counters):
            generation = await create(counters)
            some = [msgspec.structs.replace(e, event_id=e.event_id[::-1]) for e in batch[::2]]
            for call in (
                partial(commit, counters, generation, some, 0),
                partial(commit, counters, generation, batch, len(some), keep_pending=True),
                partial(counters.fold, generation),
            ):
                touched: set[str] = set()
                for name, *words in await lua_commands(client, call):
                    if name == "EXISTS":
                        touched.update(words)
                    elif name not in READS:
                        assert words[0] in touched, (name, words[0])

    asyncio.run(go())
