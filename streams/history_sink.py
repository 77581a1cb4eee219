"""Writes counted events to history, in large transactions, behind the counters.

Postgres may be slow or unavailable: counting continues until `buffer_events` wait here, then it
waits too. Nothing is acknowledged to Kafka before both stores have it, so what a crash takes from
this buffer is read again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from store import metrics
from store.offsets import Gap
from store.postgres.history import HistoryWriter
from streams.history_session import HistoryBatch, HistorySession
from streams.isolation import Isolation
from streams.tenant_state import RewindRequired

#: Maximum bytes of records in one transaction; a single batch that has more is written alone.
BATCH_BYTES_MAX: Final = 16 * 1_048_576
#: Seconds between the starts of two write rounds, unless a transaction is full before. Each
#: transaction has a fixed cost, which the counters would pay where processors are busy.
GATHER_S: Final = 0.5


class HistorySink:
    """Bounded buffer of counted events, and the task that writes them. For one event loop."""

    def __init__(
        self,
        writer: HistoryWriter,
        *,
        topic: str,
        buffer_events: int,
        batch_events: int,
        buffer_bytes: int,
        isolation: Isolation,
        on_behind: Callable[[RewindRequired], None],
    ) -> None:
        """Create an empty sink.

        `buffer_events`, `buffer_bytes`: the buffer is full when either is reached. `batch_events`:
        maximum of one transaction. `on_behind` is called when history has less than was read.
        """
        self._writer = writer
        self._topic = topic
        self._buffer_events = buffer_events
        self._batch_events = batch_events
        self._buffer_bytes = buffer_bytes
        self._isolation = isolation
        self._on_behind = on_behind
        self._session = self._new_session("", {}, ())
        self._batches: dict[int, deque[HistoryBatch]] = {}
        self._buffered = 0
        self._bytes = 0
        self._changed = asyncio.Condition()
        self._epoch = 0
        self._draining = False
        self._round_started_s = 0.0

    async def start_session(
        self,
        topic_id: str,
        positions: Mapping[int, int | None],
        gaps: Sequence[Gap] = (),
    ) -> None:
        """Start a read session; drop everything that waits.

        `positions`: partition -> history's own watermark; None where it has none. `gaps`: offsets
        before the start that history lacks, to be noted with the first write of their partition.
        """
        async with self._changed:
            self._epoch += 1
            self._session.ended = True
            self._session = self._new_session(topic_id, positions, gaps)
            self._batches = {partition: deque() for partition in positions}
            self._buffered = self._bytes = 0
            self._changed.notify_all()

    def stored_offset(self, partition: int) -> int:
        """Return the offset below which history has everything, as far as this session knows."""
        return self._session.positions.get(partition) or 0

    def _new_session(
        self, topic_id: str, positions: Mapping[int, int | None], gaps: Sequence[Gap]
    ) -> HistorySession:
        return HistorySession(
            self._writer,
            self._isolation,
            topic=self._topic,
            topic_id=topic_id,
            positions=positions,
            gaps=gaps,
        )

    async def put(self, partition: int, *batches: HistoryBatch) -> None:
        """Append the batches, all or none, to the buffer; wait while the buffer is full."""
        async with self._changed:
            epoch = self._epoch
            await self._changed.wait_for(lambda: self._has_room() or self._epoch != epoch)
            if self._epoch != epoch or partition not in self._batches:
                return  # the partition was reassigned: its new reader reads the batch again
            for batch in batches:
                self._batches[partition].append(batch)
                self._buffered += len(batch.events)
                self._bytes += batch.size
            metrics.HISTORY_BUFFER.set(self._buffered)
            self._changed.notify_all()

    def _has_room(self) -> bool:
        return self._buffered < self._buffer_events and self._bytes < self._buffer_bytes

    async def drain(self) -> None:
        """Write everything that waits, without waiting for the next round."""
        async with self._changed:
            self._draining = True
            self._changed.notify_all()
            await self._changed.wait_for(lambda: not any(self._batches.values()))
            self._draining = False

    async def run(self) -> None:
        """Write for as long as the worker lives, round after round, one partition at a time."""
        while True:
            async with self._changed:
                await self._wait_for_round()
                epoch = self._epoch
                waiting = [partition for partition, batches in self._batches.items() if batches]
            for partition in waiting:
                await self._write_transaction(partition, epoch)

    async def _wait_for_round(self) -> None:
        """Return when a round is due, with `_changed` held and something to write."""
        while True:
            await self._changed.wait_for(lambda: any(self._batches.values()))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(self._round_started_s + GATHER_S):
                    await self._changed.wait_for(self._fills_transaction)
            if any(self._batches.values()):  # a new session may have dropped them
                self._round_started_s = asyncio.get_running_loop().time()
                return

    async def _write_transaction(self, partition: int, epoch: int) -> None:
        """Write one transaction of the partition's batches and remove them from the buffer."""
        async with self._changed:
            if self._epoch != epoch:
                return
            batches = self._next_transaction(self._batches[partition])
            session = self._session
        try:
            await session.write(partition, batches)
        except RewindRequired as behind:
            self._on_behind(behind)
            async with self._changed:  # until start_session gives the new positions
                await self._changed.wait_for(lambda: self._epoch != epoch)
        async with self._changed:
            if self._epoch == epoch:
                self._buffered -= sum(len(batch.events) for batch in batches)
                self._bytes -= sum(batch.size for batch in batches)
                for _ in batches:
                    self._batches[partition].popleft()
                self._changed.notify_all()
            metrics.HISTORY_BUFFER.set(self._buffered)

    def _fills_transaction(self) -> bool:
        is_full = self._buffered >= self._batch_events or not self._has_room()
        return is_full or self._draining

    def _next_transaction(self, waiting: deque[HistoryBatch]) -> list[HistoryBatch]:
        taken: list[HistoryBatch] = []
        events = size = 0
        for batch in waiting:
            events += len(batch.events)
            size += batch.size
            if taken and (events > self._batch_events or size > BATCH_BYTES_MAX):
                break
            taken.append(batch)
        return taken
