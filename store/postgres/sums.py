"""Sums over a tenant's history for a rebuild, all of one snapshot."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from store.identity_owners import entries_of, partition_owners
from store.postgres.pool import Connection, Pool, transaction
from store.postgres.rows import GROUP_COLUMNS, instant, ms_of
from store.postgres.sql import load
from store.records import Grouping
from store.shards import WHOLE, Shard
from store.windows import DAY_MS, TILE_DAYS, Calendar

_TIMEOUT_S: Final = 6 * 3_600.0  # all of a large tenant; each fetch is short
#: Rows of one fetch: a few milliseconds of work.
FETCH_ROWS: Final = 5_000
#: Days from the first one with a tile to the last bucket, which has all later days: events may be
#: minutes ahead of the clock, and a rebuild may run past midnight.
_BUCKETS: Final = TILE_DAYS + 2


class Below(NamedTuple):
    """Condition on the rows: those of one topic id only below an offset of each partition."""

    topic_id: str
    ends: Mapping[int, int]
    """Partition -> offset; all partitions from 0 on."""


class HistorySums:
    """One snapshot of a tenant's rows. Every method raises StoreUnavailable."""

    def __init__(
        self,
        connection: Connection,
        tenant: str,
        positions: Mapping[tuple[str, int], int],
        since_ms: int | None = None,
        shard: Shard = WHOLE,
    ) -> None:
        """`since_ms`: count only the events that occurred then or later; None = all."""
        self.positions = positions
        """(topic id, partition) -> next offset: history has all offsets below."""
        self._since = None if since_ms is None else instant(since_ms)
        self._connection = connection
        self._tenant = tenant
        self._shard = shard

    def of_shard(self, shard: Shard) -> HistorySums:
        """Return the same snapshot of the customers of one shard only."""
        found = copy.copy(self)
        found._shard = shard
        return found

    async def rows(self, below: Below | None) -> int:
        """Return the number of the tenant's rows that are counted."""
        statement, parameters = self._counted("count_rows", below)
        row = await (await self._connection.execute(statement, parameters)).fetchone()
        assert row is not None
        return int(row[0])

    def groups(
        self, grouping: Grouping, calendar: Calendar, day: int, below: Below | None
    ) -> AsyncIterator[list[tuple[Any, ...]]]:
        """Yield (id, bucket, outcome type, events) of all groups but customers, in order of the id.

        Bucket 1 is the first day that has a tile when the window day is `day`; bucket 0 has all
        days before.
        """
        statement, parameters = self._counted("sum_groups", below, column=GROUP_COLUMNS[grouping])
        return self._fetch(statement, {**parameters, "midnights": _midnights(calendar, day)})

    def customers(
        self, calendar: Calendar, day: int, below: Below | None
    ) -> AsyncIterator[list[tuple[Any, ...]]]:
        """Yield (id, offer, bucket, outcome type, events) of all customers, in order of the id."""
        statement, parameters = self._counted("sum_customers", below)
        return self._fetch(statement, {**parameters, "midnights": _midnights(calendar, day)})

    async def identities(
        self, oldest_slot: int, below: Below | None, also: Collection[int] = ()
    ) -> AsyncIterator[tuple[int, bytes]]:
        """Yield (slot, concatenated entries) of the rows that arrived in `oldest_slot` or later.

        An entry is an identity and its owner. `also`: older slots that are wanted, too. The parts
        of a slot follow each other.
        """
        statement, parameters = self._query("recent_identities", below)
        parameters |= {
            "since": instant(min([oldest_slot, *also]) * DAY_MS),
            "recent": instant(oldest_slot * DAY_MS),
            "slots": list(also),
        }
        async for rows in self._fetch(statement, parameters, rows_max=16):
            for slot, topic_id, partition, packed in rows:
                yield slot, entries_of(packed, partition_owners(str(topic_id), partition))

    async def last_before(self, before_ms: int) -> AsyncIterator[list[tuple[str, str, int]]]:
        """Yield (customer, offer, time of the last event in ms) of the events before a time."""
        parameters = {"tenant": self._tenant, "before": instant(before_ms)}
        async for rows in self._fetch(load("last_before"), parameters):
            yield [(customer, offer, ms_of(last)) for customer, offer, last in rows]

    def _counted(self, name: str, below: Below | None, **names: str) -> tuple[str, dict[str, Any]]:
        """Return a query of the rows that are counted."""
        days = load("occurred_since") if self._since else "true"
        statement, parameters = self._query(name, below, days=days, **names)
        return statement, parameters | ({"since": self._since} if self._since else {})

    def _query(self, name: str, below: Below | None, **names: str) -> tuple[str, dict[str, Any]]:
        parameters: dict[str, Any] = {"tenant": self._tenant}
        source = "true"
        if below is not None:
            source = load("source_below")
            parameters["topic_id"] = UUID(below.topic_id)
            parameters["ends"] = [below.ends[p] for p in sorted(below.ends)]
        if self._shard.shards > 1:
            source = f"{source} AND {load('of_shard')}"
            parameters |= self._shard._asdict()
        return load(name).format(source=source, **names), parameters

    async def _fetch(
        self, statement: str, parameters: Mapping[str, Any], rows_max: int = FETCH_ROWS
    ) -> AsyncIterator[list[tuple[Any, ...]]]:
        async with self._connection.cursor(name="sums", binary=True) as cursor:
            await cursor.execute(statement, parameters)
            while rows := await cursor.fetchmany(rows_max):
                yield rows


def first_tile_day(day: int) -> int:
    """Return the day of bucket 1 when the window day is `day`."""
    return day - TILE_DAYS + 1


def _midnights(calendar: Calendar, day: int) -> list[datetime]:
    first = first_tile_day(day)
    # Python's time zone rules decide what a day is, not those of the database.
    return [instant(calendar.midnight_ms(first + i)) for i in range(_BUCKETS)]


@asynccontextmanager
async def open_sums(
    pool: Pool, tenant: str, since_ms: int | None = None, shard: Shard = WHOLE
) -> AsyncIterator[HistorySums]:
    """Yield a snapshot of the tenant's rows, or of one shard's, as of now. Raises StoreUnavailable.

    Only events that occurred at `since_ms` or later are counted; None = all.
    """
    async with transaction(pool, read_only=True, snapshot=True, timeout_s=_TIMEOUT_S) as connection:
        # The sums sort and hash millions of rows; the default of 4 MB would write files.
        await connection.execute("SET LOCAL work_mem = '128MB'")
        # Parallel workers would take all processors from those who count and read meanwhile.
        await connection.execute("SET LOCAL max_parallel_workers_per_gather = 0")
        # Between two fetches Redis may be away, or the rate require a pause. No lock is held.
        await connection.execute("SET LOCAL idle_in_transaction_session_timeout = '15min'")
        cursor = await connection.execute(load("watermarks"))
        found: Sequence[tuple[Any, ...]] = await cursor.fetchall()
        positions = {(str(log), p): offset for log, p, offset in found}
        yield HistorySums(connection, tenant, positions, since_ms, shard)
