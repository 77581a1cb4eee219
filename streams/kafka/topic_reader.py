"""Reads ranges of a topic's partitions, for tools: outside any group, nothing committed.

Where a partition ends is taken from fetch answers. Asking for the end offset is the usual way, and
wrong on some Kafka-compatible brokers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from store.records import StoreUnavailable
from store.settings import Settings

#: A broker that is well answers a fetch in a fraction of this.
ANSWER_S: Final = 10.0


class TopicReader:
    """Of one topic, open. Every method raises StoreUnavailable."""

    def __init__(self, consumer: AIOKafkaConsumer, topic: str) -> None:
        self._consumer = consumer
        self._topic = topic

    async def end(self, partition: int) -> int:
        """The offset that the partition's next record will have."""
        tp = self._go_to(partition, 0)
        with _kafka_errors():
            async with asyncio.timeout(ANSWER_S):
                while (end := self._consumer.highwater(tp)) is None:
                    await self._consumer.getmany(timeout_ms=100)
        return int(end)

    async def read(self, partition: int, first: int, end: int) -> AsyncIterator[Any]:
        """The records (aiokafka's ConsumerRecord) of the offsets [first, end) that are there."""
        tp = self._go_to(partition, first)
        while True:
            with _kafka_errors():
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
        with _kafka_errors():
            await consumer.start()
        yield TopicReader(consumer, topic)
    finally:
        await consumer.stop()


@contextmanager
def _kafka_errors() -> Iterator[None]:
    try:
        yield
    except TimeoutError:
        raise StoreUnavailable(f"Kafka: no answer within {ANSWER_S:g} s") from None
    except (KafkaError, OSError) as error:
        raise StoreUnavailable(f"Kafka: {type(error).__name__}: {error}") from error
