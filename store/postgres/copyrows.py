"""Encoder of `interaction_history` rows in the binary format of COPY. Pure.

Written for this table alone, and for speed: about 1 µs a row. A general encoder takes many times as
long. A value is its length in bytes (4 bytes, big-endian; -1 for null), then the bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final
from uuid import UUID

from store.records import SourcedEvent

#: Columns in the order of `encode` and of the COPY statement.
COLUMNS: Final = (
    "tenant_id", "event_id", "interaction_id", "customer_id", "offer_id", "creative_id",
    "channel_id", "outcome_type", "direction", "campaign_id", "recommendation_id",
    "conversion_value", "occurred_at", "source_topic", "source_log", "source_partition",
    "source_offset", "recorded_at", "context",
)  # fmt: skip

_HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)  # signature, no flags, no extension
_TRAILER: Final = b"\xff\xff"
_NULL: Final = b"\xff\xff\xff\xff"
_length = struct.Struct("!i").pack
_float8 = struct.Struct("!id").pack
#: Encoded lengths of short values: an index takes a third of the time of a call.
_LENGTHS: Final = [_length(n) for n in range(1_025)]
_ROW: Final = struct.pack("!h", len(COLUMNS))
_EVENT_ID: Final = _length(16)
#: 2000-01-01T00:00Z: PostgreSQL counts microseconds from then.
_POSTGRES_EPOCH_MS: Final = 946_684_800_000


def encode(events: Iterable[SourcedEvent], *, topic: str, topic_id: UUID, partition: int) -> bytes:
    """Return the whole COPY stream of `events`, all from `partition` of the topic."""
    source = _text(topic) + _bytes(topic_id.bytes) + _bytes(struct.pack("!i", partition))
    # occurred_at, the source, source_offset, recorded_at
    times = struct.Struct(f"!iq{len(source)}siqiq").pack
    known = _Known()  # few distinct values are repeated often
    rows = [_HEADER]
    for event, offset, recorded_ms in events:
        interaction, recommendation = event.interaction_id, event.recommendation
        value, context = event.conversion_value, event.context
        rows += (
            _ROW,
            known[event.tenant],
            _EVENT_ID,
            event.event_id,
            _NULL if interaction is None else _text(interaction),
            _text(event.customer),
            known[event.offer],
            known[event.creative],
            known[event.channel],
            known[event.outcome],
            known[event.direction],
            known[event.campaign],
            _NULL if recommendation is None else _text(recommendation),
            _NULL if value is None else _float8(8, value),
            times(
                8,
                (event.occurred_ms - _POSTGRES_EPOCH_MS) * 1_000,
                source,
                8,
                offset,
                8,
                (recorded_ms - _POSTGRES_EPOCH_MS) * 1_000,
            ),
            _NULL if context is None else _bytes(context),
        )
    rows.append(_TRAILER)
    return b"".join(rows)


class _Known(dict[str | None, bytes]):
    """Encoded texts, each encoded when it is first met."""

    def __missing__(self, value: str | None) -> bytes:
        encoded = self[value] = _NULL if value is None else _text(value)
        return encoded


def _bytes(value: bytes) -> bytes:
    return _length(len(value)) + value


def _text(value: str) -> bytes:
    raw = value.encode()
    size = len(raw)
    return (_LENGTHS[size] if size < 1_025 else _length(size)) + raw
