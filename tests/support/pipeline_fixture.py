"""Pipeline on real stores that is given batches of one partition, as Kafka delivers them."""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import psycopg
import pytest

from store.counters import Floor, PartitionProgress
from store.postgres.history import HistoryWriter
from store.postgres.pool import Pool, make_pool
from store.records import Event
from store.redis.catalog_copies import RedisCatalogCopies
from store.redis.client import make_client
from store.redis.counters import RedisCounters
from store.settings import Settings
from streams.commit import CounterCommitter
from streams.commit_batch import LOG_APPEND_TIME, CommitBatchBuilder
from streams.counting_catalogs import CountingCatalogs, PostgresCatalogs
from streams.dead_letters.alarm import RatioAlarm
from streams.dead_letters.record import RejectedRecord
from streams.decode.decoder import Decoder
from streams.history_sink import HistorySink
from streams.isolation import Isolation
from streams.kafka.consumer import Batch
from streams.lost_offsets import LostOffsets
from streams.pipeline import Pipeline
from tests.support.events import encode
from tests.support.waiting import eventually_async
from tests.support.worker_fixture import now_ms


class Record(NamedTuple):
    offset: int
    value: bytes
    timestamp: int
    key: bytes | None = None
    headers: Sequence[tuple[str, bytes]] = ()
    timestamp_type: int = LOG_APPEND_TIME


class FakeDeadLetterSink:
    """Dead-letter sink that keeps the records in memory."""

    def __init__(self) -> None:
        self.records: list[RejectedRecord] = []

    async def send(self, records: Sequence[RejectedRecord]) -> None:
        self.records += records


class PipelineFixture:
    """Pipeline on real stores that is given batches of one partition, as Kafka delivers them."""

    def __init__(
        self,
        settings: Settings,
        pool: Pool,
        client: Any,
        *,
        idle_commit_s: float,
        topic_id: str = "",
        partition: int = 0,
        partitions: int = 1,
    ) -> None:
        """`partition` of `partitions` is read; another pipeline may read the same topic."""
        self.topic_id = topic_id or str(uuid.uuid4())
        self.partition = partition
        self.earliest = dict.fromkeys(range(partitions), 0)
        self.pool = pool
        self.dead_letters = FakeDeadLetterSink()
        isolation = Isolation()
        self.acknowledged = 0
        self.catalog_clock_s = 0.0
        self.writer = writer = HistoryWriter(pool)
        self.counters = counters = RedisCounters(client, settings.redis_prefix)
        self.history = HistorySink(
            writer,
            topic=settings.interactions_topic,
            buffer_events=settings.history_buffer_events,
            batch_events=settings.history_batch_events,
            buffer_bytes=settings.history_buffer_bytes,
            isolation=isolation,
            on_behind=lambda behind: pytest.fail(str(behind)),
        )
        self.committer = CounterCommitter(
            counters,
            writer,
            now_ms=now_ms,
            timezone_of=self._utc,
            tenants_max=settings.tenants_max,
            dedup_horizon_h=settings.dedup_horizon_h,
        )
        self.builder = CommitBatchBuilder(
            decoder=Decoder(future_tolerance_s=300, event_bytes_max=1_048_576),
            catalogs=CountingCatalogs(
                PostgresCatalogs(pool),
                RedisCatalogCopies(client, settings.redis_prefix),
                monotonic=lambda: self.catalog_clock_s,
            ),
            tenants=self.committer.tenants,
            alarm=RatioAlarm(ratio=0.1, window_events=100, bad_min=10),
            isolation=isolation,
            now_ms=now_ms,
            registered_only=settings.tenants_registered_only,
        )
        self.pipeline = Pipeline(
            builder=self.builder,
            committer=self.committer,
            history=self.history,
            dead_letters=self.dead_letters,
            isolation=isolation,
            commit_events_max=settings.commit_batch_events,
            queue_bytes=settings.fetch_bytes_max,
            queue_batches=settings.queue_batches,
            idle_commit_s=idle_commit_s,
            on_lost=LostOffsets(self.counters, writer, self.committer.tenants).note,
            on_failure=lambda error: pytest.fail(repr(error)),
        )

    async def open(self) -> None:
        self.committer.start_session(self.topic_id, self.earliest)
        await self.history.start_session(self.topic_id, {self.partition: None})
        await self.pipeline.assign({self.partition: 0})

    async def restart(self) -> int:
        """Start a session as after a rewind; return the offset that it reads from."""
        await self.history.drain()
        await self.pipeline.abandon()
        counted = await self.committer.counted(self.topic_id, self.earliest)
        self.committer.start_session(self.topic_id, counted, self.earliest)
        stored = await self.writer.positions(self.topic_id)
        positions = {self.partition: stored.get(self.partition)}
        await self.history.start_session(self.topic_id, positions)
        start = min(counted[self.partition], positions[self.partition] or 0)
        await self.pipeline.assign({self.partition: start})
        return start

    async def report(self) -> None:
        """Report how far the partition is counted."""
        position = self.pipeline.positions[self.partition]
        progress = PartitionProgress(self.topic_id, self.partition, position, position, now_ms())
        await self.counters.reports.report_progress([progress])
        floor = Floor(position, position, await self.counters.instance())
        await self.counters.report_floors(self.topic_id, {self.partition: floor})

    def submit(self, number: int, values: Sequence[bytes]) -> None:
        """Submit `values` as batch `number` of batches of this length."""
        first = number * len(values)
        records = [Record(first + i, value, now_ms()) for i, value in enumerate(values)]
        self.pipeline.submit(Batch(self.partition, first, records, None, 0), self._acknowledge)

    async def process(self, number: int, values: Sequence[bytes]) -> None:
        """Submit the batch and wait until it is counted and stored."""
        before = self.acknowledged
        self.submit(number, values)

        async def stored() -> bool:
            return self.acknowledged > before

        await eventually_async(stored, message="a batch stored")

    async def count(self, number: int, values: Sequence[bytes]) -> None:
        """Submit the batch and wait until it is counted; history may not have it."""
        self.submit(number, values)

        async def counted() -> bool:
            return self.pipeline.positions[self.partition] == (number + 1) * len(values)

        await eventually_async(counted, message="a batch counted")

    def _acknowledge(self) -> None:
        self.acknowledged += 1

    async def _utc(self, tenant: str) -> str:
        return "UTC"


