"""Writes what is counted to history, in large batches, behind the counters.

Postgres may be slow or away: counting goes on until `buffer_events` are waiting here, then it
waits too. Nothing is acknowledged to Kafka before it is in both stores, so what a crash takes from
this buffer is read again.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from store import metrics
from store.logs import get_logger
from store.postgres.history import HistoryRefused, HistoryWriter
from store.records import SourcedEvent
from streams.commit import RewindRequired
from streams.retry import retried

logger = get_logger("history")

#: Bytes of records that one transaction stores at most, but for a single batch that has more.
BATCH_BYTES_MAX: Final = 16 * 1_048_576
#: Rounds begin so far apart, unless enough waits to fill a transaction: each of these has a price
#: of its own, which the counters would pay where processors are full.
GATHER_S: Final = 0.5


@dataclasses.dataclass
class HistoryBatch:
    events: Sequence[SourcedEvent]
    next_offset: int
    done: Callable[[], None]
    """Called when the batch is in history."""
    size: int = 0
    """Bytes of the records that the events came in."""


class HistorySink:
    def __init__(
        self,
        writer: HistoryWriter,
        *,
        topic: str,
        buffer_events: int,
        batch_events: int,
        buffer_bytes: int,
        on_behind: Callable[[RewindRequired], None],
    ) -> None:
        """`on_behind`: told when history has less than this worker read."""
        self._writer = writer
        self._topic = topic
        self._buffer_events = buffer_events
        self._batch_events = batch_events
        self._buffer_bytes = buffer_bytes
        self._on_behind = on_behind
        self._topic_id = ""
        self._positions: dict[int, int | None] = {}
        self._batches: dict[int, deque[HistoryBatch]] = {}
        self._buffered = 0
        self._bytes = 0
        self._changed = asyncio.Condition()
        self._epoch = 0
        self._draining = False
        self._began_s = 0.0

    async def start_session(self, topic_id: str, positions: dict[int, int | None]) -> None:
        """Forgets what waits. `positions`: history's own watermarks; None = has none."""
        async with self._changed:
            self._epoch += 1
            self._topic_id, self._positions = topic_id, dict(positions)
            self._batches = {partition: deque() for partition in positions}
            self._buffered = self._bytes = 0
            self._changed.notify_all()

    async def put(self, partition: int, batch: HistoryBatch) -> None:
        """Takes the batch over; waits while the buffer is full."""
        async with self._changed:
            epoch = self._epoch
            await self._changed.wait_for(lambda: self._has_room() or self._epoch != epoch)
            if self._epoch != epoch or partition not in self._batches:
                return  # not ours any more: whoever has it reads it again
            self._batches[partition].append(batch)
            self._buffered += len(batch.events)
            self._bytes += batch.size
            metrics.HISTORY_BUFFER.set(self._buffered)
            self._changed.notify_all()

    def _has_room(self) -> bool:
        return self._buffered < self._buffer_events and self._bytes < self._buffer_bytes

    async def drain(self) -> None:
        """Returns when nothing waits."""
        async with self._changed:
            self._draining = True
            self._changed.notify_all()
            await self._changed.wait_for(lambda: not any(self._batches.values()))
            self._draining = False

    async def run(self) -> None:
        """Writes for as long as the worker lives: round after round, each partition in its turn."""
        while True:
            async with self._changed:
                await self._gather()
                epoch = self._epoch
                waiting = [partition for partition, batches in self._batches.items() if batches]
            for partition in waiting:
                await self._write_some(partition, epoch)

    async def _gather(self) -> None:
        """Returns when a round is due, with `_changed` held and something to write."""
        while True:
            await self._changed.wait_for(lambda: any(self._batches.values()))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(self._began_s + GATHER_S):
                    await self._changed.wait_for(self._is_enough)
            if any(self._batches.values()):  # else they were forgotten meanwhile
                self._began_s = asyncio.get_running_loop().time()
                return

    async def _write_some(self, partition: int, epoch: int) -> None:
        """One transaction of what waits of the partition."""
        async with self._changed:
            if self._epoch != epoch:
                return
            batches = self._take(self._batches[partition])
        try:
            await self._write(partition, batches, epoch)
        except RewindRequired as behind:
            self._on_behind(behind)
            async with self._changed:  # until start_session says where to go on
                await self._changed.wait_for(lambda: self._epoch != epoch)
        async with self._changed:
            if self._epoch == epoch:
                self._buffered -= sum(len(c.events) for c in batches)
                self._bytes -= sum(c.size for c in batches)
                for _ in batches:
                    self._batches[partition].popleft()
                self._changed.notify_all()
            metrics.HISTORY_BUFFER.set(self._buffered)

    def _is_enough(self) -> bool:
        is_full = self._buffered >= self._batch_events or not self._has_room()
        return is_full or self._draining

    def _take(self, waiting: deque[HistoryBatch]) -> list[HistoryBatch]:
        taken: list[HistoryBatch] = []
        events = size = 0
        for batch in waiting:
            events += len(batch.events)
            size += batch.size
            if taken and (events > self._batch_events or size > BATCH_BYTES_MAX):
                break
            taken.append(batch)
        return taken

    async def _write(self, partition: int, batches: Sequence[HistoryBatch], epoch: int) -> None:
        next_offset = batches[-1].next_offset
        while self._epoch == epoch:
            first = self._positions[partition]
            if first is not None and first >= next_offset:
                break
            events = [
                e for batch in batches for e in batch.events if first is None or e.offset >= first
            ]
            topic_id = self._topic_id
            answer = await retried(
                "history",
                lambda f=first, e=events, i=topic_id: self._writer.write(  # type: ignore[misc]
                    topic=self._topic,
                    topic_id=i,
                    partition=partition,
                    expected_offset=f,
                    next_offset=next_offset,
                    events=e,
                ),
            )
            if isinstance(answer, HistoryRefused):
                stored = answer.watermark
                if stored is None or (first is not None and stored < first):
                    raise RewindRequired(
                        f"history is at {stored} of partition {partition}, not at {first}"
                    )
                if self._epoch == epoch:
                    self._positions[partition] = stored
                continue
            metrics.STORED.inc(answer)
            if self._epoch == epoch:
                self._positions[partition] = next_offset
            break
        if self._epoch == epoch:
            for batch in batches:
                with contextlib.suppress(Exception):  # an acknowledgement is only a hint
                    batch.done()
