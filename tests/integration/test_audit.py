"""Audit: counters and history are compared at one point, and what differs is named and healed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import msgspec
import pytest

from store.records import Event
from store.settings import Settings
from store.windows import DAY_MS
from tests.support.auditing import auditor_of, cells_of, dump_all
from tests.support.contract import Writer, assert_counts, assert_counts_exact, start
from tests.support.events import NOW_MS, TODAY, make_event
from tests.support.stores import Stores, some_events

pack, unpack = msgspec.msgpack.encode, msgspec.msgpack.decode
HOME = "is:{acme/0}:1:"


def run(redis_url: str, database_url: str, body: Callable[[Stores], Awaitable[None]]) -> None:
    async def go() -> None:
        async with Stores(Settings(redis_url=redis_url, database_url=database_url)) as stores:
            await body(stores)

    asyncio.run(go())


async def both(stores: Stores, writer: Writer, batch: list[Event]) -> None:
    """Count the batch, then store it."""
    first = writer.watermarks.get(0)
    await writer.commit(batch)
    await stores.store(batch, first)


async def filled(stores: Stores, batch: list[Event] | None = None) -> list[Event]:
    batch = some_events(200) if batch is None else batch
    await both(stores, await start(stores.counters), batch)
    return batch


def test_counters_equal_history_after_counting_a_roll_and_late_events(
    redis_url: str, database_url: str
) -> None:
    async def body(stores: Stores) -> None:
        writer = await start(stores.counters)
        await both(stores, writer, some_events(120))
        ahead = make_event(customer="C-1", offer="off_ahead", occurred_ms=NOW_MS + 13 * 3_600_000)
        await both(stores, writer, [ahead])
        audit = await auditor_of(stores).audit("acme")
        assert (cells_of(audit), audit.notes) == ([], [])
        assert audit.groups == 4 + 4 + 1 + 5
        for days in (1, 2, 8, 33):
            await writer.roll(TODAY + days)
            late = [e for e in some_events(60) if e.occurred_ms < NOW_MS]
            await both(stores, writer, late)
            audit = await auditor_of(stores, now_ms=partial(int, NOW_MS + days * DAY_MS)).audit(
                "acme"
            )
            assert (cells_of(audit), audit.notes) == ([], []), days

    run(redis_url, database_url, body)


Spoil = Callable[[Any], Awaitable[Any]]


async def a_cell(client: Any) -> None:
    s = unpack(await client.hget(HOME + "a:off_1", "s"))
    s[4] += 7
    await client.hset(HOME + "a:off_1", "s", pack(s))


async def a_tile(client: Any) -> None:
    block = str((TODAY - 4) // 4)
    tile = unpack(await client.hget(HOME + "a:off_1", block))
    tile[1] += 2
    await client.hset(HOME + "a:off_1", block, pack(tile))


async def a_rank(client: Any) -> None:
    await client.zincrby(HOME + "r:u:w", -5, "C-3")


async def a_rank_that_is_gone(client: Any) -> None:
    await client.zrem(HOME + "r:u:a", "C-3")


async def a_record_that_is_gone(client: Any) -> None:
    await client.delete(HOME + "u:C-2")


async def all_of_a_group_that_is_gone(client: Any) -> None:
    await client.delete(HOME + "t:cr_2")
    for period in (f"d{TODAY}", "w", "m", "a"):
        await client.zrem(HOME + f"r:t:{period}", "cr_2")


async def a_group_that_history_lacks(client: Any) -> None:
    await client.copy(HOME + "a:off_1", HOME + "a:off_9")
    await client.zadd(HOME + "r:a:a", {"off_9": -3})
    await client.zadd(HOME + "r:a:m", {"off_9": -3})
    s = unpack(await client.hget(HOME + "a:off_1", "s"))
    await client.sadd(HOME + f"due:{s[0]}", "a:off_9")


async def an_offer_that_history_lacks(client: Any) -> None:
    await client.hset(HOME + "offers", "off_never", 99)
    await client.hset(HOME + "u:C-1", "-99", TODAY)


async def the_day_of_an_offer(client: Any) -> None:
    await client.hset(HOME + "u:C-1", "-1", TODAY - 300)


async def a_record_that_cannot_be_read(client: Any) -> None:
    await client.hset(HOME + "u:C-4", "s", b"\xc1 not msgpack")


async def a_block_that_cannot_be_read(client: Any) -> None:
    await client.hset(HOME + "c:ch_001", str(TODAY // 4), b"\xc1")


SPOILS: dict[Spoil, tuple[str, str]] = {
    a_cell: ("action", "off_1"),
    a_tile: ("action", "off_1"),
    a_rank: ("customer", "C-3"),
    a_rank_that_is_gone: ("customer", "C-3"),
    a_record_that_is_gone: ("customer", "C-2"),
    all_of_a_group_that_is_gone: ("treatment", "cr_2"),
    a_group_that_history_lacks: ("action", "off_9"),
    an_offer_that_history_lacks: ("customer", "C-1"),
    the_day_of_an_offer: ("customer", "C-1"),
    a_record_that_cannot_be_read: ("customer", "C-4"),
    a_block_that_cannot_be_read: ("channel", "ch_001"),
}


@pytest.mark.parametrize("spoil", SPOILS, ids=lambda spoil: spoil.__name__)
def test_a_group_that_differs_is_named_and_healed_and_nothing_else_changes(
    redis_url: str, database_url: str, spoil: Spoil
) -> None:
    async def body(stores: Stores) -> None:
        batch = await filled(stores)
        before = await dump_all(stores.client)
        await spoil(stores.client)
        spoiled = await dump_all(stores.client)
        auditor = auditor_of(stores)
        audit = await auditor.audit("acme")
        assert {(d.grouping, d.id) for d in audit.differing} == {SPOILS[spoil]}
        assert await dump_all(stores.client) == spoiled, "an audit changes nothing"
        repair = await auditor.repair(audit)
        assert (repair.groups, repair.again.groups, cells_of(repair.again)) == (1, 1, [])
        assert cells_of(await auditor.audit("acme")) == []
        await assert_counts(stores.counters, batch, TODAY)
        await assert_counts_exact(stores.counters, batch, TODAY)
        healed = await dump_all(stores.client)
        grouping, id_ = SPOILS[spoil]
        of_group = {f"{HOME}{grouping[0] if grouping != 'customer' else 'u'}:{id_}".encode()}
        of_group |= {key for key in healed if b":r:" in key or b":due:" in key}
        of_group |= {(HOME + "offers").encode()} if spoil is an_offer_that_history_lacks else set()
        assert {k for k in before.keys() | healed.keys() if before.get(k) != healed.get(k)} <= (
            of_group
        )
        for key in healed:
            if b":r:" in key:
                assert healed[key] == before[key], key
            if b":due:" in key:
                members = await stores.client.smembers(key)
                assert (b"a:off_9" in members) is False

    run(redis_url, database_url, body)


def test_a_healed_group_rolls_as_the_others_do(redis_url: str, database_url: str) -> None:
    async def body(stores: Stores) -> None:
        writer = await start(stores.counters)
        batch = some_events(200)
        await both(stores, writer, batch)
        await a_record_that_is_gone(stores.client)
        await a_record_that_cannot_be_read(stores.client)
        await a_tile(stores.client)
        auditor = auditor_of(stores)
        await auditor.repair(await auditor.audit("acme"))
        for day in range(TODAY + 1, TODAY + 34):
            await writer.roll(day)
            await assert_counts(stores.counters, batch, day)

    run(redis_url, database_url, body)
