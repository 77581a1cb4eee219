"""Replay of a tenant's history for a rebuild: one snapshot of rows and watermarks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

from store.counters import Position
from store.postgres.pool import Pool, transaction
from store.postgres.sql import load
from store.records import Event, SourcedEvent

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MS: Final = timedelta(milliseconds=1)
_TIMEOUT_S: Final = 6 * 3600.0  # a rebuild of a large tenant takes long; each fetch is short


class Replay(NamedTuple):
    """All rows of a tenant, in batches."""

    positions: Sequence[Position]
    """Next offset of every partition of every topic id: history has all offsets below."""
    rows: int
    batches: AsyncIterator[list[SourcedEvent]]
    """The offset of an event is its index in this replay, from 0; not a Kafka offset."""


@asynccontextmanager
async def replay(pool: Pool, tenant: str, *, batch_events: int) -> AsyncIterator[Replay]:
    """Yield the tenant's rows as of now. Raises StoreUnavailable."""
    async with transaction(pool, read_only=True, snapshot=True, timeout_s=_TIMEOUT_S) as connection:
        watermarks = await (await connection.execute(load("watermarks"))).fetchall()
        counted = await (
            await connection.execute(
                "SELECT count(*) FROM interaction_history WHERE tenant_id = %s", (tenant,)
            )
        ).fetchone()
        assert counted is not None

        async def batches() -> AsyncIterator[list[SourcedEvent]]:
            index = 0
            async with connection.cursor(name="replay") as cursor:
                await cursor.execute(load("replay"), {"tenant": tenant})
                while rows := await cursor.fetchmany(batch_events):
                    yield [_event(tenant, index + i, row) for i, row in enumerate(rows)]
                    index += len(rows)

        positions = [Position(str(topic_id), p, offset) for topic_id, p, offset in watermarks]
        yield Replay(positions, counted[0], batches())


def _event(tenant: str, index: int, row: Sequence[Any]) -> SourcedEvent:
    event_id, customer, offer, creative, channel, outcome, occurred_at, recorded_at = row
    event = Event(
        event_id=event_id.bytes,
        tenant=tenant,
        customer=customer,
        offer=offer,
        creative=creative,
        channel=channel,
        outcome=outcome,
        occurred_ms=(occurred_at - _EPOCH) // _MS,
        interaction_id=None,
        direction=None,
        campaign=None,
        recommendation=None,
        conversion_value=None,
        context=None,
    )
    return SourcedEvent(event, index, (recorded_at - _EPOCH) // _MS)
