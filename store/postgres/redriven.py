"""Which dead letters were redriven, and which of their events history has anyway."""

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

#: Where a letter came from: log (topic id), partition, offset.
Place = tuple[str, int, int]


class RedrivenDeadLetters:
    """Every method raises StoreUnavailable."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def marked(self, sources: Sequence[Place]) -> dict[int, datetime]:
        """Place in `sources` -> when it was redriven (UTC), of those that were."""
        async with transaction(self._pool, read_only=True) as connection:
            cursor = await connection.execute(_MARKED, _columns(sources))
            return {place - 1: at.astimezone(UTC) for place, at in await cursor.fetchall()}

    async def mark(self, sources: Sequence[Place]) -> None:
        """From now on these are redriven. The first time stays."""
        async with transaction(self._pool) as connection:
            await connection.execute(_MARK, _columns(sources))

    async def stored(self, events: Sequence[Event]) -> set[int]:
        """Places in `events` of those whose identity history has."""
        async with transaction(self._pool, read_only=True) as connection:
            cursor = await connection.execute(
                _KNOWN,
                {
                    "tenants": [event.tenant for event in events],
                    "event_ids": [UUID(bytes=event.event_id) for event in events],
                },
            )
            return {place - 1 for (place,) in await cursor.fetchall()}


def _columns(sources: Sequence[Place]) -> dict[str, Any]:
    return {
        "logs": [topic_id for topic_id, _, _ in sources],
        "partitions": [partition for _, partition, _ in sources],
        "offsets": [offset for _, _, offset in sources],
    }
