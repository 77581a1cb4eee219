"""Records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from streams.decode.rejection import Rejected


class RejectedRecord(NamedTuple):
    partition: int
    record: Any
    why: Rejected


class DeadLetterSink(Protocol):
    async def send(self, letters: Sequence[RejectedRecord]) -> None:
        """Returns when Kafka has acknowledged all; raises StoreUnavailable."""
        ...


class Source(NamedTuple):
    """A place in a log."""

    topic_id: str
    partition: int
    offset: int


class DeadLetterInfo(NamedTuple):
    """Why a record is a dead letter, and where it was read."""

    reason: str
    detail: str
    topic: str
    topic_id: str
    """The topic's id: a topic that is made again has the same name and offsets, and another id."""
    partition: int
    offset: int
    time_ms: int
    """When it was found to be one."""

    @property
    def source(self) -> Source:
        """What one dead letter has in common with all its repeats, and with nothing else."""
        return Source(self.topic_id, self.partition, self.offset)


class DeadLetter(NamedTuple):
    """One record of the dead-letter topic."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]
    about: DeadLetterInfo

    @property
    def place(self) -> str:
        return f"{self.partition}:{self.offset}"
