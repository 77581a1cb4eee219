"""What waits in front of one partition's task."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from streams.kafka.consumer import Batch

Acknowledge = Callable[[], None]


class PartitionQueue:
    """Batches of one partition, in their order. While the task is busy they pile up, and are then
    taken as one: a commit costs a round trip whether it has ten events or two hundred, so if each
    small batch had its own, they would fall behind just when there are many."""

    def __init__(self, *, batch_bytes: int, batches: int) -> None:
        """`batch_bytes`: bytes of records that are taken as one; a batch that has more is taken
        alone. With `batches` times that it is full. Nothing is refused then: whoever fetches asks
        before, so it holds one fetch more at most."""
        self._batch_bytes = batch_bytes
        self._bytes_max = batch_bytes * batches
        self._bytes = 0
        self._waiting: deque[tuple[Batch, Acknowledge, int]] = deque()
        self._arrived = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def is_full(self) -> bool:
        return self._bytes >= self._bytes_max

    def put(self, batch: Batch, acknowledge: Acknowledge) -> None:
        size = sum(len(record.value or b"") for record in batch.records)
        self._waiting.append((batch, acknowledge, size))
        self._bytes += size
        self._arrived.set()
        self._idle.clear()

    async def take(self) -> tuple[Batch, Acknowledge]:
        """What waits, as far as it goes on without a gap and is not too much, as one batch. Waits
        until there is something."""
        await self._arrived.wait()
        batch, acknowledge, size = self._waiting.popleft()
        records, acknowledges, end = list(batch.records), [acknowledge], batch.next_offset
        while self._waiting:
            following, acknowledge, more = self._waiting[0]
            if not following.follows(end) or size + more > self._batch_bytes:
                break
            self._waiting.popleft()
            records += following.records
            acknowledges.append(acknowledge)
            end, size = following.next_offset, size + more
        self._bytes -= size
        if not self._waiting:
            self._arrived.clear()

        def all_of_them() -> None:
            for each in acknowledges:
                each()

        return batch._replace(records=records), all_of_them

    def done(self) -> None:
        """What was taken is worked off."""
        if not self._waiting:
            self._idle.set()

    async def join(self) -> None:
        """Returns when nothing waits and all that was taken is worked off."""
        await self._idle.wait()
