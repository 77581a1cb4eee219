"""Raw history in PostgreSQL: the writer of the worker, and the reader of the API's fallback."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

import psycopg

from store import offsets
from store.offsets import Gap
from store.postgres import pool as postgres
from store.postgres.arrays import Texts, Uuids
from store.postgres.copyrows import COLUMNS, encode
from store.postgres.gaps import HistoryGaps, note_gaps
from store.postgres.group_history import GroupHistory
from store.postgres.migrate import make_room
from store.postgres.pool import Connection, Pool, transaction
from store.postgres.quarantine import QuarantinedRecord, quarantine
from store.postgres.removal import removed_through
from store.postgres.rows import GROUP_COLUMNS, instant
from store.postgres.sql import load
from store.records import GroupCounts, Page, Question, SourcedEvent
from store.windows import Calendar

_POSITIONS: Final = load("positions")
_FENCE_FIRST: Final = load("fence_first")
_FENCE_NEXT: Final = load("fence_next")
_FENCE_TRUTH: Final = load("fence_truth")
_WATERMARKS: Final = load("watermarks")
_TAKE_IDENTITIES: Final = load("take_identities")
_SOURCES: Final = load("sources")
_TENANTS: Final = load("tenants")
_COUNT_ROWS: Final = load("count_rows")
_UNCOUNTED: Final = load("uncounted")
_HISTORY_BYTES: Final = load("history_bytes")
_READ_GROUPS: Final = load("read_groups")
_READ_CUSTOMERS: Final = load("read_customers")
_COPY: Final = f"COPY interaction_history ({', '.join(COLUMNS)}) FROM STDIN (FORMAT BINARY)"

_BIGINT_MAX: Final = 2**63 - 1
#: Days up to which all rows of the window are joined with a page of customers. For longer windows
#: the index by customer finds the rows of the page. Processor time at 10 million rows over 90 days,
#: joined and by index: one day 60 and 237 ms, 7 days 707 and 843 ms, 31 days 3.4 and 2.7 s.
_JOINED_DAYS_MAX: Final = 7
_JOINED: Final = "customer_id IN (SELECT id FROM page)"
_BY_INDEX: Final = "customer_id = ANY(ARRAY(SELECT id FROM page))"
#: Longest wait for the number of a tenant's rows: ten million take a second or two.
_COUNT_TIMEOUT_S: Final = 120.0
#: Longest wait for the size of history; `status` asks for it.
_SIZE_TIMEOUT_S: Final = 5.0


class HistoryRefused(NamedTuple):
    """Nothing changed: the stored watermark differs from the writer's and is returned here."""

    watermark: int | None
    """The stored next offset of the partition; None = none is stored."""


