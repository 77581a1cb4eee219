"""Rows of the COPY stream, read back field by field."""

from __future__ import annotations

import struct
from typing import Any
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from store.postgres.copyrows import COLUMNS, encode
from store.records import Event, SourcedEvent

TEXT = st.text(max_size=20) | st.sampled_from(["é" * 512, "x" * 1_024, "x" * 1_025])
EVENTS = st.builds(
    Event,
    event_id=st.binary(min_size=16, max_size=16),
    tenant=TEXT,
    customer=TEXT,
    offer=TEXT,
    creative=st.none() | TEXT,
    channel=st.none() | TEXT,
    outcome=TEXT,
    occurred_ms=st.integers(0, 253_370_000_000_000),
    interaction_id=st.none() | TEXT,
    direction=st.none() | TEXT,
    campaign=st.none() | TEXT,
    recommendation=st.none() | TEXT,
    conversion_value=st.none() | st.floats(allow_nan=False),
    context=st.none() | st.binary(max_size=2_000),
)
ROWS = st.lists(
    st.builds(SourcedEvent, EVENTS, st.integers(0, 2**40), st.integers(0, 253_370_000_000_000)),
    max_size=4,
)
TOPIC, TOPIC_ID, PARTITION = "thème", UUID(int=7), 3
POSTGRES_EPOCH_MS = 946_684_800_000


def rows_of(stream: bytes) -> list[list[bytes | None]]:
    assert stream[:19] == b"PGCOPY\n\xff\r\n\0" + bytes(8)
    rows, at = [], 19
    while (columns := struct.unpack_from("!h", stream, at)[0]) >= 0:
        at += 2
        row: list[bytes | None] = []
        for _ in range(columns):
            (size,) = struct.unpack_from("!i", stream, at)
            at += 4
            row.append(None if size < 0 else stream[at : at + size])
            at += max(size, 0)
        rows.append(row)
    assert stream[at:] == b"\xff\xff"
    return rows


def instant(ms: int) -> bytes:
    return struct.pack("!q", (ms - POSTGRES_EPOCH_MS) * 1_000)


def text(value: str | None) -> bytes | None:
    return None if value is None else value.encode()


@given(ROWS)
def test_every_field_of_every_event_is_in_its_column(events: list[SourcedEvent]) -> None:
    stream = encode(events, topic=TOPIC, topic_id=TOPIC_ID, partition=PARTITION)
    found = [dict(zip(COLUMNS, row, strict=True)) for row in rows_of(stream)]
    expected: list[dict[str, Any]] = [
        {
            "tenant_id": text(event.tenant),
            "event_id": event.event_id,
            "interaction_id": text(event.interaction_id),
            "customer_id": text(event.customer),
            "offer_id": text(event.offer),
            "creative_id": text(event.creative),
            "channel_id": text(event.channel),
            "outcome_type": text(event.outcome),
            "direction": text(event.direction),
            "campaign_id": text(event.campaign),
            "recommendation_id": text(event.recommendation),
            "conversion_value": None
            if event.conversion_value is None
            else struct.pack("!d", event.conversion_value),
            "occurred_at": instant(event.occurred_ms),
            "source_topic": text(TOPIC),
            "source_log": TOPIC_ID.bytes,
            "source_partition": struct.pack("!i", PARTITION),
            "source_offset": struct.pack("!q", offset),
            "recorded_at": instant(recorded_ms),
            "context": event.context,
        }
        for event, offset, recorded_ms in events
    ]
    assert found == expected
