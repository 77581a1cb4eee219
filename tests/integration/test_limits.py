"""Everything has a limit, and at each one the program says so and loses nothing."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import httpx
import psycopg
import pytest
from structlog.testing import capture_logs

from cli.embedded.server import free_port
from cli.status_report import gather_status
from store import metrics
from store.catalog import CatalogCache
from store.postgres.catalog import load_catalog
from store.postgres.history import HistoryWriter
from store.postgres.pool import Pool, make_pool
from store.records import Event, Incomplete
from store.redis.client import make_client
from store.redis.counters import RedisCounters
from store.settings import Settings
from streams.commit import CounterCommitter
from streams.commit_batch import LOG_APPEND_TIME, CommitBatchBuilder
from streams.dead_letters import headers as dead_letters
from streams.dead_letters.alarm import RatioAlarm
from streams.dead_letters.record import RejectedRecord
from streams.decode.decoder import Decoder
from streams.history_sink import HistorySink
from streams.kafka.consumer import Batch
from streams.pipeline import Pipeline
from tests.support.events import encode, make_event
from tests.support.program import read_topic
from tests.support.waiting import eventually, eventually_async
from tests.support.worker_fixture import make_events, now_ms, open_worker_fixture

pytestmark = pytest.mark.anyio
BATCH_EVENTS = 10


class Record(NamedTuple):
    offset: int
    value: bytes
    timestamp: int
    key: bytes | None = None
    headers: Sequence[tuple[str, bytes]] = ()
    timestamp_type: int = LOG_APPEND_TIME


class KeptLetters:
    """Keeps what it is sent."""

    def __init__(self) -> None:
        self.letters: list[RejectedRecord] = []

    async def send(self, letters: Sequence[RejectedRecord]) -> None:
        self.letters += letters


class Bench:
    """A pipeline on real stores, and one partition's batches handed to it as Kafka's are."""

    def __init__(self, settings: Settings, pool: Pool, client: Any) -> None:
        self.letters = KeptLetters()
        self.acknowledged = 0
        writer = HistoryWriter(pool)
        counters = RedisCounters(client, settings.redis_prefix)
        self.history = HistorySink(
            writer,
            topic=settings.interactions_topic,
            buffer_events=settings.history_buffer_events,
            batch_events=settings.history_batch_events,
            buffer_bytes=settings.history_buffer_bytes,
            on_behind=lambda behind: pytest.fail(str(behind)),
        )
        self.committer = CounterCommitter(
            counters, writer, now_ms=now_ms, timezone_of=self._utc, tenants_max=settings.tenants_max
        )
        self.builder = CommitBatchBuilder(
            decoder=Decoder(future_tolerance_s=300, event_bytes_max=1_048_576),
            catalogs=CatalogCache(
                lambda tenant: load_catalog(pool, tenant), refresh_s=60, monotonic=lambda: 0.0
            ),
            tenants=self.committer.tenants,
            alarm=RatioAlarm(ratio=0.1, window_events=100, bad_min=10),
            now_ms=now_ms,
        )
        self.pipeline = Pipeline(
            builder=self.builder,
            committer=self.committer,
            history=self.history,
            dead_letters=self.letters,
            commit_events_max=settings.commit_batch_events,
            queue_bytes=settings.fetch_bytes_max,
            queue_batches=settings.queue_batches,
            idle_commit_s=3600,
            on_lost=self._lost,
            on_failure=lambda error: pytest.fail(repr(error)),
        )

    async def open(self) -> None:
        self.topic_id = str(uuid.uuid4())
        self.committer.start_session(self.topic_id, {0: 0})
        await self.history.start_session(self.topic_id, {0: None})
        await self.pipeline.assign({0: 0})

    def submit(self, number: int, values: Sequence[bytes]) -> None:
        """The batch `number` of batches of this length."""
        first = number * len(values)
        records = [Record(first + i, value, now_ms()) for i, value in enumerate(values)]
        self.pipeline.submit(Batch(0, first, records, None, 0), self._acknowledge)

    async def process(self, number: int, values: Sequence[bytes]) -> None:
        """Returns when the batch is counted and stored."""
        before = self.acknowledged
        self.submit(number, values)
        await eventually_async(lambda: _is(self.acknowledged > before), message="a batch stored")

    def _acknowledge(self) -> None:
        self.acknowledged += 1

    async def _utc(self, tenant: str) -> str:
        return "UTC"

    async def _lost(self, batch: Batch) -> None:
        pytest.fail(f"{batch.lost} lost")


@asynccontextmanager
async def bench_of(settings: Settings, **changes: Any) -> AsyncIterator[Bench]:
    settings = settings.model_copy(update=changes)
    client: Any = make_client(settings, timeout_s=5, retries=0)
    async with make_pool(settings, max_size=3) as pool:
        bench = Bench(settings, pool, client)
        await bench.open()
        writing = asyncio.create_task(bench.history.run())
        try:
            yield bench
        finally:
            await bench.pipeline.abandon()
            writing.cancel()
            await client.aclose()


def values_of(events: Sequence[Event], padding: int = 0) -> list[bytes]:
    values = [encode(event) for event in events]
    if padding:
        ends = b', "filler": "' + b"x" * padding + b'"}}'
        values = [value.removesuffix(b"}}") + ends for value in values]
    return values


@asynccontextmanager
async def history_held(settings: Settings) -> AsyncIterator[None]:
    """Nothing can be stored, though everything can be read."""
    async with await psycopg.AsyncConnection.connect(settings.database_url) as holder:
        await holder.execute("LOCK TABLE history_watermarks IN SHARE ROW EXCLUSIVE MODE")
        yield
        await holder.rollback()


@pytest.mark.parametrize("limit", ["events", "bytes"])
@pytest.mark.parametrize("queue_batches", [1, 3])
async def test_what_waits_for_history_and_in_front_of_it_is_bounded(
    settings: Settings, limit: str, queue_batches: int
) -> None:
    """With Postgres held, counting stops at the buffer's limit, and reading the partition at the
    queue's; all goes on, and nothing is missing, when it is let go."""
    # Either makes room for five batches of ten events: the fifth one reaches the limit.
    padding = 0 if limit == "events" else 3_000
    values = values_of(make_events(BATCH_EVENTS), padding)
    size = sum(map(len, fresh(values, 0)))
    changes: dict[str, Any] = {
        "events": {"history_buffer_events": 5 * BATCH_EVENTS},
        "bytes": {"history_buffer_bytes": 5 * size},
    }[limit]
    changes |= {"queue_batches": queue_batches, "fetch_bytes_max": size}
    async with bench_of(settings, **changes) as bench:
        # In the buffer; one more, counted, which waits to be put there; the queue.
        most = 5 + 1 + queue_batches
        numbers = itertools.count()

        async def no_more_is_read() -> bool:
            while not bench.pipeline.full_partitions():
                n = next(numbers)
                bench.submit(n, fresh(values, n))
            assert bench.pipeline.positions[0] == 6 * BATCH_EVENTS
            return True

        async with history_held(settings):
            await eventually_async(no_more_is_read, message="six batches counted, the queue full")
            await round_trips(settings)
            assert bench.pipeline.full_partitions() == {0}
            assert bench.pipeline.positions[0] == 6 * BATCH_EVENTS, "counted past the buffer"
            assert bench.acknowledged == 0
            assert next(numbers) == most
        await eventually_async(
            lambda: _is(not bench.pipeline.full_partitions()), message="there is room again"
        )
        bench.submit(most, fresh(values, most))
        await bench.pipeline.close()
        assert bench.acknowledged == most + 1
    stored = (most + 1) * BATCH_EVENTS
    async with await psycopg.AsyncConnection.connect(settings.database_url) as connection:
        rows = await (
            await connection.execute("SELECT count(*) FROM interaction_history")
        ).fetchone()
    assert rows == (stored,)


