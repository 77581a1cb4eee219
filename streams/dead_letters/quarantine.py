"""Quarantine: rows of records that the dead-letter topic does not take, not even as stubs."""

from __future__ import annotations

import hashlib
from typing import Final

from store import metrics
from store.logs import get_logger
from store.postgres.quarantine import Quarantine, QuarantinedRecord
from store.records import SourcedEvent
from streams.dead_letters.record import RejectedRecord
from streams.decode.rejection import Reason, printable
from streams.kafka.corrupt_batch import CorruptBatch
from streams.retry import retry

logger = get_logger("quarantine")

#: What is kept of a value and of a key.
VALUE_BYTES: Final = 4_096
KEY_BYTES: Final = 256


def row_of(rejected: RejectedRecord, *, topic: str, topic_id: str, why: str) -> QuarantinedRecord:
    """Return the row of a rejected record; `why` says why it is not a dead letter. Pure."""
    partition, record, rejection, tenant = rejected
    value, key = record.value, record.key
    offset, next_offset = record.offset, record.offset + 1
    if isinstance(value, CorruptBatch):
        offset, next_offset = value.base_offset, value.next_offset
    return QuarantinedRecord(
        topic_id=topic_id,
        topic=topic,
        partition=partition,
        offset=offset,
        next_offset=next_offset,
        tenant=tenant,
        reason=rejection.reason,
        error=f"{rejection.detail}; {printable(why)}",
        size=len(value or b""),
        sha256=hashlib.sha256(value or b"").digest(),
        value=None if value is None else value[:VALUE_BYTES],
        key=None if key is None else key[:KEY_BYTES],
        timestamp_ms=record.timestamp,
    )


def row_of_event(
    sourced: SourcedEvent, error: Exception, *, topic: str, topic_id: str, partition: int
) -> QuarantinedRecord:
    """Return the row of an event that was counted and cannot be stored in history. Pure."""
    return QuarantinedRecord(
        topic_id=topic_id,
        topic=topic,
        partition=partition,
        offset=sourced.offset,
        next_offset=sourced.offset + 1,
        tenant=sourced.event.tenant,
        reason=Reason.UNPROCESSABLE,
        error=printable(f"counted, and not stored: {type(error).__name__}: {error}"),
        size=None,
        sha256=None,
        value=None,
        key=None,
        timestamp_ms=sourced.recorded_ms,
    )


async def store_row(quarantine: Quarantine, row: QuarantinedRecord) -> None:
    """Store the row; wait while PostgreSQL is unavailable. A record has one row at most."""
    if await retry("quarantine", quarantine.add, [row]):
        report(row)


def report(row: QuarantinedRecord) -> None:
    """Count a new row, and name it in the log."""
    metrics.QUARANTINED.labels(row.reason).inc()
    logger.error(
        "record quarantined",
        partition=row.partition,
        offset=row.offset,
        next_offset=row.next_offset,
        reason=row.reason,
        error=row.error,
    )
