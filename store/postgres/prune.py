"""Sums up old rows of a tenant's history, in bounded transactions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from store.postgres.pool import Connection, Pool, transaction
from store.postgres.rows import instant, ms_of
from store.postgres.sql import load
from store.windows import Calendar

_PRUNABLE: Final = load("prunable").format(source=load("source_below"))
_TIME: Final = load("prunable_time").format(prunable=_PRUNABLE)
_ROWS: Final = load("prunable_rows").format(prunable=_PRUNABLE)
_PRUNE: Final = load("prune_rows").format(prunable=_PRUNABLE)
_NOTE: Final = load("note_pruned")
#: Rows of one transaction: a few seconds. Rows of one microsecond are not divided.
PRUNED_ROWS: Final = 100_000
#: Longest wait for one statement: the rows that are looked through may all be sums already.
_TIMEOUT_S: Final = 3_600.0


class TopicStart(NamedTuple):
    """What the topic still holds."""

    topic_id: str
    earliest: Mapping[int, int]
    """Partition -> earliest offset; all partitions from 0 on."""


class PrunedPart(NamedTuple):
    """Rows of one transaction."""

    events: int
    """Rows of single events that were deleted."""
    sums: int
    """Rows that were stored in their place."""


class HistoryPruner:
    """Sums up the rows of a tenant's old events by day, customer, offer and the other groups.

    Pruned are events that occurred and arrived before a time, unless the topic still holds them.
    Every method raises StoreUnavailable.
    """

    def __init__(
        self, pool: Pool, tenant: str, calendar: Calendar, *, before_ms: int, held: TopicStart
    ) -> None:
        """`before_ms`: a midnight of the calendar."""
        self._pool = pool
        self._calendar = calendar
        self._before_ms = before_ms
        self._parameters: dict[str, Any] = {
            "tenant": tenant,
            "before": instant(before_ms),
            "topic_id": UUID(held.topic_id),
            "ends": [held.earliest[p] for p in range(len(held.earliest))],
        }

    async def count(self) -> int:
        """Return the number of rows that would be summed up now."""
        async with transaction(self._pool, read_only=True, timeout_s=_TIMEOUT_S) as connection:
            row = await (await connection.execute(_ROWS, self._parameters)).fetchone()
        assert row is not None
        return int(row[0])

    async def prune(self, *, rows_max: int = PRUNED_ROWS) -> AsyncIterator[PrunedPart]:
        """Yield after each transaction, of some `rows_max` rows of one day. Safe to repeat."""
        from_ms = 0
        while (first_ms := await self._first(from_ms)) is not None:
            day = self._calendar.day_of(first_ms)
            end_ms = min(self._calendar.midnight_ms(day + 1), self._before_ms)
            start: datetime | None = instant(first_ms)
            while start is not None:
                part, start = await self._prune(start, instant(end_ms), rows_max)
                yield part
            from_ms = end_ms

    async def _first(self, from_ms: int) -> int | None:
        start = instant(from_ms)
        async with transaction(self._pool, read_only=True, timeout_s=_TIMEOUT_S) as connection:
            found = await self._time(connection, start, self._parameters["before"], 0)
        return None if found is None else ms_of(found)

    async def _prune(
        self, start: datetime, end: datetime, rows_max: int
    ) -> tuple[PrunedPart, datetime | None]:
        """Sum up a part of a day; return where the next part begins, None = there is none."""
        async with transaction(self._pool, timeout_s=_TIMEOUT_S) as connection:
            await connection.execute(_NOTE, self._parameters)
            up_to = await self._time(connection, start, end, rows_max - 1)
            row = await (
                await connection.execute(
                    _PRUNE, {**self._parameters, "start": start, "up_to": up_to, "end": end}
                )
            ).fetchone()
        assert row is not None
        return PrunedPart(*row), up_to

    async def _time(
        self, connection: Connection, start: datetime, end: datetime, rows: int
    ) -> datetime | None:
        parameters = {**self._parameters, "start": start, "end": end, "rows": rows}
        row = await (await connection.execute(_TIME, parameters)).fetchone()
        return None if row is None else row[0]
