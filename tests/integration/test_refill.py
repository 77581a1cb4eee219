"""Refill of history from the topic: what was lost comes back, and no event has two rows."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import psycopg
import pytest
from aiokafka import AIOKafkaProducer

import streams.refill
from store.offsets import Gap
from store.postgres.gaps import HistoryGaps, note_gaps
from store.postgres.history import HistoryWriter, PostgresHistory
from store.postgres.pool import Pool, make_pool
from store.records import GROUPINGS, Event, Page, SourcedEvent
from store.settings import Settings
from store.windows import DAY_MS, PERIODS
from streams.decode.decoder import Decoder
from streams.kafka.topic_id import describe_topic
from streams.kafka.topic_scan import open_scan
from streams.refill import Refill, RefillError, RefillResult
from tests.support.contract import question
from tests.support.events import NOW_MS, encode, make_event
from tests.support.resources import PARTITIONS
from tests.support.stores import some_events

EVENTS = 400


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams.refill, "BATCH_RECORDS", 30)


class Lossy:
    """A topic and the history of its events, of which a test loses a part."""

    def __init__(self, settings: Settings, pool: Pool) -> None:
        self.settings, self.pool = settings, pool

    async def send(self, values: Sequence[bytes], *, first_partition: int = 0) -> None:
        producer = AIOKafkaProducer(bootstrap_servers=self.settings.brokers, acks="all")
        await producer.start()
        try:
            for index, value in enumerate(values):
                await producer.send(
                    self.settings.interactions_topic,
                    value,
                    partition=(first_partition + index) % PARTITIONS,
                )
        finally:
            await producer.stop()

    async def store_all(self) -> None:
        """Store the topic's events as a worker does."""
        decode = Decoder(future_tolerance_s=300, event_bytes_max=65_536).decode
        writer = HistoryWriter(self.pool)
        async with open_scan(self.settings, client_id="test") as scan:
            stored: dict[int, int] = await writer.positions(scan.topic_id)
            scan.seek(stored)
            async for batch in scan.batches(await scan.ends()):
                events = []
                for record in batch.records:
                    event = decode(record.value, NOW_MS)
                    if isinstance(event, Event) and event.outcome != "unheard_of":
                        events.append(SourcedEvent(event, record.offset, record.timestamp))
                await writer.write(
                    topic=self.settings.interactions_topic,
                    topic_id=scan.topic_id,
                    partition=batch.partition,
                    expected_offset=stored.get(batch.partition),
                    next_offset=batch.next_offset,
                    events=events,
                )
                stored[batch.partition] = batch.next_offset

    async def refill(self, tenant: str | None = None, **options: Any) -> RefillResult:
        options.setdefault("counted_tenants", ())
        options.setdefault("now_ms", lambda: NOW_MS)
        result = await Refill(self.settings, self.pool, tenant=tenant, **options).run()
        accounted = result.stored + result.present + result.rejected + result.skipped
        assert accounted + result.of_others + result.left == result.scanned
        return result

    async def sql(self, statement: str) -> list[tuple[Any, ...]]:
        async with self.pool.connection() as connection:
            cursor = await connection.execute(statement.encode())
            return await cursor.fetchall() if cursor.description else []

    async def state(self) -> tuple[Any, ...]:
        """Return all that history has: rows, identities, watermarks and answers."""
        history = PostgresHistory(self.pool)
        answers: list[Page] = [
            await history.read(question(grouping, period))
            for grouping in GROUPINGS
            for period in PERIODS
        ]
        return (
            await self.sql("SELECT h.*::text FROM interaction_history h ORDER BY 1"),
            await self.sql("SELECT tenant_id, event_id FROM interaction_identities ORDER BY 1, 2"),
            await self.sql("SELECT log, partition, next_offset FROM history_watermarks ORDER BY 2"),
            answers,
        )


def run(settings: Settings, check: Callable[[Lossy], Awaitable[None]]) -> None:
    async def go() -> None:
        async with make_pool(settings, max_size=6) as pool:
            await check(Lossy(settings, pool))

    asyncio.run(go())


def encoded(events: Sequence[Event]) -> list[bytes]:
    return [encode(event) for event in events]


