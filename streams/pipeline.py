"""The way of a batch: decode, dead letters, counters, history, acknowledgement.

One task per partition, so that the round trips of one partition pass while another computes; all
that a partition's batches change happens in their order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from store import metrics
from store.catalog import CatalogCache
from store.logs import get_logger
from store.records import Catalog, Event, SourcedEvent
from streams.commit import CounterCommitter
from streams.dead_letters.alarm import RatioAlarm
from streams.dead_letters.record import DeadLetterSink, RejectedRecord
from streams.decode.decoder import Decoder
from streams.decode.rejection import Skipped, too_many_tenants, unregistered_type
from streams.history_sink import HistoryBatch, HistorySink
from streams.kafka.consumer import Batch
from streams.partition_queue import PartitionQueue
from streams.retry import retried

logger = get_logger("pipeline")

#: Tenants whose watermark one look at the idle ones moves: moving thousands at once would keep the
#: events of others waiting.
IDLE_TENANTS: Final = 200
#: A record's `timestamp_type` on topics with `message.timestamp.type=LogAppendTime`.
LOG_APPEND_TIME: Final = 1


class Slice(NamedTuple):
    """A part of a batch, small enough for one commit, decoded."""

    events: Mapping[str, list[SourcedEvent]]
    """By tenant."""
    letters: Sequence[RejectedRecord]
    """In the order of their offsets."""
    next_offset: int
    size: int
    """Bytes of the records."""


class Pipeline:
    def __init__(
        self,
        *,
        decoder: Decoder,
        catalogs: CatalogCache,
        ledger: CounterCommitter,
        history: HistorySink,
        dead_letters: DeadLetterSink,
        now_ms: Callable[[], int],
        slice_events: int,
        batch_bytes: int,
        queue_batches: int,
        alarm: RatioAlarm,
        idle_commit_s: float,
        on_lost: Callable[[Batch], Awaitable[None]],
        on_failure: Callable[[BaseException], None],
    ) -> None:
        """`batch_bytes`, `queue_batches`: of what waits in front of a partition's task so much is
        taken at once; where so many times that waits, it is one of `full_partitions`. `on_lost` is
        told of batches that begin with offsets that retention took; `on_failure` of what ended a
        partition's task, RewindRequired among them."""
        self._decoder = decoder
        self._catalogs = catalogs
        self._ledger = ledger
        self._history = history
        self._dead_letters = dead_letters
        self._now_ms = now_ms
        self._slice_events = slice_events
        self._batch_bytes = batch_bytes
        self._queue_batches = queue_batches
        self._alarm = alarm
        self._idle_commit_s = idle_commit_s
        self._on_lost = on_lost
        self._on_failure = on_failure
        self._queues: dict[int, PartitionQueue] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self.positions: dict[int, int] = {}
        """Partition -> the offset up to which everything is counted."""
        self.closing = False

    async def assign(self, starts: Mapping[int, int]) -> None:
        """Begins with these partitions, each at its offset, and with no others."""
        await self.abandon()
        self.positions = dict(starts)
        for partition in starts:
            self._queues[partition] = PartitionQueue(
                batch_bytes=self._batch_bytes, batches=self._queue_batches
            )
            task = asyncio.create_task(self._run(partition), name=f"partition-{partition}")
            task.add_done_callback(self._ended)
            self._tasks[partition] = task

    async def abandon(self) -> None:
        """Stops where it is. The fences make that safe: what was sent is counted or is not."""
        tasks = list(self._tasks.values())
        self._tasks.clear()
        self._queues.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def close(self) -> None:
        """Finishes the batches in hand and waits for history."""
        self.closing = True
        await asyncio.gather(*(inbox.join() for inbox in self._queues.values()))
        await self._history.drain()

    def submit(self, batch: Batch, acknowledge: Callable[[], None]) -> None:
        """Hands a batch to its partition's task."""
        inbox = self._queues.get(batch.partition)
        if inbox is not None and not self.closing:
            inbox.put(batch, acknowledge)

    def full_partitions(self) -> set[int]:
        """The partitions of which enough waits."""
        return {partition for partition, inbox in self._queues.items() if inbox.is_full}

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._on_failure(error)

    async def _run(self, partition: int) -> None:
        inbox = self._queues[partition]
        loop = asyncio.get_running_loop()
        next_idle_s = loop.time() + self._idle_commit_s
        while True:
            try:
                async with asyncio.timeout_at(next_idle_s):
                    batch, acknowledge = await inbox.take()
            except TimeoutError:
                await self._commit_idle(partition)
                next_idle_s = loop.time() + self._idle_commit_s
                continue
            # Else it was fetched before reading went back, and comes again.
            if batch.base == self.positions[partition]:
                await self._process(batch, acknowledge)
            inbox.done()

    async def _commit_idle(self, partition: int) -> None:
        """Moves the watermarks of tenants that had no event, some at a time, those furthest behind
        first: the lowest is where the next start begins to read."""
        position = self.positions[partition]
        for tenant in self._ledger.behind(partition, position)[:IDLE_TENANTS]:
            await self._ledger.commit(tenant, partition, [], position)

    async def _process(self, batch: Batch, acknowledge: Callable[[], None]) -> None:
        partition = batch.partition
        if batch.lost:
            await self._on_lost(batch)
        committing: asyncio.Task[None] | None = None
        try:
            for records in slices(batch.records, self._slice_events):
                part = await self._decode(partition, records)
                if committing is not None:
                    await committing
                last = part.next_offset == batch.next_offset
                committing = asyncio.create_task(
                    self._commit(partition, part, acknowledge if last else _nothing)
                )
                await asyncio.sleep(0)  # so that it is on its way while the next is decoded
            if committing is not None:
                await committing
        finally:
            if committing is not None and not committing.done():
                committing.cancel()

    async def _commit(self, partition: int, part: Slice, done: Callable[[], None]) -> None:
        if part.letters:
            await retried("kafka", lambda: self._dead_letters.send(part.letters))
        await asyncio.gather(
            *(
                self._ledger.commit(tenant, partition, events, part.next_offset)
                for tenant, events in part.events.items()
            )
        )
        self.positions[partition] = part.next_offset
        events = [e for of_tenant in part.events.values() for e in of_tenant]
        events.sort(key=lambda e: e.offset)
        await self._history.put(partition, HistoryBatch(events, part.next_offset, done, part.size))

    async def _decode(self, partition: int, records: Sequence[Any]) -> Slice:
        now_ms = self._now_ms()
        decode = self._decoder.decode
        by_tenant: dict[str, list[SourcedEvent]] = {}
        letters: list[RejectedRecord] = []
        for record in records:
            decoded = decode(record.value, _judged_at(record, now_ms))
            if isinstance(decoded, Event):
                of_tenant = by_tenant.get(decoded.tenant)
                if of_tenant is None:
                    of_tenant = by_tenant[decoded.tenant] = []
                of_tenant.append(SourcedEvent(decoded, record.offset, record.timestamp))
            elif isinstance(decoded, Skipped):
                metrics.SKIPPED.inc()
            else:
                letters.append(RejectedRecord(partition, record, decoded))
        by_offset = {record.offset: record for record in records}
        for tenant, events in list(by_tenant.items()):
            registered = await self._registered(tenant, events)
            if len(registered) < len(events):
                kept = {e.offset for e in registered}
                letters += [
                    RejectedRecord(partition, by_offset[e.offset], unregistered_type(e.event))
                    for e in events
                    if e.offset not in kept
                ]
                by_tenant[tenant] = registered
                if not registered:
                    del by_tenant[tenant]
        for tenant in await self._ledger.refused(by_tenant):
            letters += [
                RejectedRecord(
                    partition,
                    by_offset[e.offset],
                    too_many_tenants(e.event, self._ledger.tenants_max),
                )
                for e in by_tenant.pop(tenant)
            ]
        letters.sort(key=lambda letter: letter.record.offset)
        self._tell(len(records), letters)
        size = sum(len(record.value or b"") for record in records)
        return Slice(by_tenant, letters, records[-1].offset + 1, size)

    def _tell(self, events: int, letters: Sequence[RejectedRecord]) -> None:
        """Metrics of the letters, and the alarm where they are too many of the last events."""
        for letter in letters:
            metrics.DEAD_LETTERS.labels(letter.why.reason).inc()
        if self._alarm.note(events, len(letters)):
            metrics.DEAD_LETTER_ALARM.set(self._alarm.is_on)
            found = {"dead_letters": self._alarm.bad, "of_the_last": self._alarm.events}
            if self._alarm.is_on:
                logger.error(
                    "too many events are dead letters", last=letters[-1].why.detail, **found
                )
            else:
                logger.info("few events are dead letters again", **found)

    async def _registered(self, tenant: str, events: list[SourcedEvent]) -> list[SourcedEvent]:
        """The events whose outcome type the tenant has registered."""
        catalog = await self._catalog(tenant, self._catalogs.get)
        outcomes = {e.event.outcome for e in events}
        if not outcomes <= catalog.outcome_types.keys():
            # Registered a moment ago, perhaps: look once more before it is a dead letter.
            catalog = await self._catalog(tenant, self._catalogs.fresh)
            if not outcomes <= catalog.outcome_types.keys():
                return [e for e in events if e.event.outcome in catalog.outcome_types]
        return events

    async def _catalog(self, tenant: str, get: Callable[[str], Awaitable[Catalog]]) -> Catalog:
        return await retried("catalog", lambda: get(tenant))


def _judged_at(record: Any, now_ms: int) -> int:
    """The time that tells whether an event is too far ahead: when the broker took it, where the
    broker says so. A record that is read again is then judged as before."""
    return min(now_ms, record.timestamp) if record.timestamp_type == LOG_APPEND_TIME else now_ms


def slices(records: Sequence[Any], most: int) -> Iterator[Sequence[Any]]:
    """All records in order, in slices as few and as even as `most` of each allows: a small rest
    would cost a commit like any other."""
    parts = -(-len(records) // most)
    for n in range(parts):
        yield records[len(records) * n // parts : len(records) * (n + 1) // parts]


def _nothing() -> None:
    pass