def fresh(values: Sequence[bytes], number: int) -> list[bytes]:
    """The same events as others, for a batch of their own."""
    return [
        re.sub(rb'"interactionId": "\w+"', b'"interactionId": "b%d-%d"' % (number, i), value)
        for i, value in enumerate(values)
    ]


async def round_trips(settings: Settings) -> None:
    """Time enough for whatever can go on to go on: more than it takes to count a batch."""
    client: Any = make_client(settings, timeout_s=5, retries=0)
    for _ in range(200):
        await client.ping()
    await client.aclose()


async def _is(fact: bool) -> bool:
    return fact


async def test_tenants_beyond_the_limit_are_dead_letters(settings: Settings) -> None:
    """Those that were there go on; the letters say what to do. With a higher limit they count."""
    async with bench_of(settings, tenants_max=2) as bench:
        names = ["a", "b", "c", "a", "d", "b", "c", "a"]
        await bench.process(
            0, values_of([make_event(tenant=t, occurred_ms=now_ms()) for t in names])
        )
        refused = [
            (x.record.offset, x.rejection.reason, x.rejection.detail.split()[1])
            for x in bench.letters.letters
        ]
        assert refused == [
            (2, "too_many_tenants", "c"),
            (4, "too_many_tenants", "d"),
            (6, "too_many_tenants", "c"),
        ]
        assert "TENANTS_MAX" in bench.letters.letters[0].rejection.detail
        assert sorted(bench.committer.tenants.names) == ["a", "b"]
        bench.committer.tenants.tenants_max = 3
        await bench.process(
            1, values_of([make_event(tenant=t, occurred_ms=now_ms()) for t in names])
        )
        assert [x.record.offset for x in bench.letters.letters[3:]] == [8 + 4]
        assert sorted(bench.committer.tenants.names) == ["a", "b", "c"]


