"""Rejected records inside the worker, and dead letters as messages of the dead-letter topic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from streams.decode.rejection import Rejected


class RejectedRecord(NamedTuple):
    """Kafka record that cannot be counted, with the partition it was read from and the reason."""

    partition: int
    record: Any
    """aiokafka's ConsumerRecord."""
    rejection: Rejected
    tenant: str | None = None
    """Tenant of the event, where it was decoded."""


class DeadLetterSink(Protocol):
    """Destination of rejected records."""

    async def send(self, rejected_records: Sequence[RejectedRecord]) -> None:
        """Return when all are durable: in Kafka, or quarantined. Raises StoreUnavailable."""
        ...


class Source(NamedTuple):
    """Position of a record in its source topic; all copies of one dead letter share it."""

    topic_id: str
    partition: int
    offset: int


class DeadLetterInfo(NamedTuple):
    """Reason why a record is a dead letter, and where it was read."""

    reason: str
    detail: str
    topic: str
    topic_id: str
    """Topic id (KIP-516): a recreated topic has the same name and offsets, and another id."""
    partition: int
    offset: int
    time_ms: int
    """When the record was rejected, milliseconds since the Unix epoch."""

    @property
    def source(self) -> Source:
        return Source(self.topic_id, self.partition, self.offset)


class DeadLetter(NamedTuple):
    """Message read from the dead-letter topic."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]
    info: DeadLetterInfo

    @property
    def position(self) -> str:
        """Return PARTITION:OFFSET in the dead-letter topic, as the commands name it."""
        return f"{self.partition}:{self.offset}"
