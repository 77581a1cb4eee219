"""Dead letters that were redriven, and events of dead letters that history already has."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from store.postgres.pool import Pool, transaction
from store.postgres.sql import load
from store.records import Event

_MARKED: Final = load("redriven_marked")
_MARK: Final = load("redriven_mark")
_KNOWN: Final = load("known_identities")

#: Position of the record that a dead letter was made of: topic id, partition, offset.
Source = tuple[str, int, int]


class RedrivenDeadLetters:
    """Record of the redriven dead letters. Every method raises StoreUnavailable."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def marked(self, sources: Sequence[Source]) -> dict[int, datetime]:
        """Return index in `sources` -> time of its redrive (UTC), of the redriven ones."""
        async with transaction(self._pool, read_only=True) as connection:
            cursor = await connection.execute(_MARKED, _columns(sources))
            return {ordinal - 1: at.astimezone(UTC) for ordinal, at in await cursor.fetchall()}

    async def mark(self, sources: Sequence[Source]) -> None:
        """Record these as redriven now; an earlier time of redrive is kept."""
        async with transaction(self._pool) as connection:
            await connection.execute(_MARK, _columns(sources))

    async def stored(self, events: Sequence[Event]) -> set[int]:
        """Return the indexes in `events` of the events whose identity is in history."""
        async with transaction(self._pool, read_only=True) as connection:
            cursor = await connection.execute(
                _KNOWN,
                {
                    "tenants": [event.tenant for event in events],
                    "event_ids": [UUID(bytes=event.event_id) for event in events],
                },
            )
            return {ordinal - 1 for (ordinal,) in await cursor.fetchall()}


def _columns(sources: Sequence[Source]) -> dict[str, Any]:
    return {
        "logs": [topic_id for topic_id, _, _ in sources],
        "partitions": [partition for _, partition, _ in sources],
        "offsets": [offset for _, _, offset in sources],
    }
