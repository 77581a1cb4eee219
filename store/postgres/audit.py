"""Reads of history for an audit: the groups there are, and their counts below given offsets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple
from uuid import UUID

from store.audit import HistoryRow, Watermarks
from store.counters import Source
from store.postgres.pool import Connection, Pool, transaction
from store.postgres.rows import GROUP_COLUMNS, instant
from store.postgres.sql import load
from store.records import Grouping
from store.shards import WHOLE, Shard, tenant_of
from store.windows import TILE_DAYS, Calendar

_GAPS: Final = load("gaps")
_GROUPS: Final = load("audit_groups")
_IDS: Final = load("audit_ids")
_OF_SHARD: Final = load("of_shard")
_SAMPLE: Final = load("audit_sample")
_SOURCES: Final = load("sources")
_TENANTS: Final = load("tenants")
_UNCOUNTED: Final = load("uncounted")
_WATERMARKS: Final = load("watermarks")

_BIGINT_MAX: Final = 2**63 - 1
_FETCH: Final = 5_000
#: Ids are listed in the statement up to this number; beyond, all groups in their range are read.
_LISTED_MAX: Final = 2_000
#: Longest time of one transaction: of a large tenant one pass over all rows takes long.
TIMEOUT_S: Final = 6 * 3600.0


class Scope(NamedTuple):
    """The groups and days of one read."""

    tenant: str
    grouping: Grouping
    ids: Sequence[str]
    """Sorted by code point, not empty."""
    today: int
    calendar: Calendar
    recent: bool
    """Only the tile days, which an index finds; without it, all days."""


class AuditedHistory:
    """Reads of an audit. Every method raises StoreUnavailable.

    `statement_timeout_ms` bounds each statement; 0 = not at all. With `shard`, only the rows of its
    customers are read; a tenant may then be given by the name of the shard.
    """

    def __init__(self, pool: Pool, *, statement_timeout_ms: int = 0, shard: Shard = WHOLE) -> None:
        self._pool = pool
        self._shard = shard
        self._statement_timeout_ms = statement_timeout_ms

    async def tenants(self) -> list[str]:
        """Return the tenants that have a history, sorted."""
        async with transaction(self._pool, read_only=True) as connection:
            return [tenant for (tenant,) in await (await connection.execute(_TENANTS)).fetchall()]

    async def positions(self) -> dict[Source, int]:
        """Return the next offset to store of every source."""
        async with transaction(self._pool, read_only=True) as connection:
            return await _positions(connection)

    async def ids(self, tenant: str, grouping: Grouping) -> AsyncIterator[str]:
        """Yield the ids of all groups."""
        condition, parameters = _of_shard(self._shard)
        statement = _IDS.format(column=GROUP_COLUMNS[grouping], shard=condition)
        async with self._snapshot() as connection, connection.cursor(name="ids") as cursor:
            await cursor.execute(statement, {"tenant": tenant_of(tenant), **parameters})
            while rows := await cursor.fetchmany(_FETCH):
                for (id_,) in rows:
                    yield id_

    async def sample(
        self, tenant: str, grouping: Grouping, instants_ms: Iterable[int]
    ) -> list[str]:
        """Return the groups of the first events at or after the instants."""
        condition, parameters = _of_shard(self._shard)
        statement = _SAMPLE.format(column=GROUP_COLUMNS[grouping], shard=condition)
        parameters |= {"tenant": tenant_of(tenant), "instants": [instant(t) for t in instants_ms]}
        async with self._snapshot() as connection:
            cursor = await connection.execute(statement, parameters)
            return [id_ for (id_,) in await cursor.fetchall()]

    @asynccontextmanager
    async def snapshot(self, tenant: str) -> AsyncIterator[HistorySnapshot]:
        """Yield history as of now."""
        tenant = tenant_of(tenant)
        async with self._snapshot() as connection:
            positions = await _positions(connection)
            found = await (await connection.execute(_SOURCES, {"tenant": tenant})).fetchall()
            sources = [(str(topic_id), partition) for topic_id, partition, _ in found]
            yield HistorySnapshot(connection, tenant, positions, sources, self._shard)

    def of_shard(self, shard: Shard) -> AuditedHistory:
        """Return a reader of the rows of one shard."""
        timeout_ms = self._statement_timeout_ms
        return AuditedHistory(self._pool, statement_timeout_ms=timeout_ms, shard=shard)

    @asynccontextmanager
    async def _snapshot(self) -> AsyncIterator[Connection]:
        async with transaction(
            self._pool, read_only=True, snapshot=True, timeout_s=TIMEOUT_S
        ) as connection:
            await connection.execute(
                "SELECT set_config('statement_timeout', %s, true)",
                (str(self._statement_timeout_ms),),
            )
            # Statistics lag behind the rows: see PostgresHistory.
            await connection.execute("SET LOCAL enable_nestloop = off")
            yield connection


class HistorySnapshot:
    """One state of a tenant's history."""

    def __init__(
        self,
        connection: Connection,
        tenant: str,
        positions: Watermarks,
        sources: Sequence[Source],
        shard: Shard = WHOLE,
    ) -> None:
        self._shard = shard
        self._connection = connection
        self._tenant = tenant
        self.positions = positions
        """Next offset to store of every source."""
        self.sources = sources
        """Sources of the tenant's rows."""

    async def is_beyond_position(self) -> bool:
        """Return whether there are rows at or after the position of their source.

        So it is after a truncation: the position was set back, and the rows stayed.
        """
        for topic_id, partition in self.sources:
            cursor = await self._connection.execute(
                _UNCOUNTED,
                {
                    "tenant": self._tenant,
                    "topic_id": UUID(topic_id),
                    "partition": partition,
                    "offset": self.positions.get((topic_id, partition), 0),
                },
            )
            if (await cursor.fetchone() or (False,))[0]:
                return True
        return False

    async def lacks(self, firsts: Watermarks, ends: Watermarks) -> bool:
        """Return whether history has a noted gap between the offsets of any source."""
        cursor = await self._connection.execute(_GAPS)
        for topic_id, partition, first, end in await cursor.fetchall():
            source = (str(topic_id), partition)
            if firsts.get(source, 0) < end and first < ends.get(source, 0):
                return True
        return False

    async def groups(
        self, scope: Scope, firsts: Watermarks, ends: Watermarks
    ) -> AsyncIterator[tuple[str, list[HistoryRow]]]:
        """Yield the groups of the scope that have rows, with their rows, in order of id.

        Of each source in `ends`, rows below `firsts` are summed, and rows from there up to the end
        are returned with their source and offset.
        """
        sources = list(ends)
        oldest = scope.today - TILE_DAYS + 1
        midnights = [scope.calendar.midnight_ms(day) for day in range(oldest, scope.today + 3)]
        listed = len(scope.ids) <= _LISTED_MAX
        column = GROUP_COLUMNS[scope.grouping]
        condition, of_shard = _of_shard(self._shard)
        ids = f"h.{column} = ANY(%(ids)s)" if listed else f"h.{column} BETWEEN %(low)s AND %(high)s"
        statement = _GROUPS.format(
            column=column,
            offer="h.offer_id" if scope.grouping == "customer" else "NULL::text",
            ids=ids,
            days="h.occurred_at >= %(start)s" if scope.recent else "true",
            shard=condition,
        )
        parameters = {
            **of_shard,
            "tenant": self._tenant,
            "midnights": [instant(ms) for ms in midnights],
            "start": instant(midnights[0]),
            "logs": [UUID(topic_id) for topic_id, _ in sources],
            "partitions": [partition for _, partition in sources],
            "firsts": [firsts.get(source, 0) for source in sources],
            "ends": [min(ends[source], _BIGINT_MAX) for source in sources],
            **({"ids": scope.ids} if listed else {"low": scope.ids[0], "high": scope.ids[-1]}),
        }
        current, rows = "", list[HistoryRow]()
        async with self._connection.cursor(name="groups") as cursor:
            await cursor.execute(statement, parameters)
            while fetched := await cursor.fetchmany(_FETCH):
                for id_, offer, bucket, outcome, ordinal, offset, n in fetched:
                    if id_ != current:
                        if rows:
                            yield current, rows
                        current, rows = id_, []
                    day = oldest + bucket - 1
                    source = None if ordinal is None else sources[ordinal - 1]
                    rows.append(HistoryRow(id_, offer, day, outcome, source, offset or 0, n))
        if rows:
            yield current, rows


def _of_shard(shard: Shard) -> tuple[str, dict[str, Any]]:
    """Return the condition on rows of a shard, and its parameters."""
    return (_OF_SHARD, shard._asdict()) if shard.shards > 1 else ("true", {})


async def _positions(connection: Connection) -> dict[Source, int]:
    cursor = await connection.execute(_WATERMARKS)
    return {(str(topic_id), p): offset for topic_id, p, offset in await cursor.fetchall()}
