"""Queue of fetched batches in front of one partition's task."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streams.kafka.consumer import Batch

Acknowledge = Callable[[], None]


class PartitionQueue:
    """Bounded queue of fetched batches for one partition, in the order of their offsets.

    Batches that pile up while the task is busy are taken as one: a commit costs a round trip
    whether it has ten events or two hundred, so a commit for each small batch would make the
    partition fall behind just when there are many.
    """

    def __init__(self, *, batch_bytes: int, batches: int) -> None:
        """Create an empty queue.

        `batch_bytes`: bytes of records that `take` joins into one batch; a batch that has more is
        taken alone. The queue is full at `batches` times that. `put` refuses nothing: the consumer
        asks `is_full` before it fetches, so the queue exceeds its bound by one fetch at most.
        """
        self._batch_bytes = batch_bytes
        self._bytes_max = batch_bytes * batches
        self._bytes = 0
        self._waiting: deque[tuple[Batch, Acknowledge, int]] = deque()
        self._arrived = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def is_full(self) -> bool:
        """Whether the partition should not be fetched for now."""
        return self._bytes >= self._bytes_max

    def put(self, batch: Batch, acknowledge: Acknowledge) -> None:
        """Append a batch. `acknowledge` is called when all its events are counted and stored."""
        size = sum(len(record.value or b"") for record in batch.records)
        self._waiting.append((batch, acknowledge, size))
        self._bytes += size
        self._arrived.set()
        self._idle.clear()

    async def take(self, records_min: int = 0) -> tuple[Batch, Acknowledge]:
        """Wait for a batch; return it joined with the batches that follow without a gap.

        At most `batch_bytes` are joined, or more while the batch has less than `records_min`
        records.
        """
        await self._arrived.wait()
        batch, acknowledge, size = self._waiting.popleft()
        records, acknowledges, end = list(batch.records), [acknowledge], batch.next_offset
        end_offset = batch.end_offset
        while self._waiting:
            following, acknowledge, more = self._waiting[0]
            if not following.follows(end):
                break
            if size + more > self._batch_bytes and len(records) >= records_min:
                break
            self._waiting.popleft()
            records += following.records
            acknowledges.append(acknowledge)
            end, size = following.next_offset, size + more
            end_offset = following.end_offset
        self._bytes -= size
        if not self._waiting:
            self._arrived.clear()

        def acknowledge_all() -> None:
            for each in acknowledges:
                each()

        return batch._replace(records=records, end_offset=end_offset), acknowledge_all

    def done(self) -> None:
        """Mark the batch returned by `take` as processed."""
        if not self._waiting:
            self._idle.set()

    async def join(self) -> None:
        """Wait until the queue is empty and every batch taken from it is processed."""
        await self._idle.wait()
