"""Records that must not be counted, on their way to the dead-letter topic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from streams.decode.decoder import Rejected


class RejectedRecord(NamedTuple):
    """A record that was read, and why it is not counted."""

    partition: int
    record: Any
    """aiokafka's ConsumerRecord: offset, key, value, headers, timestamp (ms)."""
    rejection: Rejected


class DeadLetterSink(Protocol):
    """Takes rejected records of one worker."""

    async def send(self, rejected: Sequence[RejectedRecord]) -> None:
        """Return when Kafka has acknowledged all; raise StoreUnavailable."""
        ...
