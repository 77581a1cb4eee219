"""Producer of records that clients refuse to send: without key and value, or with odd headers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy

from store.settings import Settings
from tests.support.accounting import Position
from tests.support.fuzz_stream import COMPRESSIONS

#: Before compression.
BATCH_BYTES_MAX: Final = 64 * 1_048_576


class RawName(str):
    """Name of a header that is sent as bytes that are not UTF-8."""

    __slots__ = ()

    def encode(self, *_: str) -> bytes:
        return b"trace-\xff\xfe"


def raw_producer(settings: Settings) -> AIOKafkaProducer:
    """Return a producer for `send_raw`, not yet started.

    It is not idempotent: a batch that the broker refuses would end the order of its sequences.
    """
    return AIOKafkaProducer(
        bootstrap_servers=settings.brokers,
        max_request_size=BATCH_BYTES_MAX,
        retry_backoff_ms=100,
        acks="all",
    )


async def send_raw(
    producer: AIOKafkaProducer,
    topic: str,
    partition: int,
    *,
    compression: str | None,
    key: bytes | None,
    value: bytes | None,
    headers: Sequence[tuple[str, bytes | None]],
    timestamp_ms: int | None,
) -> Position:
    """Send one record as a batch of its own; return its position. Raises KafkaError."""
    batch: Any = producer.create_batch()
    # The builder in C takes no names but str.
    batch._builder = _DefaultRecordBatchBuilderPy(
        2,
        COMPRESSIONS.index(compression),  # in the order of Kafka's codes
        is_transactional=0,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=0,
        batch_size=BATCH_BYTES_MAX,
    )
    appended = batch.append(timestamp=timestamp_ms, key=key, value=value, headers=list(headers))
    assert appended is not None, "the record does not fit a batch"
    batch.close()
    sent = await (await producer.send_batch(batch, topic, partition=partition))
    return sent.partition, sent.offset
