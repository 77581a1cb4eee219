"""Kafka producers for whole records (key, value, headers), up to the largest size a topic takes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    IncompatibleBrokerVersion,
    KafkaConnectionError,
    KafkaError,
    UnknownError,
    UnsupportedVersionError,
)

from store.settings import Settings
from streams.kafka.connection import aiokafka_options, start_client
from streams.kafka.errors import ENCODING_ERRORS, RecordRefused, is_refusal, kafka_errors

#: The broker aborts the open transaction of a producer that is gone after this time. Until then no
#: reader of committed records gets past it.
TRANSACTION_TIMEOUT_MS: Final = 10_000
#: How long `Producer.discard` waits for the answers to requests in flight.
DISCARD_TIMEOUT_S: Final = 5.0


class OutgoingRecord(NamedTuple):
    """Record to send to one topic."""

    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]
    partition: int | None
    """None = chosen by the client from the key."""


class Producer:
    """Started Kafka producer that sends a list of records as a unit."""

    def __init__(self, client: AIOKafkaProducer, *, is_transactional: bool) -> None:
        self.client = client
        self.is_transactional = is_transactional

    async def partitions_of(self, topic: str) -> frozenset[int]:
        """Return the partitions of `topic`. Raises StoreUnavailable."""
        with kafka_errors():
            return frozenset(await self.client.partitions_for(topic))

    async def send_all(self, topic: str, records: Sequence[OutgoingRecord]) -> None:
        """Return when Kafka has acknowledged all records.

        A transactional producer sends them in one transaction. Raises StoreUnavailable: Kafka may
        then have some of the records, or, of a transactional producer, all or none of them. Raises
        RecordRefused if some of the records can never be sent as they are: Kafka may have others,
        and the producer must not be used any more.
        """
        in_flight: list[asyncio.Future[Any]] = []
        failures: list[BaseException] = []
        with kafka_errors():
            if self.is_transactional:
                await self.client.begin_transaction()
            try:
                for record in records:
                    in_flight.append(
                        await self.client.send(
                            topic,
                            value=record.value,
                            key=record.key,
                            headers=record.headers,
                            partition=record.partition,
                        )
                    )
                    self._retrieve_batch_errors()
            except (KafkaError, *ENCODING_ERRORS) as error:
                failures.append(error)
            # Wait for all of them, also after a failure: every request in flight must have ended
            # before anyone reads the topic.
            results = await asyncio.gather(*in_flight, return_exceptions=True)
            failures += [result for result in results if isinstance(result, BaseException)]
            if refusal := next(filter(is_refusal, failures), None):
                raise RecordRefused(f"{type(refusal).__name__}: {refusal}") from refusal
            if failures:
                raise failures[0]
            if self.is_transactional:
                await self.client.commit_transaction()

    async def stop(self) -> None:
        """Send what is buffered, then close."""
        try:
            await self.client.stop()
        finally:
            self._retrieve_transaction_error()

    async def discard(self) -> bool:
        """Close without sending what is buffered, which `stop` would send first.

        Returns whether all requests in flight were answered within DISCARD_TIMEOUT_S.
        """
        self.client._closed = True
        answered = True
        try:
            async with asyncio.timeout(DISCARD_TIMEOUT_S):
                await self.client._sender.close()
        except (TimeoutError, KafkaError):
            answered = False
        self._retrieve_transaction_error()
        await self.client.client.close()
        return answered

    def _retrieve_transaction_error(self) -> None:
        """Mark the error of the open transaction as retrieved: `send_all` has raised it.

        The client awaits this future only when it commits, so asyncio would report it again.
        """
        transactions = self.client._txn_manager
        if transactions is not None and transactions.transactional_id is not None:
            waiter = transactions.wait_for_transaction_end()
            if waiter is not None and waiter.done():
                _retrieve_error(waiter)

    def _retrieve_batch_errors(self) -> None:
        """Mark the errors of the client's buffered batches as retrieved, when they get one.

        The futures of the records have them too. The client awaits those of the batches only when
        it flushes, so asyncio would report them again.
        """
        for batches in self.client._message_accumulator._batches.values():
            if batches:
                batches[-1]._drain_waiter.add_done_callback(_retrieve_error)


def _retrieve_error(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()


async def open_producer(settings: Settings) -> Producer:
    """Return a producer, idempotent where the broker supports it. Raises StoreUnavailable."""
    with kafka_errors():
        try:
            client = AIOKafkaProducer(enable_idempotence=True, **_options(settings))
            return Producer(await started(client, settings), is_transactional=False)
        except KafkaConnectionError:
            raise
        except KafkaError:
            # Some compatible brokers give no producer ids, and report that with various errors.
            client = AIOKafkaProducer(**_options(settings))
            return Producer(await started(client, settings), is_transactional=False)


async def open_transactional_producer(settings: Settings, transactional_id: str) -> Producer | None:
    """Return a transactional producer that fences any earlier producer with this id.

    The earlier one can send nothing more, and what it had not committed is aborted. Returns None
    where the broker has no transactions. Raises StoreUnavailable.
    """
    client = AIOKafkaProducer(
        transactional_id=transactional_id,
        transaction_timeout_ms=TRANSACTION_TIMEOUT_MS,
        **_options(settings),
    )
    with kafka_errors():
        try:
            return Producer(await started(client, settings), is_transactional=True)
        except (UnknownError, UnsupportedVersionError, IncompatibleBrokerVersion):
            return None


async def started(client: AIOKafkaProducer, settings: Settings) -> AIOKafkaProducer:
    """Start the client and return it; stop it and raise the error if the start fails."""
    try:
        await start_client(client, settings)
    except BaseException:
        await client.stop()
        raise
    return client


def _options(settings: Settings) -> Mapping[str, Any]:
    return {
        **aiokafka_options(settings),
        "acks": "all",
        "linger_ms": 5,
        # A value far over EVENT_BYTES_MAX may have reached us too, and its headers come with it.
        "max_request_size": max(16 * 1_048_576, 3 * settings.event_bytes_max),
    }
