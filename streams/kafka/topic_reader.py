"""Reader of ranges of a topic's partitions, outside of any consumer group, without commits.

The end of a partition is taken from fetch answers. The usual way is to list end offsets, but some
Kafka-compatible brokers answer that wrongly.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition

from store.settings import Settings
from streams.kafka import lenient_records
from streams.kafka.connection import aiokafka_options, start_client
from streams.kafka.errors import kafka_errors
from streams.kafka.record_time import known_ms
from streams.kafka.topic_id import TopicDescription

#: A healthy broker answers a fetch in a fraction of this.
ANSWER_TIMEOUT_S: Final = 10.0
#: When all ends are known, the first record of each partition comes with one of the next answers,
#: or not at all: a partition may end with transaction markers, which are no records.
FETCHES_AFTER_END: Final = 10


class TopicReader:
    """Open reader of one topic. Every method raises StoreUnavailable."""

    def __init__(self, consumer: AIOKafkaConsumer, topic: str) -> None:
        self._consumer = consumer
        self._topic = topic

    async def end(self, partition: int) -> int:
        """Return the offset that the partition's next record will have."""
        tp = self._seek(partition, 0)
        with kafka_errors(timeout_s=ANSWER_TIMEOUT_S):
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                while (end := self._consumer.highwater(tp)) is None:
                    await self._consumer.getmany(timeout_ms=100)
        return int(end)

    async def read(self, partition: int, first: int, end: int) -> AsyncIterator[Any]:
        """Yield the existing records (aiokafka's ConsumerRecord) of the offsets [first, end)."""
        tp = self._seek(partition, first)
        while True:
            with kafka_errors(timeout_s=ANSWER_TIMEOUT_S):
                async with asyncio.timeout(ANSWER_TIMEOUT_S):
                    fetched = await self._consumer.getmany(tp, timeout_ms=100)
                    position = await self._consumer.position(tp)
            for record in fetched.get(tp, ()):
                if record.offset < end:
                    yield record
            if position >= end:
                return

    def _seek(self, partition: int, offset: int) -> TopicPartition:
        tp = TopicPartition(self._topic, partition)
        self._consumer.assign([tp])
        self._consumer.seek(tp, offset)
        return tp


@asynccontextmanager
async def open_topic(settings: Settings, topic: str) -> AsyncIterator[TopicReader]:
    """Open a reader of `topic`, which must exist. Raises StoreUnavailable."""
    consumer = make_consumer(settings, "interaction-summary-reader")
    try:
        with kafka_errors(timeout_s=ANSWER_TIMEOUT_S):
            await start_client(consumer, settings)
        yield TopicReader(consumer, topic)
    finally:
        await consumer.stop()


def make_consumer(settings: Settings, client_id: str, **options: Any) -> AIOKafkaConsumer:
    """Return a consumer outside of any group, which the caller starts and stops."""
    lenient_records.install()
    return AIOKafkaConsumer(
        **aiokafka_options(settings),
        client_id=client_id,
        enable_auto_commit=False,
        isolation_level="read_committed",  # leaves out aborted transactions of fenced workers
        auto_offset_reset="earliest",  # if retention has deleted the requested offset
        fetch_max_wait_ms=100,
        **options,
    )


def stable_end(consumer: Any, tp: Any) -> int | None:
    """Return the partition's last stable offset in the last fetch answer; None = no answer yet.

    It is where the first open transaction begins, or else the partition's end.
    """
    return stable_of(consumer.highwater(tp), consumer.last_stable_offset(tp))


def stable_of(high: int | None, stable: int | None) -> int | None:
    """Return the last stable offset of a fetch answer, from its two ends; None = no answer yet."""
    return high if high is None or stable is None or stable < 0 else stable


class Tail(NamedTuple):
    """Records of one partition from a given offset on."""

    end: int
    """The last stable offset: up to there it can be read."""
    has_more: bool
    """Whether there is any record from that offset on."""
    arrived_ms: int | None
    """When the first of them arrived; None = not known: it was not received in time, or its
    timestamp is no time in ms."""


async def read_tails(
    settings: Settings, topic: TopicDescription, positions: Mapping[int, int], *, now_ms: int
) -> dict[int, Tail]:
    """Return the tail of each partition of the interactions topic from its position on.

    `positions` maps partitions to offsets; a missing partition starts at 0. Timestamps are judged
    by `now_ms`. Raises StoreUnavailable.
    """
    consumer = make_consumer(
        settings,
        "interaction-summary-status",
        max_partition_fetch_bytes=1,  # at most one record batch: any answer contains the end
    )
    partitions = [TopicPartition(settings.interactions_topic, p) for p in range(topic.partitions)]
    starts = {tp: positions.get(tp.partition, 0) for tp in partitions}
    try:
        with kafka_errors(timeout_s=ANSWER_TIMEOUT_S):
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await start_client(consumer, settings)
                consumer.assign(partitions)
                for tp, start in starts.items():
                    consumer.seek(tp, start)
                arrived: dict[Any, int | None] = {}
                fetches_left = FETCHES_AFTER_END
                while True:
                    for tp, records in (await consumer.getmany(timeout_ms=100)).items():
                        arrived.setdefault(tp, known_ms(records[0].timestamp, now_ms))
                    answered = {tp: stable_end(consumer, tp) for tp in partitions}
                    ends = {tp: end for tp, end in answered.items() if end is not None}
                    if len(ends) < len(partitions):
                        continue
                    fetches_left -= 1
                    for tp in partitions:
                        if (
                            tp not in arrived
                            and await consumer.position(tp) >= ends[tp] > starts[tp]
                        ):
                            ends[tp] = starts[tp]  # only transaction markers are left
                    waiting = [tp for tp in partitions if ends[tp] > starts[tp]]
                    if fetches_left == 0 or all(tp in arrived for tp in waiting):
                        return {
                            tp.partition: Tail(ends[tp], tp in waiting, arrived.get(tp))
                            for tp in partitions
                        }
    finally:
        await consumer.stop()
