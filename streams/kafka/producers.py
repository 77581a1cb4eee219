"""Kafka producers of events and letters, of any size that the topics take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    IncompatibleBrokerVersion,
    KafkaConnectionError,
    KafkaError,
    UnknownError,
    UnsupportedVersionError,
)

from store.records import StoreUnavailable
from store.settings import Settings

#: A transaction whose producer is gone is ended by the broker after this. Until then nobody who
#: reads only what is committed gets past it.
TRANSACTION_TIMEOUT_MS: Final = 10_000


async def start_producer(settings: Settings) -> AIOKafkaProducer:
    """Idempotent where the broker can do that. Raises StoreUnavailable."""
    try:
        try:
            return await started(AIOKafkaProducer(enable_idempotence=True, **_options(settings)))
        except KafkaConnectionError:
            raise
        except KafkaError:
            # Some compatible brokers give no producer ids, and say so in no certain terms.
            return await started(AIOKafkaProducer(**_options(settings)))
    except (KafkaError, OSError) as error:
        raise StoreUnavailable(f"Kafka: {type(error).__name__}: {error}") from error


async def start_fencing_producer(
    settings: Settings, transactional_id: str
) -> AIOKafkaProducer | None:
    """A producer of transactions. Whoever had the id before can send nothing any more, and what it
    had not committed never is. None where the broker has no transactions. Raises
    StoreUnavailable."""
    try:
        return await started(
            AIOKafkaProducer(
                transactional_id=transactional_id,
                transaction_timeout_ms=TRANSACTION_TIMEOUT_MS,
                **_options(settings),
            )
        )
    except (UnknownError, UnsupportedVersionError, IncompatibleBrokerVersion):
        return None
    except (KafkaError, OSError) as error:
        raise StoreUnavailable(f"Kafka: {type(error).__name__}: {error}") from error


def _options(settings: Settings) -> Mapping[str, Any]:
    return {
        "bootstrap_servers": settings.brokers,
        "acks": "all",
        "linger_ms": 5,
        # Also a value far over EVENT_BYTES_MAX got to us, and its headers come with it.
        "max_request_size": max(16 * 1_048_576, 3 * settings.event_bytes_max),
    }


async def started(producer: AIOKafkaProducer) -> AIOKafkaProducer:
    """The producer, started. Where that fails it is stopped, and what failed is raised."""
    try:
        await producer.start()
    except BaseException:
        await producer.stop()
        raise
    return producer
