"""Fills history that was lost, from events that were read again, without moving a watermark.

Two tables tell what history has: `interaction_identities` which identities, `interaction_history`
the row of each. A part of either may be lost. An identity never gets a second row, whatever is lost
and whoever writes at the same time:

1. `restore_identities` registers the identities of rows that have none.
2. `fill` registers the identities that history lacks and adds their rows, as a worker does.
3. An identity without a row is told from a copy of an event by reading all rows, so `restore_rows`
   does that for many events at once. `missing_rows` tells whether there are any.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar
from uuid import UUID

import psycopg

from store.postgres.arrays import Texts, Uuids
from store.postgres.history import copy_rows, distinct_events, take_identities
from store.postgres.migrate import make_room
from store.postgres.pool import Connection, Pool, transaction
from store.postgres.rows import instant
from store.postgres.sql import load
from store.records import SourcedEvent

_IDENTITIES_OF_ROWS: Final = load("identities_of_rows")
_MISSING_ROWS: Final = load("missing_rows")
_ROWS_AT_SOURCE: Final = load("rows_at_source")
_LOCK_IDENTITIES: Final = load("lock_identities")
_ROWS_OF_IDENTITIES: Final = load("rows_of_identities")
#: For statements that read all of history.
_TIMEOUT_S: Final = 6 * 3600.0

T = TypeVar("T")


class Filled(NamedTuple):
    """Result of one batch."""

    stored: int
    known: Sequence[SourcedEvent]
    """The events whose identity was registered before; one per identity."""


class HistoryFiller:
    """Adds rows that history lacks, of one topic id.

    Every method is one transaction, and raises StoreUnavailable. Each may be repeated, and several
    fillers and workers may write at once.
    """

    def __init__(self, pool: Pool, *, topic: str, topic_id: str) -> None:
        self._pool = pool
        self._topic = topic
        self._topic_id = UUID(topic_id)

    async def restore_identities(self, tenant: str | None) -> int:
        """Register the identities of rows that have none; return how many there were.

        `tenant`: of this tenant only; None = of all.
        """
        async with transaction(self._pool, timeout_s=_TIMEOUT_S) as connection:
            return (await connection.execute(_IDENTITIES_OF_ROWS, {"tenant": tenant})).rowcount

    async def missing_rows(self, tenant: str | None) -> dict[str, int]:
        """Return tenant -> number of identities without a row, where there are any."""
        async with transaction(self._pool, read_only=True, timeout_s=_TIMEOUT_S) as connection:
            cursor = await connection.execute(_MISSING_ROWS, {"tenant": tenant})
            return dict(await cursor.fetchall())

    async def fill(self, partition: int, events: Sequence[SourcedEvent]) -> Filled:
        """Store the events of the partition whose identity is new.

        Of one identity, the event with the lowest offset is kept.
        """
        distinct = distinct_events(events)
        if not distinct:
            return Filled(0, [])

        async def store() -> Filled:
            async with transaction(self._pool) as connection:
                fresh = await take_identities(connection, distinct)
                await self._copy(connection, partition, fresh)
            new = {each.offset for each in fresh}
            return Filled(len(fresh), [each for each in distinct if each.offset not in new])

        return await self._with_partitions(distinct, store)

    async def without_row_at_source(
        self, partition: int, events: Sequence[SourcedEvent]
    ) -> list[SourcedEvent]:
        """Return the events (distinct) without a row among those of the same offsets.

        They have no row at all, or are copies of an event with another offset. Reads an index.
        """
        if not events:
            return []
        offsets = [event.offset for event in events]
        async with transaction(self._pool, read_only=True) as connection:
            cursor = await connection.execute(
                _ROWS_AT_SOURCE,
                {
                    **_arrays(events),
                    "topic_id": self._topic_id,
                    "partition": partition,
                    "first": min(offsets),
                    "last": max(offsets),
                },
            )
            found = {ordinal - 1 for (ordinal,) in await cursor.fetchall()}
        return [event for index, event in enumerate(events) if index not in found]

    async def restore_rows(self, events: Mapping[int, Sequence[SourcedEvent]]) -> int:
        """Store the events that have no row, though their identity is registered; count them.

        `events` is by partition. Reads all rows of their tenants, so call it with many events.
        """
        distinct: dict[tuple[str, bytes], tuple[int, SourcedEvent]] = {}
        for p, all_of_partition in events.items():
            for each in all_of_partition:
                distinct.setdefault((each.event.tenant, each.event.event_id), (p, each))
        given = list(distinct.values())
        if not given:
            return 0

        async def store() -> int:
            async with transaction(self._pool, timeout_s=_TIMEOUT_S) as connection:
                missing = await self._lock_without_row(connection, given)
                for partition in sorted(events):
                    of_partition = [each for p, each in missing if p == partition]
                    await self._copy(connection, partition, of_partition)
            return len(missing)

        return await self._with_partitions([each for _, each in given], store)

    async def _lock_without_row(
        self, connection: Connection, given: Sequence[tuple[int, SourcedEvent]]
    ) -> list[tuple[int, SourcedEvent]]:
        """Return the given events without a row; another filler waits until the transaction ends.

        The rows are read by a later statement than the locks, so with what the filler before has
        committed. Workers add no row to a registered identity.
        """
        arrays = _arrays([each for _, each in given])
        await connection.execute(_LOCK_IDENTITIES, arrays)
        # The planner may expect few rows and read them once for every given identity.
        await connection.execute("SET LOCAL enable_nestloop = off")
        cursor = await connection.execute(_ROWS_OF_IDENTITIES, arrays)
        found = {ordinal - 1 for (ordinal,) in await cursor.fetchall()}
        return [each for index, each in enumerate(given) if index not in found]

    async def _copy(
        self, connection: Connection, partition: int, events: Sequence[SourcedEvent]
    ) -> None:
        if events:
            await copy_rows(
                connection,
                events,
                topic=self._topic,
                topic_id=self._topic_id,
                partition=partition,
            )

    async def _with_partitions(
        self, events: Sequence[SourcedEvent], store: Callable[[], Awaitable[T]]
    ) -> T:
        """Return what `store` returns; if a month has no partition, create it and try again."""
        try:
            return await store()
        except psycopg.errors.CheckViolation:
            latest_ms = max(each.event.occurred_ms for each in events)
            await make_room(self._pool, instant(latest_ms).date())
            return await store()


def _arrays(events: Sequence[SourcedEvent]) -> dict[str, Any]:
    """Return the parameters of a statement about identities."""
    return {
        "tenants": Texts.of(each.event.tenant for each in events),
        "event_ids": Uuids.of(each.event.event_id for each in events),
        "occurred": [instant(each.event.occurred_ms) for each in events],
        "distinct_tenants": Texts.of(sorted({each.event.tenant for each in events})),
    }
