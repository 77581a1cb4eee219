"""Raw history in PostgreSQL: the writer of the stream, and the reader that answers from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple
from uuid import UUID

import psycopg

from store.postgres import pool as postgres
from store.postgres.arrays import Texts, Uuids
from store.postgres.copyrows import COLUMNS, encode
from store.postgres.migrate import ensure_partitions
from store.postgres.pool import Connection, Pool, transaction
from store.postgres.sql import load
from store.records import Fenced, GroupCounts, Grouping, Page, Question, SourcedEvent
from store.windows import Calendar

_POSITIONS: Final = load("positions")
_FENCE_FIRST: Final = load("fence_first")
_FENCE_NEXT: Final = load("fence_next")
_FENCE_TRUTH: Final = load("fence_truth")
_TAKE_IDENTITIES: Final = load("take_identities")
_SOURCES: Final = load("sources")
_TENANTS: Final = load("tenants")
_UNCOUNTED: Final = load("uncounted")
_HISTORY_BYTES: Final = load("history_bytes")
_COPY: Final = f"COPY interaction_history ({', '.join(COLUMNS)}) FROM STDIN (FORMAT BINARY)"

#: Grouping -> statement and column: the only columns that a reader's question can reach.
_READS: Final[Mapping[Grouping, tuple[str, str]]] = {
    "action": (load("read_groups"), "offer_id"),
    "treatment": (load("read_groups"), "creative_id"),
    "channel": (load("read_groups"), "channel_id"),
    "customer": (load("read_customers"), "customer_id"),
}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_BIGINT_MAX: Final = 2**63 - 1
#: Longest wait for the size of history; `status` asks for it.
_SIZE_TIMEOUT_S: Final = 5.0


def _instant(ms: int) -> datetime:
    """Exact: by integers, where `fromtimestamp` would go through a float."""
    return _EPOCH + timedelta(milliseconds=ms)


class HistoryWriter:
    """Stores the events of partitions, each event once for all time.

    Every method raises StoreUnavailable when Postgres does not answer. After that it is unknown
    whether a write was committed; the fence of the next one tells."""

    def __init__(self, pool: Pool, *, timeout_s: float = postgres.TRANSACTION_TIMEOUT_S) -> None:
        self._pool = pool
        self._timeout_s = timeout_s

    async def positions(self, topic_id: str) -> dict[int, int]:
        """Partition -> the next offset to store, of every partition of `log` stored so far."""
        async with self._reading() as connection:
            cursor = await connection.execute(_POSITIONS, {"log": UUID(topic_id)})
            return dict(await cursor.fetchall())

    async def write(
        self,
        *,
        topic: str,
        topic_id: str,
        partition: int,
        first: int | None,
        next_offset: int,
        events: Sequence[SourcedEvent],
    ) -> int:
        """Stores `events` and moves the partition's watermark to `next_offset`, both or neither.

        `first`: the watermark that the writer believes is stored; None = none is. Where that is
        wrong nothing changes, and Fenced tells the true `next_offset` (None = none is stored).
        Returns how many events are new; of one identity the lowest offset is kept. No events:
        only the watermark moves. Raises ValueError for offsets outside `first..next_offset-1`."""
        step = _Step(topic, UUID(topic_id), partition, first, next_offset)
        distinct = _distinct(events)
        if first is not None and next_offset < first:
            raise ValueError(f"the watermark cannot go back from {first} to {next_offset}")
        if distinct and not (first or 0) <= distinct[0].offset <= distinct[-1].offset < next_offset:
            raise ValueError(f"events outside offsets {first or 0}..{next_offset - 1}")
        try:
            return await self._store(step, distinct)
        except psycopg.errors.CheckViolation:
            # A month without a partition: nobody has made partitions for months. Make them.
            latest_ms = max(sourced.event.occurred_ms for sourced in distinct)
            await ensure_partitions(self._pool, _instant(latest_ms).date())
            return await self._store(step, distinct)

    async def reset(
        self, *, topic: str, topic_id: str, partition: int, first: int, next_offset: int
    ) -> None:
        """Moves a watermark back, where the log itself was cut. Raises Fenced, as `write` does."""
        await self._store(_Step(topic, UUID(topic_id), partition, first, next_offset), [])

    async def _store(self, step: _Step, events: Sequence[SourcedEvent]) -> int:
        async with transaction(self._pool, timeout_s=self._timeout_s) as connection:
            # 1. The fence, first: a writer that lost has done nothing and holds nothing.
            await _pass_fence(connection, step)
            # 2. Who is new. 3. The rows of the new.
            fresh = await _take_identities(connection, events) if events else []
            if fresh:
                rows = encode(
                    fresh, topic=step.topic, topic_id=step.topic_id, partition=step.partition
                )
                async with connection.cursor().copy(_COPY) as copy:
                    await copy.write(rows)
        return len(fresh)

    async def covers(self, tenant: str, topic_id: str, starts: Mapping[int, int]) -> bool:
        """Whether a replay of `log` from `starts` (partition -> offset) meets every row of the
        tenant: all were read from `log`, in a partition of `starts`, at or after its start."""
        async with self._reading() as connection:
            cursor = await connection.execute(_SOURCES, {"tenant": tenant})
            sources = await cursor.fetchall()
        wanted = UUID(topic_id)
        return all(
            source == wanted and partition in starts and lowest >= starts[partition]
            for source, partition, lowest in sources
        )

    async def tenants(self) -> list[str]:
        """The tenants that have a history, in order."""
        async with self._reading() as connection:
            cursor = await connection.execute(_TENANTS)
            return [tenant for (tenant,) in await cursor.fetchall()]

    async def matches_counters(self, tenant: str, counted: Mapping[tuple[str, int], int]) -> bool:
        """Whether counters with these watermarks, (log, partition) -> next offset, and history
        hold the same of the tenant: neither has read on where the other has rows to come."""
        async with self._reading() as connection:
            cursor = await connection.execute(
                "SELECT log, partition, next_offset FROM history_watermarks"
            )
            stored = {(str(topic_id), p): offset for topic_id, p, offset in await cursor.fetchall()}
            if any(offset > stored.get(mark, 0) for mark, offset in counted.items()):
                return False
            for topic_id, partition in stored:
                found = await connection.execute(
                    _UNCOUNTED,
                    {
                        "tenant": tenant,
                        "log": UUID(topic_id),
                        "partition": partition,
                        "offset": counted.get((topic_id, partition), 0),
                    },
                )
                if (await found.fetchone() or (False,))[0]:
                    return False
        return True

    async def ping(self) -> None:
        """Returns when Postgres answers."""
        await postgres.ping(self._pool)

    def _reading(self) -> AbstractAsyncContextManager[Connection]:
        return transaction(self._pool, read_only=True, timeout_s=self._timeout_s)


class _Step(NamedTuple):
    """What one write does to a watermark. The field names are the statements' parameters."""

    topic: str
    topic_id: UUID
    partition: int
    first: int | None
    next_offset: int


