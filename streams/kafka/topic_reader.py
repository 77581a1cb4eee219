"""Reads ranges of a topic's partitions, for tools: outside any group, nothing committed.

Where a partition ends is taken from fetch answers. Asking for the end offset is the usual way, and
wrong on some Kafka-compatible brokers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition

from store.settings import Settings
from streams.kafka.errors import kafka_errors
from streams.kafka.topic_id import TopicDescription

#: A broker that is well answers a fetch in a fraction of this.
ANSWER_S: Final = 10.0
#: Kafka answers a fetch in a fraction of this, or is in trouble.
ENDS_TIMEOUT_S: Final = 10.0
#: When all ends are known, the first record of each partition comes with one of the next answers,
#: or not at all: a log may end with what is no record.
LOOKS_AFTER_END: Final = 10


class TopicReader:
    """Of one topic, open. Every method raises StoreUnavailable."""

    def __init__(self, consumer: AIOKafkaConsumer, topic: str) -> None:
        self._consumer = consumer
        self._topic = topic

    async def end(self, partition: int) -> int:
        """The offset that the partition's next record will have."""
        tp = self._go_to(partition, 0)
        with kafka_errors(timeout_s=ANSWER_S):
            async with asyncio.timeout(ANSWER_S):
                while (end := self._consumer.highwater(tp)) is None:
                    await self._consumer.getmany(timeout_ms=100)
        return int(end)

    async def read(self, partition: int, first: int, end: int) -> AsyncIterator[Any]:
        """The records (aiokafka's ConsumerRecord) of the offsets [first, end) that are there."""
        tp = self._go_to(partition, first)
        while True:
            with kafka_errors(timeout_s=ANSWER_S):
                async with asyncio.timeout(ANSWER_S):
                    fetched = await self._consumer.getmany(tp, timeout_ms=100)
                    position = await self._consumer.position(tp)
            for record in fetched.get(tp, ()):
                if record.offset < end:
                    yield record
            if position >= end:
                return

    def _go_to(self, partition: int, offset: int) -> TopicPartition:
        tp = TopicPartition(self._topic, partition)
        self._consumer.assign([tp])
        self._consumer.seek(tp, offset)
        return tp


@asynccontextmanager
async def open_topic(settings: Settings, topic: str) -> AsyncIterator[TopicReader]:
    """A reader of `topic`, which must exist. Raises StoreUnavailable."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.brokers,
        client_id="interaction-summary-reader",
        enable_auto_commit=False,
        isolation_level="read_committed",  # what a worker that was replaced had begun is not there
        auto_offset_reset="earliest",  # where retention has taken what was asked for
        fetch_max_wait_ms=100,
    )
    try:
        with kafka_errors(timeout_s=ANSWER_S):
            await consumer.start()
        yield TopicReader(consumer, topic)
    finally:
        await consumer.stop()


class Tail(NamedTuple):
    """What one partition's log has from an offset on."""

    end: int
    """The next offset to be written."""
    has_more: bool
    """Whether there is anything from that offset on."""
    arrived_ms: int | None
    """When the first of it arrived; None = not known, as it did not come in time."""


async def read_tails(
    settings: Settings, topic: TopicDescription, positions: Mapping[int, int]
) -> dict[int, Tail]:
    """Partition -> what is in it from its position on, from fetch answers: what the broker's own
    offset listing says is not right on every compatible broker. Raises StoreUnavailable.
    """
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.brokers,
        client_id="interaction-summary-status",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        fetch_max_wait_ms=100,
        max_partition_fetch_bytes=1,  # one batch at most: the end comes with any answer
    )
    partitions = [TopicPartition(settings.interactions_topic, p) for p in range(topic.partitions)]
    starts = {tp: positions.get(tp.partition, 0) for tp in partitions}
    try:
        with kafka_errors(timeout_s=ENDS_TIMEOUT_S):
            async with asyncio.timeout(ENDS_TIMEOUT_S):
                await consumer.start()
                consumer.assign(partitions)
                for tp, start in starts.items():
                    consumer.seek(tp, start)
                arrived: dict[Any, int] = {}
                looks_left = LOOKS_AFTER_END
                while True:
                    for tp, records in (await consumer.getmany(timeout_ms=100)).items():
                        arrived.setdefault(tp, records[0].timestamp)
                    ends = {tp: consumer.highwater(tp) for tp in partitions}
                    if None in ends.values():
                        continue
                    looks_left -= 1
                    for tp in partitions:
                        if (
                            tp not in arrived
                            and await consumer.position(tp) >= ends[tp] > starts[tp]
                        ):
                            ends[tp] = starts[tp]  # what is left are markers of transactions
                    waiting = [tp for tp in partitions if ends[tp] > starts[tp]]
                    if looks_left == 0 or all(tp in arrived for tp in waiting):
                        return {
                            tp.partition: Tail(ends[tp], tp in waiting, arrived.get(tp))
                            for tp in partitions
                        }
    finally:
        await consumer.stop()
