"""The way of a fetched batch: decode, dead letters, counters, history, acknowledgement.

One task per partition: one partition waits for its stores while another computes, and all that the
batches of a partition change happens in their order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from store.offsets import Gap
from store.records import SourcedEvent
from streams.at_once import all_at_once, end
from streams.backlogs import Backlogs
from streams.commit import CounterCommitter
from streams.commit_batch import CommitBatch, CommitBatchBuilder
from streams.commit_batch_size import CommitBatchSize, split_batch
from streams.dead_letters.record import DeadLetterSink
from streams.history_session import HistoryBatch, no_acknowledgement
from streams.history_sink import HistorySink
from streams.isolation import Isolation
from streams.partition_queue import PartitionQueue
from streams.retry import retry
from streams.tenant_commits import TenantCommits

if TYPE_CHECKING:
    from streams.kafka.consumer import Batch

#: Tenants whose watermark one idle commit moves: thousands at once would delay events of others.
IDLE_TENANTS_MAX: Final = 200
#: Events that history takes at once: encoding more for PostgreSQL would delay other tasks.
HISTORY_EVENTS_MAX: Final = 5_000


class Pipeline:
    """Counts and stores the batches of the assigned partitions. For one event loop."""

    def __init__(
        self,
        *,
        builder: CommitBatchBuilder,
        committer: CounterCommitter,
        history: HistorySink,
        dead_letters: DeadLetterSink,
        isolation: Isolation,
        commit_events_max: int,
        queue_bytes: int,
        queue_batches: int,
        idle_commit_s: float,
        on_lost: Callable[[Gap], Awaitable[None]],
        on_failure: Callable[[BaseException], None],
    ) -> None:
        """Create a pipeline without partitions.

        `queue_bytes`, `queue_batches`: see `PartitionQueue`. `on_lost` is called with offsets that
        retention took, before those after them are counted; `on_failure` with the error that ended
        a partition's task, RewindRequired among them.
        """
        self._builder = builder
        self._committer = committer
        self._history = history
        self._dead_letters = dead_letters
        self._tenant_commits = TenantCommits(
            committer, dead_letters, isolation, events_max=commit_events_max
        )
        self._commit_events_max = commit_events_max
        self._queue_bytes = queue_bytes
        self._queue_batches = queue_batches
        self._idle_commit_s = idle_commit_s
        self._on_lost = on_lost
        self._on_failure = on_failure
        self._queues: dict[int, PartitionQueue] = {}
        self._commit_batch_sizes: dict[int, CommitBatchSize] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self.positions: dict[int, int] = {}
        """Partition -> offset below which everything is counted."""
        self._ahead: dict[int, int] = {}
        """Partition -> events above its position that are counted."""
        self._backlogs = Backlogs()
        self.closing = False

    async def assign(self, starts: Mapping[int, int]) -> None:
        """Begin with these partitions, each at its offset, and with no others."""
        await self.abandon()
        self.positions = dict(starts)
        self._ahead = dict.fromkeys(starts, 0)
        self._backlogs = Backlogs()
        self._commit_batch_sizes = {p: CommitBatchSize(self._commit_events_max) for p in starts}
        for partition in starts:
            self._queues[partition] = PartitionQueue(
                batch_bytes=self._queue_bytes, batches=self._queue_batches
            )
            task = asyncio.create_task(self._run(partition), name=f"partition-{partition}")
            task.add_done_callback(self._on_task_done)
            self._tasks[partition] = task

    async def abandon(self) -> None:
        """Stop at once. The fences of both stores make that safe: a commit happened or did not."""
        tasks = list(self._tasks.values())
        self._tasks.clear()
        self._queues.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def close(self) -> None:
        """Finish the batches in hand and wait until history has them."""
        self.closing = True
        await asyncio.gather(*(queue.join() for queue in self._queues.values()))
        await self._history.drain()

    def submit(self, batch: Batch, acknowledge: Callable[[], None]) -> None:
        """Put a batch into its partition's queue."""
        queue = self._queues.get(batch.partition)
        if queue is not None and not self.closing:
            queue.put(batch, acknowledge)

    def full_partitions(self) -> set[int]:
        """Return the partitions whose queue is full."""
        return {partition for partition, queue in self._queues.items() if queue.is_full}

    def progress(self) -> dict[int, int]:
        """Return a number of each partition that grows with each commit.

        Its position stands still until a whole commit batch is counted, which may take minutes
        where a store is slow. The number is at least the position, and at most the next one.
        """
        return {p: position + self._ahead[p] for p, position in self.positions.items()}

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._on_failure(error)

    async def _run(self, partition: int) -> None:
        queue, sizes = self._queues[partition], self._commit_batch_sizes
        loop = asyncio.get_running_loop()
        next_idle_s = loop.time() + self._idle_commit_s
        while True:
            try:
                async with asyncio.timeout_at(next_idle_s):
                    batch, acknowledge = await queue.take(sizes[partition].records)
            except TimeoutError:
                # What seemed to wait is never delivered: an open transaction, say.
                if self._backlogs.forget(partition):
                    await self._committer.folds.fold_all()
            else:
                # A batch with another base was fetched before a rewind, and is fetched again.
                if batch.base == self.positions[partition]:
                    self._backlogs.begin(batch)
                    await self._process(batch, acknowledge)
                    if self._backlogs.end(batch):
                        await self._committer.folds.fold_all()
                queue.done()
            # Also after a batch: while batches wait, `take` returns at once and never times out.
            if loop.time() >= next_idle_s:
                await self._commit_idle(partition)
                next_idle_s = loop.time() + self._idle_commit_s

    async def _commit_idle(self, partition: int) -> None:
        """Move the watermarks of tenants without events, the lowest first, a bounded number.

        The lowest watermark is where the next start begins to read.
        """
        position = self.positions[partition]
        behind = self._committer.tenants.behind(partition, position)[:IDLE_TENANTS_MAX]
        await self._tenant_commits.move(behind, partition, position)

    async def _process(self, batch: Batch, acknowledge: Callable[[], None]) -> None:
        partition = batch.partition
        gaps: Sequence[Gap] = ()
        if batch.lost:
            topic_id = self._committer.tenants.session.topic_id
            gaps = [Gap(topic_id, partition, batch.base, batch.base + batch.lost)]
            await self._on_lost(gaps[0])
        committing: asyncio.Task[None] | None = None
        try:
            batch_size = self._commit_batch_sizes[partition]
            for records in split_batch(batch.records, batch_size):
                commit_batch = await self._builder.build(partition, records)
                batch_size.note([len(events) for events in commit_batch.events.values()])
                if committing is not None:
                    await committing
                is_last = commit_batch.next_offset == batch.next_offset
                committing = asyncio.create_task(
                    self._commit(
                        partition,
                        records,
                        commit_batch,
                        gaps,
                        acknowledge if is_last else no_acknowledgement,
                        more=bool(self._backlogs) or not is_last,
                    )
                )
                gaps = ()  # they are before the first commit batch
                await asyncio.sleep(0)  # start the commit before the next batch is decoded
            if committing is not None:
                await committing
        finally:
            if committing is not None:
                await end(committing)

    async def _commit(
        self,
        partition: int,
        records: Sequence[Any],
        batch: CommitBatch,
        gaps: Sequence[Gap],
        acknowledge: Callable[[], None],
        *,
        more: bool,
    ) -> None:
        if batch.rejected:
            await retry("kafka", self._dead_letters.send, batch.rejected)
        stored_offset = self._history.stored_offset(partition)
        ahead = self._ahead  # of this session: a commit may end after another one has started

        async def commit(tenant: str, events: Sequence[SourcedEvent]) -> set[int]:
            end = batch.next_offset
            uncounted = await self._tenant_commits.commit(
                tenant, partition, records, events, end, stored_offset=stored_offset, more=more
            )
            ahead[partition] += len(events)
            return uncounted

        of_tenants = await all_at_once(*(commit(*each) for each in batch.events.items()))
        self.positions[partition] = batch.next_offset
        ahead[partition] = 0
        uncounted = set().union(*of_tenants)
        events = [e for of in batch.events.values() for e in of if e.offset not in uncounted]
        events += batch.of_removed
        events.sort(key=lambda e: e.offset)
        whole = HistoryBatch(events, batch.next_offset, acknowledge, batch.size, gaps)
        await self._history.put(partition, *whole.split(HISTORY_EVENTS_MAX))