class HistoryWriter(HistoryGaps):
    """Writer of the events of partitions; each identity is stored once, without a time limit.

    Every method raises StoreUnavailable if Postgres does not answer. It is then unknown whether a
    write was committed; the compare-and-set of the next write finds out.
    """

    async def positions(self, topic_id: str) -> dict[int, int]:
        """Return partition -> next offset to store, of every stored partition of the topic."""
        async with self._reading() as connection:
            cursor = await connection.execute(_POSITIONS, {"topic_id": UUID(topic_id)})
            return dict(await cursor.fetchall())

    async def all_positions(self) -> dict[tuple[str, int], int]:
        """Return (topic id, partition) -> next offset to store, of every topic ever stored."""
        async with self._reading() as connection:
            return await _stored(connection)

    async def write(
        self,
        *,
        topic: str,
        topic_id: str,
        partition: int,
        expected_offset: int | None,
        next_offset: int,
        events: Sequence[SourcedEvent],
        gaps: Sequence[Gap] = (),
        quarantined: Sequence[QuarantinedRecord] = (),
    ) -> int | HistoryRefused:
        """Store `events` and move the partition's watermark to `next_offset`, both or neither.

        `expected_offset` is the watermark that the writer expects (None = none is stored). If the
        stored one differs, nothing changes and HistoryRefused has the stored one. Otherwise return
        the number of new events; of one identity, the event with the lowest offset is kept.
        Without events only the watermark moves. `gaps` are offsets that retention deleted; what
        history has not passed of them is noted in the same transaction. So are the `quarantined`
        records, which history cannot store.

        Raises ValueError for offsets outside `expected_offset..next_offset-1`.
        """
        step = _Step(
            topic=topic,
            topic_id=UUID(topic_id),
            partition=partition,
            expected_offset=expected_offset,
            next_offset=next_offset,
        )
        start = expected_offset or 0
        distinct = distinct_events(events)
        if expected_offset is not None and next_offset < expected_offset:
            raise ValueError(
                f"the watermark cannot move back from {expected_offset} to {next_offset}"
            )
        if distinct and not start <= distinct[0].offset <= distinct[-1].offset < next_offset:
            raise ValueError(f"events outside offsets {start}..{next_offset - 1}")
        gaps = offsets.after(gaps, start)
        try:
            return await self._store(step, distinct, gaps, quarantined)
        except psycopg.errors.CheckViolation:
            # A month without a partition: no command has created partitions for months, or one was
            # dropped. Create them.
            latest_ms = max(sourced.event.occurred_ms for sourced in distinct)
            await make_room(self._pool, instant(latest_ms).date())
            return await self._store(step, distinct, gaps)

    async def reset(
        self, *, topic: str, topic_id: str, partition: int, expected_offset: int, next_offset: int
    ) -> HistoryRefused | None:
        """Move a watermark back after a truncation of the topic.

        Return HistoryRefused, as `write` does, or None if the watermark has moved.
        """
        step = _Step(
            topic=topic,
            topic_id=UUID(topic_id),
            partition=partition,
            expected_offset=expected_offset,
            next_offset=next_offset,
        )
        answer = await self._store(step, [])
        return answer if isinstance(answer, HistoryRefused) else None

    async def _store(
        self,
        step: _Step,
        events: Sequence[SourcedEvent],
        gaps: Sequence[Gap] = (),
        quarantined: Sequence[QuarantinedRecord] = (),
    ) -> int | HistoryRefused:
        async with transaction(self._pool, timeout_s=self._timeout_s) as connection:
            # 1. Compare and set the watermark first: a refused writer has changed nothing and
            # holds no lock.
            if (refused := await _move_watermark(connection, step)) is not None:
                return refused
            await note_gaps(connection, gaps)
            await quarantine(connection, quarantined)
            # 2. Register the identities, to learn which are new.
            fresh = await take_identities(connection, events) if events else []
            # 3. Copy the rows of the new ones.
            if fresh:
                await copy_rows(
                    connection,
                    # By tenant, as the indexes are: neighbours go to the same page.
                    sorted(fresh, key=lambda sourced: sourced.event.tenant),
                    topic=step.topic,
                    topic_id=step.topic_id,
                    partition=step.partition,
                )
        return len(fresh)

    async def covers(self, tenant: str, topic_id: str, starts: Mapping[int, int]) -> bool:
        """Return whether reading the topic from `starts` meets every row of the tenant.

        `starts` is partition -> offset. Every row must come from this topic id, from a partition
        in `starts`, at or after its start.
        """
        async with self._reading() as connection:
            cursor = await connection.execute(_SOURCES, {"tenant": tenant})
            sources = await cursor.fetchall()
        wanted = UUID(topic_id)
        return all(
            source == wanted and partition in starts and lowest >= starts[partition]
            for source, partition, lowest in sources
        )

    async def rows(self, tenant: str) -> int:
        """Return the number of the tenant's rows. Reads all of them, from an index."""
        statement = _COUNT_ROWS.format(source="true", days="true")
        async with transaction(
            self._pool, read_only=True, timeout_s=_COUNT_TIMEOUT_S
        ) as connection:
            # Parallel workers would take all processors from counting.
            await connection.execute("SET LOCAL max_parallel_workers_per_gather = 0")
            row = await (await connection.execute(statement, {"tenant": tenant})).fetchone()
        assert row is not None
        return int(row[0])

    async def removed_through(self, tenant: str, topic_id: str) -> dict[int, int]:
        """Return partition -> offset below which the tenant's events were removed with it."""
        async with self._reading() as connection:
            return await removed_through(connection, tenant, topic_id)

    async def tenants(self) -> list[str]:
        """Return the tenants that have a history, sorted."""
        async with self._reading() as connection:
            cursor = await connection.execute(_TENANTS)
            return [tenant for (tenant,) in await cursor.fetchall()]

    async def matches_counters(self, tenant: str, counted: Mapping[tuple[str, int], int]) -> bool:
        """Return whether history and counters hold the same events of the tenant.

        `counted` is (topic id, partition) -> next offset to count. False if the counters are ahead
        of history in a partition, or history has a row that the counters have yet to reach.
        """
        async with self._reading() as connection:
            stored = await _stored(connection)
            if any(offset > stored.get(source, 0) for source, offset in counted.items()):
                return False
            return not await _has_uncounted(connection, tenant, counted, stored)

    async def has_uncounted(self, tenant: str, counted: Mapping[tuple[str, int], int]) -> bool:
        """Return whether history has a row of the tenant that the counters have yet to reach."""
        async with self._reading() as connection:
            return await _has_uncounted(connection, tenant, counted, await _stored(connection))

    async def ping(self) -> None:
        """Return when Postgres answers."""
        await postgres.ping(self._pool)


async def _stored(connection: Connection) -> dict[tuple[str, int], int]:
    """Return (topic id, partition) -> next offset to store."""
    cursor = await connection.execute(_WATERMARKS)
    return {(str(topic_id), p): offset for topic_id, p, offset in await cursor.fetchall()}


