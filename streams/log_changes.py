"""Changes of the topic under the worker: recreated or truncated."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from store import metrics
from store.logs import get_logger
from store.postgres.history import HistoryWriter
from store.redis.counters import RedisCounters
from store.settings import Settings
from store.windows import DAY_MS
from streams.assignment import Consumer, CurrentTopic, Rewinder
from streams.commit import CounterCommitter
from streams.kafka.topic_id import describe_topic
from streams.retry import retry

logger = get_logger("log_changes")

#: How often the topic id has to be the known one before a log that ends early is a truncated one.
CONFIRMATIONS: Final = 3
CONFIRM_EVERY_S: Final = 1.0


class LogChanges:
    """Notices changes of the topic, records them for `status`, and has the worker rewind."""

    def __init__(
        self,
        settings: Settings,
        *,
        topic: CurrentTopic,
        consumer: Callable[[], Consumer],
        counters: RedisCounters,
        committer: CounterCommitter,
        writer: HistoryWriter,
        rewinder: Rewinder,
        now_ms: Callable[[], int],
    ) -> None:
        self._settings = settings
        self._topic = topic
        self._consumer = consumer
        self._counters = counters
        self._committer = committer
        self._writer = writer
        self._rewinder = rewinder
        self._now_ms = now_ms
        self._noted = ""  # topic id that was recorded last

    async def check_topic_id(self) -> None:
        """Rewind if the topic was recreated: its new incarnation is counted from its start."""
        found = await describe_topic(self._settings, self._settings.interactions_topic)
        if self._topic.topic_id and found.topic_id != self._topic.topic_id:
            await self.note_if_recreated(found.topic_id)
            self._rewinder.rewind()

    async def note_if_recreated(self, topic_id: str) -> None:
        """Record that the topic is another one than before, if it is: once for each topic id.

        A start that follows a rebalance may find that before `check_topic_id` does.
        """
        if self._topic.topic_id in ("", topic_id) or topic_id == self._noted:
            return
        await self._counters.reports.note_log_change("recreated", topic_id, self._now_ms())
        self._noted = topic_id
        metrics.LOG_CHANGES.labels("recreated").inc()
        logger.warning("the topic was recreated", before=self._topic.topic_id, now=topic_id)

    def on_truncated(self, partition: int, end: int) -> None:
        """Handle a partition that ends at `end`, before what was read."""
        self._rewinder.rewind(after=self._recover_truncation(partition, end))

    async def _recover_truncation(self, partition: int, end: int) -> None:
        """Lower the watermarks of both stores, so that the next start reads the last day again.

        The same incarnation of the topic was truncated (an unclean leader election, say). From
        some offset on its records are new, and Kafka does not tell which. Reading the last day
        again is exact because its identities are remembered.
        """
        settings = self._settings
        # Soon after the topic was created again, brokers may still answer with the former topic id.
        for number in range(CONFIRMATIONS):
            if number:
                await asyncio.sleep(CONFIRM_EVERY_S)
            found = await retry("kafka", describe_topic, settings, settings.interactions_topic)
            if found.topic_id != self._topic.topic_id:
                return  # another incarnation: the start finds no watermarks of it
        since = await self._consumer().offset_at(partition, self._now_ms() - DAY_MS)
        start = min(end, since) if settings.dedup_horizon_h >= 24 else end
        metrics.LOG_CHANGES.labels("cut").inc()
        logger.error(
            "the partition was truncated", partition=partition, end=end, reading_from=start
        )
        await self._counters.reports.note_log_change("cut", found.topic_id, self._now_ms())
        await retry("counters", self._committer.reset, partition, start, end)
        positions = await retry("history", self._writer.positions, found.topic_id)
        stored = positions.get(partition, 0)
        if stored > start:
            refused = await retry(
                "history",
                self._writer.reset,
                topic=settings.interactions_topic,
                topic_id=found.topic_id,
                partition=partition,
                expected_offset=stored,
                next_offset=start,
            )
            if refused is not None:
                raise RuntimeError(
                    f"history refused to reset partition {partition} from {stored} to {start}: "
                    f"its watermark is {refused.watermark}"
                )
