"""Audit: counters and history are compared at one point, and what differs is named and repaired."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import msgspec
import pytest

from store.counters import Committed
from store.records import Event, Grouping
from store.redis.audit import AuditedCounters
from store.settings import Settings
from store.windows import DAY_MS, Calendar
from streams.aggregate import aggregate
from streams.audit import segment
from tests.support.auditing import auditor_of, cells_of, comparer_of, dump_all
from tests.support.contract import LOG, Writer, assert_counts, assert_counts_exact, start
from tests.support.events import NOW_MS, TODAY, make_event, sourced
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


def test_a_sample_of_few_events_has_at_least_one_group_of_each_grouping(
    redis_url: str, database_url: str
) -> None:
    async def body(stores: Stores) -> None:
        await filled(stores)
        all_groups = (await auditor_of(stores).audit("acme")).groups
        for events_max, groups in ((1, 4), (1_000, all_groups)):
            audit = await auditor_of(stores).audit("acme", sample=100, events_max=events_max)
            assert (audit.groups, cells_of(audit), audit.notes) == (groups, [], [])

    run(redis_url, database_url, body)


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


async def the_numbers_of_offers(client: Any) -> None:
    numbers = (9, 9, 9, TODAY, 9)
    await client.hset(HOME + "u:C-1", "q", b"".join(n.to_bytes(3, "little") for n in numbers))


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
    the_numbers_of_offers: ("customer", "C-1"),
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


@pytest.mark.long
def test_traffic_makes_no_difference(redis_url: str, database_url: str) -> None:
    """Three partitions are counted, and stored some time later, each at its own pace.

    Producers send some events twice, also to another partition. New groups appear meanwhile.
    """

    async def body(stores: Stores) -> None:
        chance = random.Random(7)
        writer = await start(stores.counters)
        stored: dict[int, int] = {}
        waiting = {p: asyncio.Queue[list[Event]](maxsize=5) for p in range(3)}
        sent: list[Event] = []

        async def count(partition: int) -> None:
            while True:
                batch = [
                    make_event(
                        customer=f"C-{chance.randrange(400)}",
                        offer=f"off_{chance.randrange(9)}",
                        outcome=chance.choice(("impression", "click")),
                        occurred_ms=NOW_MS - chance.randrange(40 * 24) * 3_600_000,
                    )
                    for _ in range(chance.randrange(1, 20))
                ]
                if sent and chance.random() < 0.2:
                    batch.append(chance.choice(sent[-200:]))
                sent.extend(batch)
                await writer.commit(batch, partition=partition)
                await waiting[partition].put(batch)
                await asyncio.sleep(chance.random() / 100)

        async def store(partition: int) -> None:
            while True:
                batch = await waiting[partition].get()
                await asyncio.sleep(chance.random() / 50)
                first = stored.get(partition)
                begin = first or 0
                await stores.history.write(
                    topic="t",
                    topic_id=LOG,
                    partition=partition,
                    expected_offset=first,
                    next_offset=begin + len(batch),
                    events=sourced(*batch, first=begin),
                )
                stored[partition] = begin + len(batch)

        tasks = [asyncio.create_task(work(p)) for p in range(3) for work in (count, store)]
        auditor = auditor_of(stores)
        compared = 0
        try:
            for _ in range(8):
                audit = await auditor.audit("acme")
                assert (cells_of(audit), audit.notes) == ([], [])
                compared += audit.groups
            for _ in range(8):
                audit = await auditor.audit("acme", sample=10, recent=True)
                assert (cells_of(audit), audit.notes) == ([], [])
            assert not any(task.done() for task in tasks)
            await a_group_that_history_lacks(stores.client)
            await a_record_that_is_gone(stores.client)
            audit = await auditor.audit("acme")
            assert ({d.id for d in audit.differing}, audit.notes) == ({"off_9", "C-2"}, [])
            repair = await auditor.repair(audit)
            assert cells_of(repair.again) == []
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        assert compared > 1_500

    run(redis_url, database_url, body)


def test_each_chunk_is_compared_at_its_own_watermarks(
    redis_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events of all groups are counted before each chunk is read, and stored only afterwards."""
    monkeypatch.setattr(segment, "READ_GROUPS", 2)

    async def body(stores: Stores) -> None:
        writer = await start(stores.counters)
        await both(stores, writer, some_events(100))
        ids = [f"C-{i}" for i in range(6)]
        stored: list[asyncio.Task[None]] = []

        class Counting(AuditedCounters):
            async def read(self, tenant: str, grouping: Grouping, ids: Sequence[str]) -> Any:
                for partition in (0, 1) if ids else ():
                    first = writer.watermarks.get(partition)
                    batch = [make_event(customer=f"C-{i}", offer=f"off_{i}") for i in range(6)]
                    await writer.commit(batch, partition=partition)
                    before = stored[-1] if stored else None
                    stored.append(asyncio.create_task(store(batch, partition, first, before)))
                return await super().read(tenant, grouping, ids)

        async def store(
            batch: list[Event],
            partition: int,
            first: int | None,
            before: asyncio.Task[None] | None,
        ) -> None:
            await asyncio.sleep(0.02)
            if before is not None:
                await before
            await stores.history.write(
                topic="t",
                topic_id=LOG,
                partition=partition,
                expected_offset=first,
                next_offset=(first or 0) + len(batch),
                events=sourced(*batch, first=first or 0),
            )

        comparer = comparer_of(stores, counters=Counting(stores.client, "is"))
        for _ in range(3):
            assert await comparer.differences("acme", "customer", ids, recent=False) == []
        assert len(stored) == 2 * 3 * 3
        await asyncio.gather(*stored)

    run(redis_url, database_url, body)