LOSSES = {
    "rows, identities and watermarks": (
        "TRUNCATE interaction_history, interaction_identities, history_watermarks",
        EVENTS,
    ),
    "rows and identities": ("TRUNCATE interaction_history, interaction_identities", EVENTS),
    "watermarks": ("TRUNCATE history_watermarks", 0),
    "watermarks and rows": ("TRUNCATE history_watermarks, interaction_history", EVENTS),
    "rows": ("TRUNCATE interaction_history", EVENTS),
    "identities": ("TRUNCATE interaction_identities", 0),
    "a part of the rows": (
        "DELETE FROM interaction_history WHERE occurred_at >= '2026-11-10'",
        None,
    ),
    "a part of the rows and of the identities": (
        "WITH lost AS (DELETE FROM interaction_history WHERE occurred_at >= '2026-11-10'"
        " RETURNING *)"
        " DELETE FROM interaction_identities i USING lost l"
        " WHERE l.event_id = i.event_id AND l.source_partition < 2",
        None,
    ),
    "some rows, and identities of others": (
        "WITH lost AS (DELETE FROM interaction_history WHERE source_partition = 1 RETURNING *)"
        " DELETE FROM interaction_identities i USING interaction_history h"
        " WHERE h.event_id = i.event_id AND h.source_partition = 2",
        EVENTS // PARTITIONS,
    ),
    "one watermark and all rows of another partition": (
        "WITH lost AS (DELETE FROM history_watermarks WHERE partition = 1 RETURNING *)"
        " DELETE FROM interaction_history WHERE source_partition = 2",
        EVENTS // PARTITIONS,
    ),
    "nothing": ("SELECT 1", 0),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_what_was_lost_comes_back_once(settings: Settings, loss: str) -> None:
    statement, lost = LOSSES[loss]

    async def check(lossy: Lossy) -> None:
        await lossy.send(encoded(some_events(EVENTS)))
        await lossy.store_all()
        before = await lossy.state()
        assert len(before[0]) == EVENTS
        await lossy.sql(statement)
        rows = len((await lossy.state())[0])
        result = await lossy.refill()
        assert result.stored == (EVENTS - rows if lost is None else lost)
        assert result.scanned == EVENTS
        assert await lossy.state() == before
        assert (await lossy.refill()).stored == 0
        assert await lossy.state() == before

    run(settings, check)


def test_a_dropped_month_comes_back(settings: Settings) -> None:
    async def check(lossy: Lossy) -> None:
        await lossy.send(encoded(some_events(EVENTS)))
        await lossy.store_all()
        before = await lossy.state()
        tables = await lossy.sql(
            "SELECT tableoid::regclass::text, count(*) FROM interaction_history GROUP BY 1"
        )
        for table, rows in tables:
            await lossy.sql(f"DROP TABLE {table}")
            assert (await lossy.refill()).stored == rows
            assert await lossy.state() == before

    run(settings, check)


def test_a_detached_month_is_not_filled_in_a_second_table(settings: Settings) -> None:
    async def check(lossy: Lossy) -> None:
        await lossy.send(encoded(some_events(EVENTS)))
        await lossy.store_all()
        before = await lossy.state()
        table = "interaction_history_older"
        await lossy.sql(f"ALTER TABLE interaction_history DETACH PARTITION {table}")
        with pytest.raises(RuntimeError, match="exists but is no partition"):
            await lossy.refill()
        ((bound,),) = await lossy.sql("SELECT min(occurred_at)::date FROM interaction_history")
        await lossy.sql(
            f"ALTER TABLE interaction_history ATTACH PARTITION {table}"
            f" FOR VALUES FROM (MINVALUE) TO ('{bound:%Y-%m}-01 00:00:00+00')"
        )
        await lossy.refill()
        assert await lossy.state() == before

    run(settings, check)


def test_copies_stay_one_row(settings: Settings) -> None:
    """A copy may be in another partition, and have another time: the identity is its id."""

    async def check(lossy: Lossy) -> None:
        batch = some_events(60)
        copies = [
            make_event(
                identity=event.interaction_id,
                customer=event.customer,
                occurred_ms=NOW_MS - 3 * DAY_MS,
            )
            for event in batch[:20]
        ]
        await lossy.send(encoded(batch))
        await lossy.store_all()
        await lossy.send(encoded([*batch, *copies]), first_partition=1)
        await lossy.store_all()
        before = await lossy.state()
        assert len(before[0]) == 60
        assert (await lossy.refill()).present == 140

        # The rows are there, but for one; the copies are suspects, and have a row elsewhere.
        lost = "DELETE FROM interaction_history WHERE source_partition = 0 AND source_offset = 0"
        await lossy.sql(lost)
        result = await lossy.refill()
        assert (result.stored, result.present) == (1, 139)
        rows = await lossy.sql("SELECT event_id FROM interaction_history ORDER BY 1")
        assert [(event_id,) for _, event_id in before[1]] == rows

        # All rows are lost: one of the copies of each comes back.
        for tables in ("interaction_history", "interaction_history, interaction_identities"):
            await lossy.sql(f"TRUNCATE {tables}")
            assert (await lossy.refill()).stored == 60
            rows = await lossy.sql("SELECT event_id FROM interaction_history ORDER BY 1")
            assert [(event_id,) for _, event_id in before[1]] == rows

    run(settings, check)


@pytest.mark.parametrize("loss", [name for name, (_, lost) in LOSSES.items() if lost != 0])
def test_two_at_once_store_each_event_once(settings: Settings, loss: str) -> None:
    async def check(lossy: Lossy) -> None:
        await lossy.send(encoded(some_events(EVENTS)))
        await lossy.store_all()
        before = await lossy.state()
        await lossy.sql(LOSSES[loss][0])
        lost = EVENTS - len((await lossy.state())[0])
        results = await asyncio.gather(*(lossy.refill() for _ in range(3)))
        assert sum(result.stored for result in results) == lost
        assert await lossy.state() == before

    run(settings, check)


@pytest.mark.parametrize("loss", [name for name, (_, lost) in LOSSES.items() if lost != 0])
def test_an_interrupted_one_is_finished_by_the_next(settings: Settings, loss: str) -> None:
    async def check(lossy: Lossy) -> None:
        await lossy.send(encoded(some_events(EVENTS)))
        await lossy.store_all()
        before = await lossy.state()
        await lossy.sql(LOSSES[loss][0])

        class Interrupted(Exception):
            pass

        def interrupt(phase: str, done: int, total: int) -> None:
            if phase == "topic" and done > total // 2:
                raise Interrupted

        with pytest.raises(Interrupted):
            await lossy.refill(progress=interrupt)
        left = EVENTS - len((await lossy.state())[0])
        result = await lossy.refill()
        # Where it had begun to move a lost watermark, a worker goes on from there.
        assert result.stored + result.beyond == left
        if result.beyond:
            await lossy.store_all()
            await lossy.refill()  # a worker adds no row to an identity that survived
        assert await lossy.state() == before

    run(settings, check)


def test_events_beyond_the_watermark_are_left_to_the_workers(settings: Settings) -> None:
    async def check(lossy: Lossy) -> None:
        batch = some_events(EVENTS)
        await lossy.send(encoded(batch[:100]))
        await lossy.store_all()
        before = await lossy.state()
        await lossy.send(encoded(batch[100:]))
        await lossy.sql("TRUNCATE interaction_history, interaction_identities")
        result = await lossy.refill()
        assert (result.scanned, result.stored) == (100, 100)
        assert result.beyond == EVENTS - 100
        assert await lossy.state() == before

    run(settings, check)


def test_gaps_that_are_filled_are_forgotten(settings: Settings) -> None:
    """Also a part of one: the topic has the offsets from 0 to 25 of each partition."""

    async def check(lossy: Lossy) -> None:
        await lossy.send(encoded(some_events(100)))
        await lossy.store_all()
        topic_id = (await describe_topic(settings, settings.interactions_topic)).topic_id
        other = str(uuid.uuid4())
        for log, partition, first, end in (
            (topic_id, 0, 3, 9),
            (topic_id, 1, 20, 30),
            (other, 0, 3, 9),
        ):
            async with lossy.pool.connection() as connection:
                await note_gaps(connection, [Gap(log, partition, first, end)])
        await lossy.refill()
        gaps = await HistoryGaps(lossy.pool).gaps()
        assert sorted(gaps) == sorted([Gap(topic_id, 1, 25, 30), Gap(other, 0, 3, 9)])

    run(settings, check)


def test_a_worker_may_write_at_the_same_time(settings: Settings) -> None:
    """Both have lost all: whoever moves a watermark first, each event is stored once."""

    async def check(lossy: Lossy) -> None:
        await lossy.send(encoded(some_events(EVENTS)))
        await lossy.store_all()
        before = await lossy.state()
        await lossy.sql(LOSSES["rows, identities and watermarks"][0])
        worker: list[asyncio.Task[None]] = []

        def progress(phase: str, done: int, total: int) -> None:
            if phase == "identities":
                worker.append(asyncio.create_task(lossy.store_all()))

        await lossy.refill(progress=progress)
        await asyncio.gather(*worker)
        await lossy.store_all()
        await lossy.refill()
        assert await lossy.state() == before

    run(settings, check)


def test_one_tenant(settings: Settings) -> None:
    async def check(lossy: Lossy) -> None:
        await lossy.send(encoded(some_events(40)))
        await lossy.send(encoded([make_event(tenant="other") for _ in range(40)]))
        await lossy.store_all()
        before = await lossy.state()
        await lossy.sql("TRUNCATE interaction_history, interaction_identities")
        result = await lossy.refill("acme")
        assert (result.stored, result.of_others) == (40, 40)
        rows = await lossy.sql("SELECT tenant_id, count(*) FROM interaction_history GROUP BY 1")
        assert rows == [("acme", 40)]
        # Rows of one tenant are not what a watermark stands for.
        await lossy.sql("TRUNCATE history_watermarks")
        with pytest.raises(RefillError, match=r"position in partitions \[0, 1, 2, 3\]"):
            await lossy.refill("acme")
        assert (await lossy.refill()).stored == 40
        assert await lossy.state() == before

    run(settings, check)


def test_records_that_are_no_events_of_ours_are_counted(settings: Settings) -> None:
    async def check(lossy: Lossy) -> None:
        values = [
            *encoded(some_events(10)),
            b"not json",
            encode(make_event(outcome="unheard_of")),
            b'{"type":"interaction.other.v1","timestamp":"2026-11-24T00:00:00Z","payload":{}}',
            encode(make_event(tenant="one-too-many")),
        ]
        await lossy.send(values)
        limited = Lossy(settings.model_copy(update={"tenants_max": 2}), lossy.pool)
        result = await limited.refill(counted_tenants=["acme", "another"])
        assert (result.scanned, result.stored, result.rejected, result.skipped) == (14, 10, 3, 1)

    run(settings, check)


def test_rows_are_restored_in_bounded_groups(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams.refill, "SUSPECTS_MAX", 70)

    async def check(lossy: Lossy) -> None:
        await lossy.send(encoded(some_events(EVENTS)))
        await lossy.store_all()
        before = await lossy.state()
        await lossy.sql("TRUNCATE interaction_history")
        phases: list[str] = []
        result = await lossy.refill(progress=lambda phase, done, total: phases.append(phase))
        assert result.stored == EVENTS
        assert phases.count("rows") > 3
        assert await lossy.state() == before

    run(settings, check)


def test_progress_ends_at_the_total(settings: Settings) -> None:
    async def check(lossy: Lossy) -> None:
        await lossy.send(encoded(some_events(EVENTS)))
        seen: list[tuple[str, int, int]] = []
        await lossy.refill(progress=lambda *each: seen.append(each))
        assert seen[0] == ("identities", 0, 0)
        assert seen[-2:] == [("topic", EVENTS, EVENTS), ("rows", 0, 0)]

    run(settings, check)


def test_a_lost_database_is_reported(settings: Settings) -> None:
    with psycopg.connect(settings.database_url, autocommit=True) as connection:
        connection.execute("DROP TABLE interaction_identities")

    async def check(lossy: Lossy) -> None:
        with pytest.raises(Exception, match="run `migrate` first"):
            await lossy.refill()

    run(settings, check)
