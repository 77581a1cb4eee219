"""Raw history: each event is stored once, under a compare-and-set, and read as counted."""

from __future__ import annotations

import asyncio
import itertools
import random
import uuid
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from store.postgres.history import HistoryRefused, HistoryWriter, PostgresHistory
from store.postgres.pool import Pool, make_pool
from store.postgres.rows import GROUP_COLUMNS, instant
from store.postgres.sql import load
from store.records import GROUPINGS, Event, Grouping, Question, StoreUnavailable
from store.settings import Settings
from store.windows import DAY_MS, PERIODS, Calendar, Period, Window, exact_window, window_of
from streams.decode.event import ID_CHARS_MAX
from tests.support.events import NOW_MS, TODAY, events, make_event, sourced
from tests.support.oracle import groups_of, page_of
from tests.support.services.base import Services

LOG = "0b0c3a52-8b1e-4a53-9d1f-0d7a4a1f0c11"
OTHER_LOG = "5e9f7d2c-0f0b-4d43-8f4a-6a5c6f9b7e21"


async def opened(url: str, statement_timeout_ms: int | None = None) -> Pool:
    pool = make_pool(
        Settings(database_url=url), max_size=8, statement_timeout_ms=statement_timeout_ms
    )
    await pool.open()
    return pool


def with_pool(
    url: str, body: Callable[[Pool], Awaitable[None]], *, statement_timeout_ms: int | None = None
) -> None:
    async def go() -> None:
        async with await opened(url, statement_timeout_ms) as pool:
            await body(pool)

    asyncio.run(go())


async def store(
    writer: HistoryWriter,
    batch: Sequence[Event],
    *,
    first: int | None = None,
    partition: int = 0,
    topic_id: str = LOG,
) -> int | HistoryRefused:
    """Write `batch` at the offsets from `first` on."""
    start = first or 0
    return await writer.write(
        topic="interactions",
        topic_id=topic_id,
        partition=partition,
        expected_offset=first,
        next_offset=start + len(batch),
        events=sourced(*batch, first=start),
    )


async def rows(pool: Pool, statement: str) -> list[tuple[Any, ...]]:
    async with pool.connection() as connection:
        cursor = await connection.execute(statement.encode())
        return await cursor.fetchall() if cursor.description else []


async def offsets(pool: Pool) -> list[int]:
    return [n for (n,) in await rows(pool, "SELECT source_offset FROM interaction_history ORDER BY 1")]  # fmt: skip  # noqa: E501


# ---- storing


def test_every_field_is_stored_as_it_came(database_url: str) -> None:
    full = msgspec.structs.replace(
        make_event(tenant="t-1", customer="😀é", offer="o", creative="c", channel="h"),
        interaction_id="i-1",
        direction="outbound",
        campaign="camp",
        recommendation="rec",
        conversion_value=0.1,
        occurred_ms=-1 + 2**40,
        context=b'{"nul":"\\u0000","big":12345678901234567890.10,"lone":"\\ud800"}',
    )
    least = msgspec.structs.replace(
        make_event(creative=None, channel=None), interaction_id=None, occurred_ms=2 * DAY_MS + 1
    )

    async def body(pool: Pool) -> None:
        assert await store(HistoryWriter(pool), [full, least], partition=3) == 2
        first, second = await rows(
            pool,
            "SELECT tenant_id, event_id, interaction_id, customer_id, offer_id, creative_id,"
            " channel_id, outcome_type, direction, campaign_id, recommendation_id,"
            " conversion_value, (extract(epoch FROM occurred_at) * 1000)::bigint, source_topic,"
            " source_log, source_partition, source_offset,"
            " (extract(epoch FROM recorded_at) * 1000)::bigint, context::text"
            " FROM interaction_history ORDER BY source_offset",
        )
        assert first == (
            "t-1", uuid.UUID(bytes=full.event_id), "i-1", "😀é", "o", "c", "h", "impression",
            "outbound", "camp", "rec", 0.1, 2**40 - 1, "interactions", uuid.UUID(LOG), 3, 0, NOW_MS,
            '{"nul":"\\u0000","big":12345678901234567890.10,"lone":"\\ud800"}',
        )  # fmt: skip
        assert second == (
            "acme", uuid.UUID(bytes=least.event_id), None, "C-1", "off_001", None, None,
            "impression", None, None, None, None, 2 * DAY_MS + 1, "interactions", uuid.UUID(LOG),
            3, 1, NOW_MS, None,
        )  # fmt: skip

    with_pool(database_url, body)