async def test_workers_together_take_no_more_tenants_than_one(settings: Settings) -> None:
    """Many ask at once, each for names of its own and for the same: the room is taken once."""
    clients: list[Any] = [make_client(settings, timeout_s=5, retries=0) for _ in range(4)]
    stores = [RedisCounters(client, settings.redis_prefix) for client in clients]
    answers = await asyncio.gather(
        *(
            store.refused([f"{i}-{n}", f"shared-{n}"], 20)
            for i, store in enumerate(stores)
            for n in range(25)
        )
    )
    tenants = await stores[0].tenants()
    assert len(tenants) == 20
    refused = {name for answer in answers for name in answer}
    assert refused.isdisjoint(tenants)
    assert len(refused) == 5 * 25 - 20
    assert await stores[1].refused(tenants, 1) == [], "those that are in stay in"
    for client in clients:
        await client.aclose()


async def test_the_alarm_is_told_once_when_it_starts_and_once_when_it_ends(
    settings: Settings,
) -> None:
    def alarm() -> float | None:
        value: float = metrics.DEAD_LETTER_ALARM._value.get()
        return value

    def told() -> list[str]:
        return [line["event"] for line in lines if "dead-letter ratio" in line["event"]]

    with capture_logs() as lines:
        async with bench_of(settings) as bench:
            good = values_of(make_events(20))
            await bench.process(0, fresh(good, 0))
            assert alarm() == 0
            await bench.process(1, [*fresh(good[:8], 1), *(b"no json %d" % i for i in range(12))])
            assert alarm() == 1
            await bench.process(2, [b"no json again"] * 20)
            assert (alarm(), len(told())) == (1, 1)
            for n in range(3, 9):
                await bench.process(n, fresh(good, n))
            assert alarm() == 0
    assert told() == ["dead-letter ratio too high", "dead-letter ratio back to normal"]
    assert len(bench.letters.letters) == 32


async def test_a_worker_keeps_to_the_limits_of_its_settings(settings: Settings) -> None:
    """Groups beyond the limit are counted as one and reported; history answers, exactly. A tenant
    too many is a dead letter, and many of these are an alarm. Fetches of a few bytes carry all."""
    port = free_port()
    async with open_worker_fixture(
        settings,
        keys_per_grouping_max=10,
        tenants_max=1,
        dead_letter_alarm_ratio=0.1,
        dead_letter_alarm_min=5,
        fetch_bytes_max=2_048,
        queue_batches=1,
        worker_metrics_port=port,
    ) as fixture:
        events = make_events(200, customers=50)
        await fixture.send(events)
        await fixture.wait_counted(200)
        await fixture.wait_stored(200)
        await fixture.send([make_event(tenant="other", occurred_ms=now_ms()) for _ in range(60)])

        def alarmed() -> bool:
            text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
            assert "interaction_summary_dead_letter_alarm 1.0" in text
            over = re.search(r'over_limit_total\{grouping="customer"\} (\S+)', text)
            assert over is not None and float(over[1]) > 100
            return True

        await asyncio.to_thread(eventually, alarmed, 30, "the alarm")
        await fixture.wait_counted(200)
        asked = fixture.question()._replace(group_by="customer")
        assert await fixture.counters.read(asked) == Incomplete("capped")
        page = await fixture.history.read(asked)
        assert (page.total, sum(group.total for group in page.groups)) == (50, 200)
        (state,) = (await gather_status(fixture.settings)).tenants
        assert (state.groups["customer"], list(state.over)) == (11, ["customer"])
        assert "too many groups" in fixture.worker.log_tail(400)
    there = await asyncio.to_thread(read_topic, settings, settings.dead_letter_topic)
    reasons = [dead_letters.parse(letter.headers) for letter in there]
    assert [r.reason for r in reasons if r] == ["too_many_tenants"] * 60
    assert {json.loads(letter.value)["payload"]["tenantId"] for letter in there} == {"other"}


async def test_a_dead_letter_stays_one_when_it_is_read_again(settings: Settings) -> None:
    """It was ahead of the clock, and would not be any more when the log is read again from where
    history was. Then history would have what the counters, which are past it, do not have."""
    values = values_of([*make_events(1), make_event(occurred_ms=now_ms() + 310_000)])
    async with history_held(settings), bench_of(settings) as dying:
        dying.submit(0, values)
        await eventually_async(
            lambda: _is(dying.pipeline.positions[0] == 2), message="a batch counted"
        )
        assert len(dying.letters.letters) == 1
    async with bench_of(settings) as bench:  # a minute later
        bench.committer.start_session(dying.topic_id, {0: 2})
        await bench.history.start_session(dying.topic_id, {0: None})
        bench.builder._now_ms = lambda: now_ms() + 60_000
        await bench.process(0, values)
    async with await psycopg.AsyncConnection.connect(settings.database_url) as connection:
        rows = await (
            await connection.execute("SELECT count(*) FROM interaction_history")
        ).fetchone()
    assert rows == (1,), "history has what the counters do not have"