@asynccontextmanager
async def open_pipeline(
    settings: Settings,
    *,
    idle_commit_s: float = 3_600.0,
    topic_id: str = "",
    partition: int = 0,
    partitions: int = 1,
    **changes: Any,
) -> AsyncIterator[PipelineFixture]:
    """Yield a pipeline whose history sink is running; `changes` are settings."""
    settings = settings.model_copy(update=changes)
    client: Any = make_client(settings, timeout_s=5, retries=0)
    async with make_pool(settings, max_size=3) as pool:
        fixture = PipelineFixture(
            settings,
            pool,
            client,
            idle_commit_s=idle_commit_s,
            topic_id=topic_id,
            partition=partition,
            partitions=partitions,
        )
        await fixture.open()
        writing = asyncio.create_task(fixture.history.run())
        try:
            yield fixture
        finally:
            await fixture.pipeline.abandon()
            writing.cancel()
            await client.aclose()


def values_of(events: Sequence[Event], padding: int = 0) -> list[bytes]:
    values = [encode(event) for event in events]
    if padding:
        ends = b', "filler": "' + b"x" * padding + b'"}}'
        values = [value.removesuffix(b"}}") + ends for value in values]
    return values


@asynccontextmanager
async def history_locked(settings: Settings) -> AsyncIterator[None]:
    """Lock history so that nothing can be written to it while it can still be read."""
    async with await psycopg.AsyncConnection.connect(settings.database_url) as holder:
        await holder.execute("LOCK TABLE history_watermarks IN SHARE ROW EXCLUSIVE MODE")
        yield
        await holder.rollback()


def fresh(values: Sequence[bytes], number: int) -> list[bytes]:
    """Return the events with ids that are unique to batch `number`."""
    return [
        re.sub(rb'"interactionId": "\w+"', b'"interactionId": "b%d-%d"' % (number, i), value)
        for i, value in enumerate(values)
    ]