def test_the_longest_ids_fit_the_indexes(database_url: str) -> None:
    """An index entry has at most 2,704 bytes, after compression: random characters have none."""
    rng = random.Random(1)

    def longest() -> str:
        return "".join(chr(rng.randrange(0x10000, 0x110000)) for _ in range(ID_CHARS_MAX))

    event = make_event(
        tenant="t" * 64, customer=longest(), offer=longest(), creative=longest(), channel=longest()
    )
    event = msgspec.structs.replace(event, outcome=longest())

    async def body(pool: Pool) -> None:
        assert await store(HistoryWriter(pool), [event]) == 1
        for grouping in GROUPINGS:
            asked = Question(
                event.tenant, grouping, "alltime", Window(None, None), TODAY, "UTC", 10, 0
            )
            page = await PostgresHistory(pool).read(asked)
            assert page.groups[0].counts == {event.outcome: 1}

    with_pool(database_url, body)


@pytest.mark.parametrize("grouping", GROUPINGS)
def test_questions_read_indexes_and_one_customer_reads_its_own_rows(
    database_url: str, grouping: Grouping
) -> None:
    """Also where a window has all rows of a month, which the planner would read from the table."""
    batch = [make_event(customer=f"C-{n % 500}", offer=f"o-{n % 3}") for n in range(2_000)]
    column = GROUP_COLUMNS[grouping]
    days = "occurred_at >= %(start)s"
    parameters = {
        "tenant": "acme", "id": "C-7", "limit": 100, "offset": 0, "start": instant(0),
        "daily": instant(0), "weekly": instant(0), "monthly": instant(0), "end": instant(NOW_MS),
    }  # fmt: skip
    month = f"{instant(NOW_MS):%Y_%m}"
    listed, one = ("customers", "customer") if grouping == "customer" else ("groups", "group")

    async def body(pool: Pool) -> None:
        await store(HistoryWriter(pool), batch)
        with psycopg.connect(database_url, autocommit=True) as own:
            own.execute("VACUUM (ANALYZE) interaction_history")
        async with pool.connection() as connection:
            await connection.execute(load("settings_of_answers"))
            plans = []
            for name in (f"read_{listed}", f"read_{one}"):
                query = load(name).format(column=column, days=days, of_page="customer_id = 'C-7'")
                cursor = await connection.execute(f"EXPLAIN {query}", parameters)
                plans.append([line for (line,) in await cursor.fetchall()])
        for plan in plans:
            scans = [line for line in plan if f" on interaction_history_{month} " in line]
            assert scans
            # Of a page of customers, and of one, the rows are found by the customer.
            kind = "Index" if grouping == "customer" else "Index Only Scan"
            assert all(kind in line for line in scans), scans
        # Only of the month that has rows: of an empty one, each index costs as much as the other.
        lines = zip(plans[1], plans[1][1:], strict=False)
        conditions = [then for line, then in lines if f" on interaction_history_{month} " in line]
        assert conditions
        assert all("Index Cond" in each for each in conditions)
        assert all(("customer_id = " in each) == (grouping == "customer") for each in conditions)

    with_pool(database_url, body)


def test_an_identity_is_stored_once_whatever_its_time_partition_and_log(database_url: str) -> None:
    """Keep the lowest offset of an identity in a batch, whatever the order; ignore later ones.

    The same identity of another tenant is a different one.
    """
    e = make_event(identity="e")
    later = msgspec.structs.replace(e, occurred_ms=e.occurred_ms - 400 * DAY_MS)
    theirs = msgspec.structs.replace(e, tenant="other")

    async def body(pool: Pool) -> None:
        writer = HistoryWriter(pool)
        batch = sourced(e, later, theirs, make_event(), first=5)
        new = await writer.write(
            topic="i",
            topic_id=LOG,
            partition=0,
            expected_offset=None,
            next_offset=9,
            events=batch[::-1],
        )
        assert new == 3
        assert await offsets(pool) == [5, 7, 8]
        assert await store(writer, [later, make_event(), e], first=9) == 1
        assert await store(writer, [e, later], partition=1) == 0
        assert await store(writer, [later], topic_id=OTHER_LOG) == 0
        assert await offsets(pool) == [5, 7, 8, 10]
        assert await rows(pool, "SELECT count(*) FROM interaction_identities") == [(4,)]

    with_pool(database_url, body)