def _distinct(events: Sequence[SourcedEvent]) -> list[SourcedEvent]:
    """One event per identity, the one of the lowest offset; in the order of offsets."""
    kept: dict[tuple[str, bytes], SourcedEvent] = {}
    for sourced in sorted(events, key=lambda s: s.offset):
        kept.setdefault((sourced.event.tenant, sourced.event.event_id), sourced)
    return list(kept.values())


async def _pass_fence(connection: Connection, step: _Step) -> None:
    statement = _FENCE_FIRST if step.first is None else _FENCE_NEXT
    if (await connection.execute(statement, step._asdict())).rowcount != 1:
        cursor = await connection.execute(_FENCE_TRUTH, step._asdict())
        stored = await cursor.fetchone()
        raise Fenced({"next_offset": stored[0] if stored else None})


async def _take_identities(
    connection: Connection, events: Sequence[SourcedEvent]
) -> Sequence[SourcedEvent]:
    """Those of `events` (distinct) whose identity nobody had; from now on it is taken."""
    cursor = await connection.execute(
        _TAKE_IDENTITIES,
        {
            "tenants": Texts.of(sourced.event.tenant for sourced in events),
            "event_ids": Uuids.of(sourced.event.event_id for sourced in events),
        },
    )
    known = {place - 1 for (place,) in await cursor.fetchall()}
    if not known:
        return events
    return [sourced for place, sourced in enumerate(events) if place not in known]


class PostgresHistory:
    """A `HistoryReader` over the raw rows. How long a statement may take is the pool's setting;
    `timeout_s` bounds the whole, for a server that holds the line but says nothing."""

    def __init__(self, pool: Pool, *, timeout_s: float = postgres.TRANSACTION_TIMEOUT_S) -> None:
        self._pool = pool
        self._timeout_s = timeout_s

    async def read(self, question: Question) -> Page:
        """One page of groups, by one statement, so of one snapshot. Raises StoreUnavailable."""
        rows = await postgres.bounded(self._rows(question), self._timeout_s)
        groups = [
            GroupCounts(id_, dict(zip(outcomes, counts, strict=True)), unique_actions)
            for _, id_, outcomes, counts, unique_actions in rows
            if id_ is not None
        ]
        return Page(groups, rows[0][0])

    async def _rows(self, question: Question) -> list[tuple[Any, ...]]:
        statement, column = _READS[question.group_by]
        days, bounds = _bounds(question)
        parameters = {
            "tenant": question.tenant,
            "limit": question.limit,
            "offset": min(question.offset, _BIGINT_MAX),
            **bounds,
        }
        async with transaction(self._pool, read_only=True) as connection:
            # Statistics trail the rows: of today the planner often expects one row, and then joins
            # a page of customers to 160,000 rows by a nested loop: 13 s, where a hash takes 0.1 s.
            await connection.execute("SET LOCAL enable_nestloop = off")
            query = statement.format(column=column, days=days)
            return await (await connection.execute(query, parameters)).fetchall()

    async def ping(self) -> None:
        """Returns when Postgres answers."""
        await postgres.ping(self._pool)


def _bounds(question: Question) -> tuple[str, dict[str, datetime]]:
    """The question's days as a condition, and its parameters."""
    conditions: list[str] = []
    parameters = {}
    calendar = Calendar(question.timezone)
    if question.window.start_day is not None:
        conditions.append("occurred_at >= %(start)s")
        parameters["start"] = _instant(calendar.midnight_ms(question.window.start_day))
    if question.window.end_day is not None:
        conditions.append("occurred_at < %(end)s")
        parameters["end"] = _instant(calendar.midnight_ms(question.window.end_day + 1))
    return " AND ".join(conditions) or "true", parameters


async def history_bytes(pool: Pool, *, timeout_s: float = _SIZE_TIMEOUT_S) -> int:
    """Return the bytes on disk of history and its identities. Raises StoreUnavailable."""
    async with transaction(pool, read_only=True, timeout_s=timeout_s) as connection:
        row = await (await connection.execute(_HISTORY_BYTES)).fetchone()
    assert row is not None
    return int(row[0])