def test_a_copy_that_arrived_after_the_horizon_is_found_and_healed(
    redis_url: str, database_url: str
) -> None:
    async def body(stores: Stores) -> None:
        writer = await start(stores.counters)
        batch = [make_event(customer="C-1", offer="off_1"), make_event(customer="C-2")]
        await both(stores, writer, batch)
        kept = sourced(batch[0], first=2, recorded_ms=NOW_MS + 5 * DAY_MS)
        answer = await stores.counters.commit(
            writer.generation,
            topic_id=LOG,
            partition=0,
            expected_offset=2,
            next_offset=3,
            deltas=aggregate(kept, Calendar("UTC")),
        )
        assert answer == Committed(), "five days later the identity is forgotten"
        await stores.store([batch[0]], 2)
        auditor = auditor_of(stores)
        audit = await auditor.audit("acme")
        assert ("action", "off_1", "alltime", "impression", 2, 1) in cells_of(audit)
        assert {d.id for d in audit.differing} == {"off_1", "cr_001", "ch_001", "C-1"}
        assert cells_of((await auditor.repair(audit)).again) == []
        await assert_counts(stores.counters, batch, TODAY)

    run(redis_url, database_url, body)


def test_rows_of_a_partition_that_complete_counters_never_counted_differ(
    redis_url: str, database_url: str
) -> None:
    async def body(stores: Stores) -> None:
        batch = await filled(stores)
        await stores.history.write(
            topic="t",
            topic_id=LOG,
            partition=5,
            expected_offset=None,
            next_offset=1,
            events=sourced(make_event(customer="C-new")),
        )
        audit = await auditor_of(stores).audit("acme")
        assert ("customer", "C-new", "alltime", "impression", 0, 1) in cells_of(audit)
        await stores.client.hset(HOME + "meta", f"w:{LOG}:5", 0)
        audit = await auditor_of(stores).audit("acme")
        assert cells_of(audit) == [], f"they will be counted; {len(batch)} are"

    run(redis_url, database_url, body)


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({"complete": "0"}, "its counters are not complete; history answers"),
        ({"rolled": TODAY - 1}, "its windows are being rolled to a new day"),
        ({"day": TODAY - 1, "rolled": TODAY - 1}, "the window day of its counters is not today"),
        ({"timezone": "Asia/Tokyo"}, "its counters are in time zone Asia/Tokyo, not UTC"),
        ({f"w:{LOG}:0": 250}, "action: history has not stored what the counters have: 50 offsets"),
        ({"over:a": 1}, "action: some groups are counted as one (KEYS_PER_GROUPING_MAX)"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_cannot_be_compared_is_no_difference(
    redis_url: str, database_url: str, change: dict[str, Any], note: str
) -> None:
    async def body(stores: Stores) -> None:
        await filled(stores)
        await stores.client.hset(HOME + "meta", mapping=change)
        await a_cell(stores.client)
        audit = await auditor_of(stores, wait_s=0.0).audit("acme")
        assert not [d for d in audit.differing if d.grouping in ("action", "customer")]
        assert audit.notes[0].startswith(note), audit.notes

    run(redis_url, database_url, body)


def test_customers_are_not_compared_once_not_all_offers_are_remembered(
    redis_url: str, database_url: str
) -> None:
    async def body(stores: Stores) -> None:
        await filled(stores)
        await stores.client.hset(HOME + "meta", "over:o", 1)
        audit = await auditor_of(stores).audit("acme")
        assert not audit.differing
        assert audit.notes == [
            "customer: not all offers are remembered (OFFERS_PER_CUSTOMER_MAX)"
        ], "the other groupings are compared"

    run(redis_url, database_url, body)


def test_a_truncated_topic_is_no_difference(redis_url: str, database_url: str) -> None:
    async def body(stores: Stores) -> None:
        await filled(stores)
        await stores.history.reset(
            topic="t", topic_id=LOG, partition=0, expected_offset=200, next_offset=50
        )
        await stores.client.hset(HOME + "meta", f"w:{LOG}:0", 50)
        audit = await auditor_of(stores).audit("acme")
        assert audit.groups == 0
        assert "truncated" in audit.notes[0]

    run(redis_url, database_url, body)


def test_what_history_lacks_is_not_taken_from_the_counters(
    redis_url: str, database_url: str
) -> None:
    """Retention deleted offsets 3..5 before history had them; the counters have them."""

    async def body(stores: Stores) -> None:
        writer = await start(stores.counters)
        batch = [make_event(offer=f"off_{i}", customer=f"C-{i}") for i in range(9)]
        await writer.commit(batch)
        await stores.store(batch[:3], None)
        await stores.history.write(
            topic="t",
            topic_id=LOG,
            partition=0,
            expected_offset=3,
            next_offset=9,
            events=sourced(*batch[6:], first=6),
        )
        async with stores.pool.connection() as connection:
            await connection.execute("INSERT INTO history_gaps VALUES (%s, 0, 3, 6)", (LOG,))
        await stores.client.delete(HOME + "u:C-1")
        before = await dump_all(stores.client)
        auditor = auditor_of(stores)
        audit = await auditor.audit("acme")
        assert [(d.grouping, d.id) for d in audit.differing] == [("customer", "C-1")]
        assert audit.notes[0].startswith("action: 3 groups have more than history")
        await auditor.repair(audit)
        after = await dump_all(stores.client)
        assert {k for k in before.keys() | after.keys() if before.get(k) != after.get(k)} == {
            (HOME + "u:C-1").encode()
        }
        await assert_counts(stores.counters, batch, TODAY)

    run(redis_url, database_url, body)


def test_a_tenant_without_counters_is_not_compared(redis_url: str, database_url: str) -> None:
    async def body(stores: Stores) -> None:
        await stores.store(some_events(5), None)
        auditor = auditor_of(stores)
        assert await auditor.tenants() == ["acme"]
        audit = await auditor.audit("acme")
        assert (audit.groups, audit.notes) == (0, ["it has no counters"])
        assert audit.note("command", previous=None).result == "skipped"

    run(redis_url, database_url, body)


def test_a_record_that_cannot_be_read_is_replaced_unless_its_events_are_counted_meanwhile(
    redis_url: str, database_url: str
) -> None:
    async def body(stores: Stores) -> None:
        writer = await start(stores.counters)
        batch = some_events(100)
        await both(stores, writer, batch)
        block = str((TODAY - 9) // 4)
        assert await stores.client.hset(HOME + "u:C-4", block, b"\xc1") == 0
        auditor = auditor_of(stores)
        audit = await auditor.audit("acme")
        (broken,) = audit.differing
        more = [make_event(customer="C-4"), make_event(customer="C-5")]
        await both(stores, writer, more)
        spoiled = await dump_all(stores.client)
        counters = AuditedCounters(stores.client, "is")
        assert not await counters.adjust(
            "acme",
            broken.generation,
            "customer",
            [broken.correction],
            unreadable=broken.unreadable,
        )
        assert await dump_all(stores.client) == spoiled
        (broken,) = (await auditor.audit("acme")).differing
        others = [make_event(customer="C-3"), make_event(customer="C-5")]
        await both(stores, writer, others)
        assert await counters.adjust(
            "acme",
            broken.generation,
            "customer",
            [broken.correction],
            unreadable=broken.unreadable,
        ), "events of other groups do not matter"
        await assert_counts(stores.counters, batch + more + others, TODAY)

    run(redis_url, database_url, body)


def test_events_counted_after_the_audit_stay_counted(redis_url: str, database_url: str) -> None:
    """Also an earlier day of an offer, while the record was gone: the later one is set."""

    async def body(stores: Stores) -> None:
        writer = await start(stores.counters)
        batch = some_events(200)
        await both(stores, writer, batch)
        await a_record_that_is_gone(stores.client)
        (differing,) = (await auditor_of(stores).audit("acme")).differing
        later = [
            make_event(customer="C-2", offer="off_2", occurred_ms=NOW_MS - days * DAY_MS)
            for days in (0, 20, 40)
        ]
        more = [make_event(customer="C-2", offer="off_new"), *later]
        await both(stores, writer, more)
        counters = AuditedCounters(stores.client, "is")
        fix = [differing.correction]
        assert await counters.adjust("acme", differing.generation, "customer", fix)
        await assert_counts(stores.counters, batch + more, TODAY)
        await assert_counts_exact(stores.counters, batch + more, TODAY)

    run(redis_url, database_url, body)


@pytest.mark.parametrize("spoil", ["deleted", "unreadable"])
def test_a_customer_of_very_many_offers_is_healed_in_parts(
    redis_url: str, database_url: str, spoil: str
) -> None:
    async def body(stores: Stores) -> None:
        writer = await start(stores.counters)
        batch = [
            make_event(offer=f"off_{i}", occurred_ms=NOW_MS - i % 50 * DAY_MS) for i in range(1_300)
        ]
        await both(stores, writer, batch)
        if spoil == "deleted":
            await stores.client.delete(HOME + "u:C-1")
        else:
            await stores.client.hset(HOME + "u:C-1", "s", b"\xc1")
        auditor = auditor_of(stores)
        audit = await auditor.audit("acme")
        assert [d.id for d in audit.differing] == ["C-1"]
        assert cells_of((await auditor.repair(audit)).again) == []
        await assert_counts(stores.counters, batch, TODAY)

    run(redis_url, database_url, body)


def test_a_lost_record_does_not_stop_the_roll_of_the_others(
    redis_url: str, database_url: str
) -> None:
    async def body(stores: Stores) -> None:
        writer = await start(stores.counters)
        batch = some_events(200)
        await both(stores, writer, batch)
        await a_record_that_is_gone(stores.client)
        await writer.roll(TODAY + 5)
        auditor = auditor_of(stores, now_ms=lambda: NOW_MS + 5 * DAY_MS)
        audit = await auditor.audit("acme")
        assert {(d.grouping, d.id) for d in audit.differing} == {SPOILS[a_record_that_is_gone]}
        assert cells_of((await auditor.repair(audit)).again) == []
        await assert_counts(stores.counters, batch, TODAY + 5)

    run(redis_url, database_url, body)


def test_a_correction_of_yesterday_or_of_another_generation_is_refused(
    redis_url: str, database_url: str
) -> None:
    async def body(stores: Stores) -> None:
        writer = await start(stores.counters)
        batch = some_events(100)
        await both(stores, writer, batch)
        await a_cell(stores.client)
        (differing,) = (await auditor_of(stores).audit("acme")).differing
        counters = AuditedCounters(stores.client, "is")

        async def refused(number: int) -> bool:
            before = await dump_all(stores.client)
            generation = differing.generation._replace(number=number)
            done = await counters.adjust("acme", generation, "action", [differing.correction])
            assert await dump_all(stores.client) == before
            return not done

        assert await refused(2), "it is not the active one"
        await writer.roll(TODAY + 1)
        assert await refused(1), "it is another day"
        tomorrow = auditor_of(stores, now_ms=lambda: NOW_MS + DAY_MS)
        repair = await tomorrow.repair(await tomorrow.audit("acme"))
        assert cells_of(repair.again) == []
        await assert_counts(stores.counters, batch, TODAY + 1)

    run(redis_url, database_url, body)


def test_the_calendar_of_the_tenant_decides(redis_url: str, database_url: str) -> None:
    async def body(stores: Stores) -> None:
        zone = "America/New_York"
        now_ms = NOW_MS + 14 * 3_600_000  # 02:00 UTC, the evening before in New York
        day = Calendar(zone).day_of(now_ms)
        generation = await stores.counters.create(
            "acme", day=day, timezone=zone, complete=True, watermarks=[]
        )
        batch = [make_event(occurred_ms=now_ms - hours * 3_600_000) for hours in range(0, 900, 5)]
        await both(stores, Writer(stores.counters, generation), batch)
        auditor = auditor_of(stores, now_ms=lambda: now_ms, timezone=zone)
        audit = await auditor.audit("acme")
        assert (cells_of(audit), audit.notes, audit.groups) == ([], [], 4)

    run(redis_url, database_url, body)
