"""Where reading starts after an assignment, and rewinding to it when a store has less."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, Final, Protocol

from store import metrics
from store.logs import get_logger
from store.postgres.history import HistoryWriter
from store.postgres.pool import bounded
from store.records import StoreUnavailable
from store.settings import Settings
from streams.arrival_watermarks import ArrivalWatermarks
from streams.commit import CounterCommitter
from streams.dead_letters.sink import KafkaDeadLetterSink
from streams.history_sink import HistorySink
from streams.kafka.topic_id import describe_topic
from streams.lost_offsets import LostOffsets
from streams.pipeline import Pipeline
from streams.retry import retry
from streams.tenant_state import RewindRequired

logger = get_logger("assignment")

#: How long a start waits for Postgres to return history's positions.
POSITIONS_TIMEOUT_S: Final = 5.0
#: How many times a worker without partitions asks its group for a new assignment.
REJOINS_MAX: Final = 3


class Consumer(Protocol):
    """What the worker's parts ask of the Kafka consumer (see `streams.kafka.consumer`)."""

    async def seek_again(self) -> None:
        """Seek every assigned partition to where `StartOffsets.find` says.

        Does not fail where a rebalance takes partitions meanwhile: the rebalance seeks too.
        """
        ...

    async def earliest(self, partitions: int) -> dict[int, int]:
        """Return the earliest offset of partitions 0 to `partitions` - 1."""
        ...

    async def offset_at(self, partition: int, at_ms: int) -> int:
        """Return the first offset whose record is not older than `at_ms`; 0 if there is none."""
        ...

    async def request_rejoin(self) -> None:
        """Ask the consumer group for a new assignment."""
        ...

    def end_offset(self, partition: int, committed_through: int) -> int | None:
        """Return the partition's end as its last fetch answer gave it; None = not known."""
        ...


class Reports(Protocol):
    """What a start asks of the reports (see `streams.progress`)."""

    def forget_reported(self) -> None:
        """Forget the offsets reported before: reading may start below them."""
        ...

    def begin_session(self, instance: str) -> None:
        """Report of the session that begins; `instance`: that of Redis before it was asked."""
        ...


@dataclasses.dataclass
class CurrentTopic:
    """The incarnation of the interactions topic that is read now."""

    topic_id: str = ""
    """Empty until the first assignment."""
    partitions: int = 0


class StartOffsets:
    """Finds where to start reading: the stores' truth, not Kafka's committed offsets."""

    def __init__(
        self,
        settings: Settings,
        *,
        topic: CurrentTopic,
        consumer: Callable[[], Consumer],
        pipeline: Pipeline,
        committer: CounterCommitter,
        history: HistorySink,
        writer: HistoryWriter,
        dead_letters: KafkaDeadLetterSink,
        arrivals: ArrivalWatermarks,
        lost_offsets: LostOffsets,
        note_uncounted: Callable[[str], Awaitable[None]],
        note_if_recreated: Callable[[str], Awaitable[None]],
        rewinder: Rewinder,
        progress: Reports,
        instance: Callable[[], Awaitable[str]],
    ) -> None:
        """`progress` is told when a session begins; `instance` returns that of Redis.

        `note_uncounted(topic_id)`: see `streams.replaced_topics`; `note_if_recreated(topic_id)`:
        `streams.log_changes`.
        """
        self._settings = settings
        self._topic = topic
        self._consumer = consumer
        self._pipeline = pipeline
        self._committer = committer
        self._history = history
        self._writer = writer
        self._dead_letters = dead_letters
        self._arrivals = arrivals
        self._lost_offsets = lost_offsets
        self._note_uncounted = note_uncounted
        self._note_if_recreated = note_if_recreated
        self._rewinder = rewinder
        self._progress = progress
        self._instance = instance

    async def find(self, partitions: Sequence[int]) -> Mapping[int, int]:
        """Return the offset to read each partition from, and start a read session there.

        It is the lowest offset that any tenant's counters, or history, still need. The order of
        the steps matters: once `assign` returns, the previous owner of a partition can send no more
        dead letters of it, so the stores are asked after that.
        """
        self._arrivals.suspend()
        await self._pipeline.abandon()
        self._rewinder.session_starts()
        self._progress.forget_reported()
        settings = self._settings
        found = await retry("kafka", describe_topic, settings, settings.interactions_topic)
        topic_id = found.topic_id
        await retry("counters", self._note_if_recreated, topic_id)
        self._topic.topic_id, self._topic.partitions = topic_id, found.partitions
        await retry("counters", self._dead_letters.assign, topic_id, partitions)
        earliest = await retry("kafka", self._consumer().earliest, found.partitions)
        instance = await retry("counters", self._instance)
        counted = await retry("counters", self._committer.counted, topic_id, earliest)
        stored = await self._stored(topic_id)
        gaps = await self._lost_offsets.note_before_start(
            topic_id, partitions, earliest, stored, self._committer.unread
        )
        await self._note_uncounted(topic_id)
        self._committer.start_session(topic_id, counted, earliest)
        if stored is None:
            starts = {p: counted[p] for p in partitions}
            await self._history.start_session(topic_id, starts, gaps)
        else:
            starts = {p: min(counted[p], stored.get(p, earliest[p])) for p in partitions}
            positions = {p: stored.get(p) for p in partitions}
            await self._history.start_session(topic_id, positions, gaps)
        self._arrivals.begin(partitions)
        await self._pipeline.assign(starts)
        self._progress.begin_session(instance)
        logger.info("partitions assigned", topic_id=topic_id, starts=starts)
        return starts

    async def end_session(self) -> None:
        """End the read session of a worker that has no partitions any more.

        It would go on to report the progress of these partitions. Their new owner would take that
        for a loss of Redis, and rewind at each report. During a stop nothing is reported, and what
        is in hand is finished.
        """
        if self._pipeline.closing:
            return
        self._arrivals.suspend()
        self._progress.forget_reported()
        await self._pipeline.assign({})
        await self._history.start_session(self._topic.topic_id, {})
        self._arrivals.begin([])
        logger.info("no partitions assigned")

    async def _stored(self, topic_id: str) -> Mapping[int, int] | None:
        """Return, by partition, the offset below which history has everything.

        None where Postgres does not answer: counting need not wait for it. History is then assumed
        to be where the counters are; its fence corrects that at the first write.
        """
        try:
            return await bounded(self._writer.positions(topic_id), POSITIONS_TIMEOUT_S)
        except StoreUnavailable as error:
            logger.warning(
                "history unavailable, reading starts at the counters' offsets", error=str(error)
            )
            return None


