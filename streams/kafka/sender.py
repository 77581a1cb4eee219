"""Sends records to Kafka and knows how many it has acknowledged."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Final, Self

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError, KafkaError

from store.settings import Settings
from streams.kafka.errors import kafka_errors, unavailable
from streams.kafka.producers import started
from streams.kafka.topic_id import describe_topic

#: More than any topic of ours takes: the topic's own limit decides, record by record.
REQUEST_BYTES_MAX: Final = 16 * 1_048_576
BATCH_BYTES: Final = 262_144
LINGER_MS: Final = 5
#: What is in hand when we are told to stop gets this long.
FLUSH_S: Final = 5.0


class Sender:
    """`async with Sender(settings) as sender: await sender.send(key, value)`: leaving the block
    without an error means that Kafka has acknowledged every record. Raises StoreUnavailable.

    The producer is idempotent, so that a retry within it adds no record twice, where the broker
    can do that (`idempotent` says so). Memory is bounded: `send` waits while a batch is full.
    """

    def __init__(self, settings: Settings, topic: str) -> None:
        self._settings = settings
        self._topic = topic
        self._producer: AIOKafkaProducer
        self._failure: BaseException | None = None
        self.idempotent = True
        self.acknowledged = 0

    async def __aenter__(self) -> Self:
        with kafka_errors():
            try:
                self._producer = await self._started()
            except KafkaConnectionError:
                raise
            except KafkaError:
                self.idempotent = False
                self._producer = await self._started()
        try:
            await describe_topic(
                self._settings, self._topic
            )  # a producer would wait for it to appear
        except BaseException:
            await self._producer.stop()
            raise
        return self

    async def send(self, key: bytes | None, value: bytes) -> None:
        if self._failure is not None:
            raise unavailable(self._failure)
        with kafka_errors():
            sent = await self._producer.send(self._topic, value, key=key)
        sent.add_done_callback(self._done)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                await self._producer.flush()
        finally:
            # Also sends what is in hand.
            await asyncio.wait([asyncio.ensure_future(self._producer.stop())], timeout=FLUSH_S)
        if error is None and self._failure is not None:
            raise unavailable(self._failure)

    async def _started(self) -> AIOKafkaProducer:
        return await started(
            AIOKafkaProducer(
                bootstrap_servers=self._settings.brokers,
                client_id="interaction-summary-load",
                acks="all",
                enable_idempotence=self.idempotent,
                linger_ms=LINGER_MS,
                max_batch_size=BATCH_BYTES,
                max_request_size=REQUEST_BYTES_MAX,
            )
        )

    def _done(self, sent: asyncio.Future[object]) -> None:
        if sent.cancelled():
            self._failure = self._failure or asyncio.CancelledError("not sent")
        elif (error := sent.exception()) is not None:
            self._failure = self._failure or error
        else:
            self.acknowledged += 1