def test_a_month_without_a_partition_is_made_when_a_row_needs_it(database_url: str) -> None:
    far = make_event(occurred_ms=NOW_MS + 900 * DAY_MS)

    async def body(pool: Pool) -> None:
        writer = HistoryWriter(pool)
        assert await store(writer, [make_event(), far]) == 2
        assert await offsets(pool) == [0, 1]
        assert await writer.positions(LOG) == {0: 2}

    with_pool(database_url, body)


# ---- compare and set


def test_positions_are_the_next_offsets_of_one_log(database_url: str) -> None:
    async def body(pool: Pool) -> None:
        writer = HistoryWriter(pool)
        assert await writer.positions(LOG) == {}
        await store(writer, [make_event(), make_event()])
        await store(writer, [make_event()], partition=2)
        await store(writer, [make_event()], topic_id=OTHER_LOG)
        await writer.write(
            topic="i", topic_id=LOG, partition=2, expected_offset=1, next_offset=50, events=[]
        )
        assert await writer.positions(LOG) == {0: 2, 2: 50}
        assert await writer.positions(OTHER_LOG) == {0: 1}

    with_pool(database_url, body)


@pytest.mark.parametrize(
    ("stored", "expected_offset"), [(None, 0), (None, 4), (2, None), (2, 0), (2, 1), (2, 3)]
)
def test_a_writer_with_another_watermark_changes_nothing_and_learns_the_true_one(
    database_url: str, stored: int | None, expected_offset: int | None
) -> None:
    async def body(pool: Pool) -> None:
        writer = HistoryWriter(pool)
        before = {}
        if stored is not None:
            await store(writer, [make_event(identity=str(i)) for i in range(stored)])
            before = {0: stored}
        refused = await store(writer, [make_event(identity="new")], first=expected_offset)
        assert refused == HistoryRefused(stored)
        assert await writer.positions(LOG) == before
        assert await offsets(pool) == list(range(stored or 0))
        assert len(await rows(pool, "SELECT event_id FROM interaction_identities")) == (stored or 0)

    with_pool(database_url, body)


@pytest.mark.parametrize("first", [None, 0])
def test_of_many_writers_of_one_step_exactly_one_wins(database_url: str, first: int | None) -> None:
    async def body(pool: Pool) -> None:
        writer = HistoryWriter(pool)
        if first is not None:
            await writer.write(
                topic="i",
                topic_id=LOG,
                partition=0,
                expected_offset=None,
                next_offset=first,
                events=[],
            )
        rivals = [[make_event(identity=f"{i}-{j}") for j in range(20)] for i in range(6)]
        answers = await asyncio.gather(
            *(store(writer, batch, first=first) for batch in rivals), return_exceptions=True
        )
        assert sorted(map(str, answers)) == ["20"] + [str(HistoryRefused(20))] * 5
        assert await offsets(pool) == list(range(20))

    with_pool(database_url, body)


def test_partitions_with_the_same_identities_do_not_deadlock(database_url: str) -> None:
    """Redelivered to several partitions at once, in any order, each identity is stored once."""
    batch = [make_event(identity=f"e{i}") for i in range(2_000)]

    async def body(pool: Pool) -> None:
        writer = HistoryWriter(pool)
        for step in range(3):
            part = batch[:: step + 1]
            new = await asyncio.gather(
                *(
                    store(writer, part[::-1] if p % 2 else part, partition=p + 10 * step)
                    for p in range(6)
                )
            )
            assert sum(rows for rows in new if isinstance(rows, int)) == (2_000 if step == 0 else 0)
            assert not [refused for refused in new if not isinstance(refused, int)]
        assert len(await offsets(pool)) == 2_000

    with_pool(database_url, body)


@pytest.mark.parametrize(
    ("first", "next_offset", "at"), [(5, 4, []), (5, 9, [4]), (5, 9, [6, 9]), (None, 3, [3])]
)
def test_offsets_that_cannot_be_are_an_error(
    database_url: str, first: int | None, next_offset: int, at: list[int]
) -> None:
    batch = [e for offset in at for e in sourced(make_event(), first=offset)]

    async def body(pool: Pool) -> None:
        with pytest.raises(ValueError, match=r"watermark|offsets"):
            await HistoryWriter(pool).write(
                topic="i",
                topic_id=LOG,
                partition=0,
                expected_offset=first,
                next_offset=next_offset,
                events=batch,
            )

    with_pool(database_url, body)


# ---- sources of rows