class Rewinder:
    """Decides what follows an error: a rewind of all partitions, or the end of the process."""

    def __init__(self, consumer: Callable[[], Consumer], *, on_rewind: Callable[[], None]) -> None:
        """Create a rewinder. For one event loop, which must be running.

        `on_rewind` is called at each request for a rewind, before anything is read again.
        """
        self._consumer = consumer
        self._on_rewind = on_rewind
        self._rewinding: asyncio.Task[None] | None = None
        self._again = False
        self.failed: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        """Set to the error that must end the process."""

    def session_starts(self) -> None:
        """Drop the request for another seek: this start asks all stores, so it covers it."""
        self._again = False

    def on_error(self, error: BaseException) -> None:
        """Rewind after RewindRequired; set `failed` after any other error."""
        if isinstance(error, RewindRequired):
            metrics.REWINDS.inc()
            logger.warning("rewinding to read again what a store lacks", reason=str(error))
            self.rewind()
        elif not self.failed.done():
            self.failed.set_result(error)

    def watch(self, task: asyncio.Task[Any]) -> None:
        """Handle the error that ends `task`, if one does."""
        task.add_done_callback(self._on_task_done)

    def rewind(self, after: Coroutine[Any, Any, None] | None = None) -> None:
        """Rewind in the background, once `after` has ended.

        If a rewind is already running, `after` is dropped and the running one seeks once more: it
        may have asked the stores before the new finding.
        """
        self._on_rewind()
        if self._rewinding is None or self._rewinding.done():
            self._rewinding = asyncio.create_task(self._rewind(after))
            self.watch(self._rewinding)
        else:
            if after is not None:
                after.close()
            self._again = True

    async def _rewind(self, after: Coroutine[Any, Any, None] | None) -> None:
        if after is not None:
            await after
        consumer = self._consumer()
        await consumer.seek_again()
        while self._again:
            await consumer.seek_again()

    def _on_task_done(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.on_error(error)


class IdleRejoin:
    """Asks the group again when this worker has no partitions.

    A group that was formed while the topic was missing assigns no partitions, and does not always
    notice that the topic is back. A worker may also be one more than there are partitions, so it
    asks a few times only.
    """

    def __init__(
        self, topic: CurrentTopic, pipeline: Pipeline, consumer: Callable[[], Consumer]
    ) -> None:
        self._topic = topic
        self._pipeline = pipeline
        self._consumer = consumer
        self._rejoins = 0

    async def rejoin_if_idle(self) -> None:
        """Request a new assignment if there is none; call this every few seconds."""
        if self._pipeline.positions:
            self._rejoins = 0
        elif self._topic.topic_id and self._rejoins < REJOINS_MAX:
            self._rejoins += 1
            logger.info("no partitions, asking the group for an assignment", attempt=self._rejoins)
            await self._consumer().request_rejoin()


def every(
    wait_s: float, work: Callable[[], Awaitable[None]], on_error: Callable[[BaseException], None]
) -> Coroutine[Any, Any, None]:
    """Return a coroutine that calls `work` for ever, `wait_s` after each end.

    StoreUnavailable is logged and retried with the next call; RewindRequired goes to `on_error`;
    any other error ends the coroutine.
    """

    async def run() -> None:
        while True:
            try:
                await work()
            except StoreUnavailable as error:
                logger.info("retrying later", work=work.__name__, error=str(error))
            except RewindRequired as behind:
                on_error(behind)
            await asyncio.sleep(wait_s)

    return run()