async def _has_uncounted(
    connection: Connection,
    tenant: str,
    counted: Mapping[tuple[str, int], int],
    stored: Mapping[tuple[str, int], int],
) -> bool:
    for topic_id, partition in stored:
        found = await connection.execute(
            _UNCOUNTED,
            {
                "tenant": tenant,
                "topic_id": UUID(topic_id),
                "partition": partition,
                "offset": counted.get((topic_id, partition), 0),
            },
        )
        if (await found.fetchone() or (False,))[0]:
            return True
    return False


class _Step(NamedTuple):
    """Move of one watermark."""

    topic: str
    topic_id: UUID
    partition: int
    expected_offset: int | None
    next_offset: int


def distinct_events(events: Sequence[SourcedEvent]) -> list[SourcedEvent]:
    """Return the event with the lowest offset of each identity, in the order of offsets."""
    kept: dict[tuple[str, bytes], SourcedEvent] = {}
    for sourced in sorted(events, key=lambda s: s.offset):
        kept.setdefault((sourced.event.tenant, sourced.event.event_id), sourced)
    return list(kept.values())


async def _move_watermark(connection: Connection, step: _Step) -> HistoryRefused | None:
    """Compare and set the watermark; return the refusal if the stored one differs."""
    statement = _FENCE_FIRST if step.expected_offset is None else _FENCE_NEXT
    if (await connection.execute(statement, step._asdict())).rowcount == 1:
        return None
    cursor = await connection.execute(_FENCE_TRUTH, step._asdict())
    stored = await cursor.fetchone()
    return HistoryRefused(stored[0] if stored else None)


async def take_identities(
    connection: Connection, events: Sequence[SourcedEvent]
) -> Sequence[SourcedEvent]:
    """Register the identities of `events` (distinct); return the events whose identity is new."""
    cursor = await connection.execute(
        _TAKE_IDENTITIES,
        {
            "tenants": Texts.of(sourced.event.tenant for sourced in events),
            "event_ids": Uuids.of(sourced.event.event_id for sourced in events),
        },
    )
    known = {ordinal - 1 for (ordinal,) in await cursor.fetchall()}
    if not known:
        return events
    return [sourced for index, sourced in enumerate(events) if index not in known]


async def copy_rows(
    connection: Connection,
    events: Sequence[SourcedEvent],
    *,
    topic: str,
    topic_id: UUID,
    partition: int,
) -> None:
    """Add the rows of `events`, whose identities are registered and have no row yet."""
    rows = encode(events, topic=topic, topic_id=topic_id, partition=partition)
    async with connection.cursor().copy(_COPY) as copy:
        await copy.write(rows)


class PostgresHistory(GroupHistory):
    """The `HistoryReader` over the raw rows."""

    async def read(self, question: Question) -> Page:
        """Return one page by one statement, so from one snapshot. Raises StoreUnavailable."""
        rows = await self._rows(question)
        groups = [
            GroupCounts(id_, dict(zip(outcomes, counts, strict=True)), unique_actions)
            for _, id_, outcomes, counts, unique_actions in rows
            if id_ is not None
        ]
        return Page(groups, rows[0][0])

    async def _rows(self, question: Question) -> list[tuple[Any, ...]]:
        statement = _READ_CUSTOMERS if question.group_by == "customer" else _READ_GROUPS
        column = GROUP_COLUMNS[question.group_by]
        days, bounds = _bounds(question)
        parameters = {
            "tenant": question.tenant,
            "limit": question.limit,
            "offset": min(question.offset, _BIGINT_MAX),
            **bounds,
        }
        query = statement.format(column=column, days=days, of_page=_of_page(question))
        return await self._fetch(query, parameters)

    async def ping(self) -> None:
        """Return when Postgres answers. Raises StoreUnavailable."""
        await postgres.ping(self._pool)


def _of_page(question: Question) -> str:
    """Return the condition on the rows of a page of customers."""
    start_day = question.window.start_day
    if start_day is None or question.today - start_day >= _JOINED_DAYS_MAX:
        return _BY_INDEX
    return _JOINED


def _bounds(question: Question) -> tuple[str, dict[str, datetime]]:
    """Return the condition on the question's days, and its parameters."""
    conditions: list[str] = []
    parameters = {}
    calendar = Calendar(question.timezone)
    if question.window.start_day is not None:
        conditions.append("occurred_at >= %(start)s")
        parameters["start"] = instant(calendar.midnight_ms(question.window.start_day))
    if question.window.end_day is not None:
        conditions.append("occurred_at < %(end)s")
        parameters["end"] = instant(calendar.midnight_ms(question.window.end_day + 1))
    return " AND ".join(conditions) or "true", parameters


async def history_bytes(pool: Pool, *, timeout_s: float = _SIZE_TIMEOUT_S) -> int:
    """Return the bytes on disk of history and its identities. Raises StoreUnavailable."""
    async with transaction(pool, read_only=True, timeout_s=timeout_s) as connection:
        row = await (await connection.execute(_HISTORY_BYTES)).fetchone()
    assert row is not None
    return int(row[0])