def test_a_replay_covers_a_tenant_whose_rows_are_all_ahead_of_it(database_url: str) -> None:
    async def body(pool: Pool) -> None:
        writer = HistoryWriter(pool)
        assert await writer.covers("acme", LOG, {})
        theirs = [make_event(tenant="other") for _ in range(3)]
        await store(writer, [*theirs, make_event(), make_event()])
        await store(writer, [make_event(tenant="other"), make_event()], partition=2)
        assert await writer.covers("acme", LOG, {0: 3, 2: 1})
        assert await writer.covers("acme", LOG, {0: 0, 1: 7, 2: 0})
        assert not await writer.covers("acme", LOG, {0: 4, 2: 1})
        assert not await writer.covers("acme", LOG, {0: 3, 2: 2})
        assert not await writer.covers("acme", LOG, {0: 3})
        assert not await writer.covers("acme", LOG, {2: 1})
        assert not await writer.covers("acme", OTHER_LOG, {0: 0, 2: 0})
        assert await writer.covers("nobody", OTHER_LOG, {})
        await store(writer, [make_event(occurred_ms=NOW_MS - 90 * DAY_MS)], topic_id=OTHER_LOG)
        assert not await writer.covers("acme", LOG, {0: 0, 2: 0})
        assert not await writer.covers("acme", OTHER_LOG, {0: 0, 2: 0})

    with_pool(database_url, body)


# ---- reading

BERLIN_SPRING = (datetime(2026, 3, 29, tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)).days


def question(
    group_by: Grouping,
    window: Window,
    *,
    zone: str = "UTC",
    period: Period | None = None,
    limit: int = 100,
    offset: int = 0,
) -> Question:
    return Question("acme", group_by, period, window, TODAY, zone, limit, offset)


async def assert_reads(
    history: PostgresHistory,
    stored: Sequence[Event],
    window: Window,
    zone: str,
    tenant: str = "acme",
) -> None:
    """Compare every grouping and every kind of page with the expected counts."""
    for group_by in GROUPINGS:
        groups = groups_of(stored, group_by, window, Calendar(zone))
        for limit, offset in ((500, 0), (1, 0), (2, 1), (3, len(groups)), (9, 2**70)):
            asked = question(group_by, window, zone=zone, limit=limit, offset=offset)
            asked = asked._replace(tenant=tenant)
            assert await history.read(asked) == page_of(groups, limit, offset), asked


def test_history_reads_as_plain_counting_does(database_url: str) -> None:
    """Ties, ids of every script, groups without a treatment or channel, own outcome types."""
    tenants = itertools.count()

    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(batch=st.lists(events(days=range(TODAY - 40, TODAY + 2)), max_size=40))
    def check(runner: asyncio.Runner, pool: Pool, batch: list[Event]) -> None:
        number = next(tenants)
        mine = [msgspec.structs.replace(event, tenant=f"t{number}") for event in batch]

        async def body() -> None:
            assert await store(HistoryWriter(pool), mine, partition=number) == len(mine)
            history = PostgresHistory(pool)
            for period in PERIODS:
                window = window_of(period, TODAY)
                await assert_reads(history, mine, window, "UTC", tenant=f"t{number}")
            window = exact_window(3, TODAY)
            await assert_reads(history, mine, window, "UTC", tenant=f"t{number}")

        runner.run(body())

    with asyncio.Runner() as runner:
        pool = runner.run(opened(database_url))
        try:
            check(runner, pool)
        finally:
            runner.run(pool.close())


@pytest.mark.parametrize(
    ("zone", "today"),
    [
        ("Europe/Berlin", BERLIN_SPRING),  # a day of 23 hours
        ("Europe/Berlin", BERLIN_SPRING + 210),  # of 25: 2026-10-25
        ("America/Santiago", BERLIN_SPRING + 161),  # midnight does not exist: 2026-09-06
        ("Asia/Kathmandu", TODAY),  # 05:45 from UTC
        ("Pacific/Kiritimati", TODAY),
    ],
)
def test_windows_are_days_of_the_zone(database_url: str, zone: str, today: int) -> None:
    """An event at each hour, and at the last and first millisecond of each day."""
    calendar = Calendar(zone)
    instants = [(today - 2) * DAY_MS + hour * 3_600_000 for hour in range(5 * 24)]
    for day in range(today - 2, today + 3):
        instants += [calendar.midnight_ms(day) - 1, calendar.midnight_ms(day)]
    batch = [
        make_event(occurred_ms=ms, offer=f"o{i % 3}", customer=f"c{i % 7}")
        for i, ms in enumerate(instants)
    ]

    async def body(pool: Pool) -> None:
        await store(HistoryWriter(pool), batch)
        for days in (1, 2, 3):
            await assert_reads(PostgresHistory(pool), batch, exact_window(days, today), zone)

    with_pool(database_url, body)


