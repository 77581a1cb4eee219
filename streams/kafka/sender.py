"""Sender of many small records, which counts those that Kafka has acknowledged."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Final, Self

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError, KafkaError

from store.settings import Settings
from streams.kafka.connection import aiokafka_options
from streams.kafka.errors import kafka_errors, unavailable
from streams.kafka.producers import started
from streams.kafka.topic_id import describe_topic

#: More than any of our topics accepts: the topic's own limit decides for each record.
REQUEST_BYTES_MAX: Final = 16 * 1_048_576
BATCH_BYTES: Final = 262_144
LINGER_MS: Final = 5
#: Closing the sender waits this long for its buffered records to be sent.
FLUSH_TIMEOUT_S: Final = 5.0


class Sender:
    """Sender of records to one topic, used as `async with Sender(settings, topic) as sender`.

    If the block ends without an error, Kafka has acknowledged every record. Entering, leaving and
    `send` raise StoreUnavailable. The producer is idempotent, so that its retries duplicate no
    record, where the broker supports that (see `idempotent`). Memory is bounded: `send` waits while
    a batch is full.
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
            # Fails if the topic does not exist; a producer would wait until it does.
            await describe_topic(self._settings, self._topic)
        except BaseException:
            await self._producer.stop()
            raise
        return self

    async def send(self, key: bytes | None, value: bytes) -> None:
        """Buffer a record. Raises StoreUnavailable, also for an earlier record that failed."""
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
            # Also sends what is buffered.
            await asyncio.wait(
                [asyncio.ensure_future(self._producer.stop())], timeout=FLUSH_TIMEOUT_S
            )
        if error is None and self._failure is not None:
            raise unavailable(self._failure)

    async def _started(self) -> AIOKafkaProducer:
        return await started(
            AIOKafkaProducer(
                **aiokafka_options(self._settings),
                client_id="interaction-summary-load",
                acks="all",
                enable_idempotence=self.idempotent,
                linger_ms=LINGER_MS,
                max_batch_size=BATCH_BYTES,
                max_request_size=REQUEST_BYTES_MAX,
            ),
            self._settings,
        )

    def _done(self, sent: asyncio.Future[object]) -> None:
        if sent.cancelled():
            self._failure = self._failure or asyncio.CancelledError("not sent")
        elif (error := sent.exception()) is not None:
            self._failure = self._failure or error
        else:
            self.acknowledged += 1
