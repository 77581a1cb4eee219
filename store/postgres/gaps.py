"""Gaps of history: offsets that retention deleted before they were stored.

A gap is noted in the transaction in which history's watermark passes it, so history is never past
offsets that it lacks without a note. The counters may be the only copy of these events.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final
from uuid import UUID

from store.offsets import Gap, outside
from store.postgres import pool as postgres
from store.postgres.pool import Connection, Pool, transaction
from store.postgres.sql import load

_NOTE_GAP: Final = load("note_gap")
_GAPS: Final = load("gaps")
_FORGET_GAP: Final = load("forget_gap")
_TENANTS_BETWEEN: Final = load("tenants_between")


async def note_gaps(connection: Connection, gaps: Sequence[Gap]) -> None:
    """Note `gaps` in the transaction of `connection`; a gap that is noted already is kept."""
    for gap in gaps:
        await connection.execute(_NOTE_GAP, {**gap._asdict(), "topic_id": UUID(gap.topic_id)})


class HistoryGaps:
    """Reader of the gaps of history. Every method raises StoreUnavailable."""

    def __init__(self, pool: Pool, *, timeout_s: float = postgres.TRANSACTION_TIMEOUT_S) -> None:
        self._pool = pool
        self._timeout_s = timeout_s

    async def gaps(self) -> list[Gap]:
        """Return the gaps of every topic id, sorted. Gaps may overlap: see `store.offsets`."""
        async with self._reading() as connection:
            cursor = await connection.execute(_GAPS)
            return [Gap(str(topic_id), *rest) for topic_id, *rest in await cursor.fetchall()]

    async def forget_filled(self, topic_id: str, filled: Mapping[int, range]) -> None:
        """Forget the gaps, or parts of them, that history has now: partition -> offsets."""
        async with transaction(self._pool, timeout_s=self._timeout_s) as connection:
            cursor = await connection.execute(_GAPS)
            for log, *rest in await cursor.fetchall():
                gap = Gap(str(log), *rest)
                if gap.topic_id != topic_id or gap.partition not in filled:
                    continue
                left = outside(gap, filled[gap.partition])
                if left != [gap]:
                    await connection.execute(
                        _FORGET_GAP, {**gap._asdict(), "topic_id": UUID(gap.topic_id)}
                    )
                    await note_gaps(connection, left)

    async def tenants_between(
        self, topic_id: str, partition: int, first_offsets: Mapping[str, int], end: int
    ) -> set[str]:
        """Return the tenants that have a row in their part of a range of offsets.

        `first_offsets` is tenant -> first offset of its part; every part ends before `end`.
        """
        tenants = list(first_offsets)
        async with self._reading() as connection:
            cursor = await connection.execute(
                _TENANTS_BETWEEN,
                {
                    "tenants": tenants,
                    "first_offsets": list(first_offsets.values()),
                    "topic_id": UUID(topic_id),
                    "partition": partition,
                    "end": end,
                },
            )
            return {tenants[ordinal - 1] for (ordinal,) in await cursor.fetchall()}

    def _reading(self) -> AbstractAsyncContextManager[Connection]:
        return transaction(self._pool, read_only=True, timeout_s=self._timeout_s)