def test_ties_are_in_the_order_of_code_points_and_a_page_beyond_the_end_knows_the_total(
    database_url: str,
) -> None:
    ids = ("é", "b", "a", "B", "😀", "_", "\uffff", "A", "ab", "a b")

    async def body(pool: Pool) -> None:
        history = PostgresHistory(pool)
        asked = question("customer", Window(None, None))
        assert await history.read(asked) == ([], 0)
        await store(HistoryWriter(pool), [make_event(customer=i) for i in ids])
        page = await history.read(asked)
        assert [g.id for g in page.groups] == [
            "A", "B", "_", "a", "a b", "ab", "b", "é", "\uffff", "😀",
        ]  # fmt: skip
        assert await history.read(asked._replace(offset=7, limit=2)) == (page.groups[7:9], 10)
        assert await history.read(asked._replace(offset=10)) == ([], 10)
        assert await history.read(asked._replace(tenant="other")) == ([], 0)

    with_pool(database_url, body)


# ---- when Postgres does not answer


def test_a_statement_that_takes_too_long_is_unavailable(database_url: str) -> None:
    async def body(pool: Pool) -> None:
        history = PostgresHistory(pool)
        with psycopg.connect(database_url) as other:
            other.execute("LOCK interaction_history IN ACCESS EXCLUSIVE MODE")
            with pytest.raises(StoreUnavailable, match=r"Postgres: .*statement timeout"):
                await history.read(question("action", Window(None, None)))
            with pytest.raises(StoreUnavailable, match=r"Postgres: .*statement timeout"):
                await store(HistoryWriter(pool), [make_event()])
        assert await history.read(question("action", Window(None, None))) == ([], 0)
        assert await store(HistoryWriter(pool), [make_event()]) == 1

    with_pool(database_url, body, statement_timeout_ms=200)


def test_a_server_that_comes_back_is_used_again(database_url: str, services: Services) -> None:
    """Raise StoreUnavailable from open and from new connections."""

    async def body(pool: Pool) -> None:
        writer, history = HistoryWriter(pool), PostgresHistory(pool)
        await store(writer, [make_event()])
        await asyncio.to_thread(services.postgres.stop)
        for call in (
            lambda: store(writer, [make_event()], first=1),
            lambda: history.read(question("action", Window(None, None))),
            lambda: writer.positions(LOG),
            lambda: writer.covers("acme", LOG, {}),
            history.ping,
        ):
            with pytest.raises(StoreUnavailable, match="Postgres"):
                await call()
        await asyncio.to_thread(services.postgres.start)
        await history.ping()
        assert await store(writer, [make_event()], first=1) == 1

    with_pool(database_url, body)


def test_a_server_that_says_nothing_is_unavailable(database_url: str, services: Services) -> None:
    async def body(pool: Pool) -> None:
        history = PostgresHistory(pool, timeout_s=0.3)
        await history.ping()
        await asyncio.to_thread(services.postgres.pause)
        try:
            with pytest.raises(StoreUnavailable, match=r"Postgres: no answer in 0\.3 s"):
                await history.read(question("action", Window(None, None)))
        finally:
            await asyncio.to_thread(services.postgres.resume)
        await history.ping()

    with_pool(database_url, body)


def test_tables_that_are_not_there_say_what_to_do(database_url: str) -> None:
    async def body(pool: Pool) -> None:
        await rows(pool, "DROP TABLE history_watermarks")
        with pytest.raises(StoreUnavailable, match=r"history_watermarks.*run `migrate` first"):
            await HistoryWriter(pool).positions(LOG)

    with_pool(database_url, body)


def test_an_event_of_a_month_whose_partition_was_dropped_is_stored(database_url: str) -> None:
    async def body(pool: Pool) -> None:
        writer = HistoryWriter(pool)
        assert await store(writer, [make_event()]) == 1
        ((table,),) = await rows(pool, "SELECT tableoid::regclass::text FROM interaction_history")
        await rows(pool, f"DROP TABLE {table}")
        assert await store(writer, [make_event()], first=1) == 1
        assert await offsets(pool) == [1]

    with_pool(database_url, body)
