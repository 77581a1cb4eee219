"""Records that could be neither counted nor sent to the dead-letter topic.

A row is all that is known of such a record: it is stored before the partition's watermarks pass the
record. Rows are kept as long as dead letters are, 90 days.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from store.postgres import pool as postgres
from store.postgres.pool import Connection, Pool, transaction
from store.postgres.sql import load

_QUARANTINE: Final = load("quarantine")
_FORGET: Final = load("forget_quarantined")
_QUARANTINED: Final = load("quarantined")
_REASONS: Final = load("quarantined_reasons")


class QuarantinedRecord(NamedTuple):
    """One record, or all records of a batch that cannot be read."""

    topic_id: str
    topic: str
    partition: int
    offset: int
    next_offset: int
    """The first offset after the record, or after the batch."""
    tenant: str | None
    """None: not known."""
    reason: str
    """Why it was not counted: a reason of dead letters."""
    error: str
    """Why it was not sent to the dead-letter topic, or what failed; printable."""
    size: int | None
    """Bytes of the whole value, or of the batch. None: not known."""
    sha256: bytes | None
    """SHA-256 of the same."""
    value: bytes | None
    """The first bytes of the value."""
    key: bytes | None
    """The first bytes of the key."""
    timestamp_ms: int | None
    """Timestamp of the record; producers may use another unit than ms."""
    recorded_at: datetime | None = None
    """When the row was stored (UTC). None: not yet."""

    @property
    def position(self) -> str:
        """Return PARTITION:OFFSET in the source topic."""
        return f"{self.partition}:{self.offset}"


class QuarantineSummary(NamedTuple):
    """Numbers of rows by reason, and the time of the newest row (UTC)."""

    by_reason: dict[str, int]
    newest_at: datetime | None

    @property
    def total(self) -> int:
        """Number of all rows."""
        return sum(self.by_reason.values())


async def quarantine(connection: Connection, records: Sequence[QuarantinedRecord]) -> int:
    """Store rows in the transaction of `connection`; return how many are new.

    A record that has a row already, because it was read again, keeps that one.
    """
    stored = 0
    for record in records:
        values = record._asdict()
        del values["recorded_at"]
        values["topic_id"] = UUID(record.topic_id)
        stored += (await connection.execute(_QUARANTINE, values)).rowcount
    return stored


class Quarantine:
    """Quarantined records in PostgreSQL. Every method raises StoreUnavailable."""

    def __init__(self, pool: Pool, *, timeout_s: float = postgres.TRANSACTION_TIMEOUT_S) -> None:
        self._pool = pool
        self._timeout_s = timeout_s

    async def add(self, records: Sequence[QuarantinedRecord]) -> int:
        """Store rows, and drop rows older than 90 days; return how many are new."""
        async with transaction(self._pool, timeout_s=self._timeout_s) as connection:
            await connection.execute(_FORGET)
            return await quarantine(connection, records)

    async def newest(self, limit: int, *, reason: str | None = None) -> list[QuarantinedRecord]:
        """Return the newest `limit` rows, newest first, with this reason (None = any)."""
        return await self._read(limit=limit, reason=reason, partition=None, offset=None)

    async def at(self, partition: int, offset: int) -> list[QuarantinedRecord]:
        """Return the rows about an offset of the source topic: one for each topic id."""
        return await self._read(limit=100, reason=None, partition=partition, offset=offset)

    async def summary(self) -> QuarantineSummary:
        """Return the numbers of all rows."""
        async with transaction(self._pool, read_only=True, timeout_s=self._timeout_s) as connection:
            rows = await (await connection.execute(_REASONS)).fetchall()
        return QuarantineSummary(
            {reason: n for reason, n, _ in rows},
            max((at.astimezone(UTC) for _, _, at in rows), default=None),
        )

    async def _read(self, **values: Any) -> list[QuarantinedRecord]:
        async with transaction(self._pool, read_only=True, timeout_s=self._timeout_s) as connection:
            cursor = await connection.execute(_QUARANTINED, values)
            return [
                QuarantinedRecord(*row)._replace(recorded_at=row[-1].astimezone(UTC))
                for row in await cursor.fetchall()
            ]
