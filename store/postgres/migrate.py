"""Schema migrations from numbered SQL files, and the month partitions of history."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime
from importlib.resources import files
from typing import Any, Final, NamedTuple

import psycopg
from psycopg import AsyncConnection, sql

from store.postgres.pool import Connection, Pool, connect_options, postgres_errors, transaction
from store.postgres.sql import load
from store.records import StoreUnavailable

#: Advisory locks ("isum" in ASCII, then a number): one migration and one creation of partitions
#: at a time.
_LOCK_SPACE: Final = 0x6973756D
_MIGRATION_LOCK: Final = 1
_PARTITION_LOCK: Final = 2
#: Maximum gap in months; a longer one means that the clock is wrong.
_MONTHS_MAX: Final = 240

_LAST_MONTH: Final = load("last_month")
_PARTITION_BOUNDS: Final = load("partition_bounds")


class Migration(NamedTuple):
    """One migration: `statements` is the text of its SQL file."""

    version: int
    name: str
    statements: str


def migrations() -> list[Migration]:
    """Return the migrations of this code in order, numbered from 1 without a gap."""
    found = []
    for file in files("store.postgres.migrations").iterdir():
        if file.name.endswith(".sql"):
            name = file.name.removesuffix(".sql")
            text = file.read_text(encoding="utf-8")
            found.append(Migration(int(name.split("_", 1)[0]), name, text))
    found.sort()
    if [m.version for m in found] != list(range(1, len(found) + 1)):
        raise RuntimeError(f"migrations are not numbered 1..n: {[m.name for m in found]}")
    return found


async def migrate(database_url: str, *, today: date | None = None) -> list[str]:
    """Apply the missing migrations, and create month partitions as of `today` (UTC).

    Return the names of the applied migrations. Safe to run concurrently.

    Raises RuntimeError for a database that is newer than this code or not in UTF-8, and
    StoreUnavailable if Postgres cannot be reached.
    """
    applied = []
    with postgres_errors():
        connection = await AsyncConnection.connect(
            database_url, autocommit=True, **connect_options(database_url)
        )
        async with connection, _migration_lock(connection):
            known = migrations()
            version = await _version(connection, known)
            for migration in known[version:]:
                async with connection.transaction():
                    await connection.execute(migration.statements)
                    await connection.execute(
                        "INSERT INTO schema_migrations (version, name) VALUES (%s, %s)",
                        (migration.version, migration.name),
                    )
                applied.append(migration.name)
            await ensure_partitions(connection, today or datetime.now(UTC).date())
    return applied


@asynccontextmanager
async def _migration_lock(connection: Connection) -> AsyncIterator[None]:
    """Hold the migration lock. It belongs to the session: a lost connection releases it."""
    await connection.execute("SELECT pg_advisory_lock(%s, %s)", (_LOCK_SPACE, _MIGRATION_LOCK))
    yield


async def _version(connection: Connection, known: list[Migration]) -> int:
    """Return the number of the `known` migrations that the database has."""
    (encoding,) = await _row(connection, "SHOW server_encoding")
    if encoding != "UTF8":
        raise RuntimeError(f"the database's encoding is {encoding}; it must be UTF8")
    await connection.execute(
        "CREATE TABLE IF NOT EXISTS schema_migrations (version integer PRIMARY KEY,"
        " name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
    )
    cursor = await connection.execute("SELECT version, name FROM schema_migrations ORDER BY 1")
    present = await cursor.fetchall()
    if present and present[-1][0] > len(known):
        raise RuntimeError(
            f"the database is newer than this program: it has migration {present[-1][1]}, this "
            f"program knows up to {known[-1].name}; run a newer version of the program"
        )
    names = [name for _, name in present]
    if names != [m.name for m in known[: len(names)]]:
        raise RuntimeError(f"the database has other migrations than this program: {names}")
    return len(names)


async def ensure_partitions(
    target: Pool | Connection, today: date, ahead_months: int = 3
) -> list[str]:
    """Create the month partitions of history up to `ahead_months` after the month of `today`.

    Return the names of the created ones. Safe to call at any time and concurrently; blocks neither
    readers nor writers. The first call also creates the partition of all earlier months. There is
    no gap between the months, whatever `today` is, so every valid row has a partition.

    With a pool it raises StoreUnavailable for every error of the database: a role that must not
    create tables, say, can write until the months that `migrate` made are over.
    """
    if not isinstance(target, AsyncConnection):
        try:
            with postgres_errors():
                async with target.connection() as connection:
                    return await ensure_partitions(connection, today, ahead_months)
        except psycopg.Error as error:
            message = " ".join(str(error).split())
            raise StoreUnavailable(f"Postgres: no month partitions created: {message}") from error
    made = []
    async with target.transaction():
        await target.execute("SELECT pg_advisory_xact_lock(%s, %s)", (_LOCK_SPACE, _PARTITION_LOCK))
        (last,) = await _row(target, _LAST_MONTH)
        wanted = _month(today) + ahead_months
        if last is None:
            first = _month(today)
            made.append(await _attach(target, _partition_name(None), None, first))
        else:
            first = _month(last) + 1
        if wanted - first > _MONTHS_MAX:
            raise RuntimeError(f"history ends in {last}: is today really {today}?")
        for month in range(first, wanted + 1):
            made.append(await _attach(target, _partition_name(month), month, month + 1))
    return made


async def make_room(pool: Pool, latest: date) -> None:
    """Create the partitions that are missing for rows up to the month of `latest`.

    Raises RuntimeError and StoreUnavailable as `restore_partitions` does.
    """
    await restore_partitions(pool)
    await ensure_partitions(pool, latest)


async def restore_partitions(pool: Pool) -> list[str]:
    """Create the partitions of history that were dropped, empty; return their names.

    Only those before the last one that exists: `ensure_partitions` creates later ones. Raises
    RuntimeError where the table of a partition still exists, and StoreUnavailable.
    """
    made = []
    async with transaction(pool) as connection:
        await connection.execute(
            "SELECT pg_advisory_xact_lock(%s, %s)", (_LOCK_SPACE, _PARTITION_LOCK)
        )
        await connection.execute("SET LOCAL TimeZone = 'UTC'")
        await connection.execute("SET LOCAL DateStyle = 'ISO'")
        bounds = await (await connection.execute(_PARTITION_BOUNDS)).fetchall()
        reached: int | None = None  # the month after the partitions so far
        for first_day, next_day in bounds:
            if first_day is not None:
                month = _month(first_day)
                if reached is None:
                    made.append(await _attach_again(connection, None, month))
                    reached = month
                for missing in range(reached, month):
                    made.append(await _attach_again(connection, missing, missing + 1))
            reached = _month(next_day)
    return made


async def _attach_again(connection: Connection, start: int | None, end: int) -> str:
    name = _partition_name(start)
    try:
        return await _attach(connection, name, start, end)
    except psycopg.errors.DuplicateTable:
        raise RuntimeError(
            f"{name} exists but is no partition of interaction_history: attach it again, or "
            "rename it"
        ) from None


def _partition_name(start: int | None) -> str:
    if start is None:
        return "interaction_history_older"
    return f"interaction_history_{_first_day(start):%Y_%m}"


async def _attach(connection: Connection, name: str, start: int | None, end: int) -> str:
    """Create `name` as the partition of the months `start..end-1` (None: all before `end`).

    The table is created first and then attached: `CREATE TABLE … PARTITION OF` would lock out
    readers. There is no default partition: every attach would have to lock it and scan it.
    """
    lower = sql.SQL("MINVALUE") if start is None else sql.Literal(_bound(start))
    table = sql.Identifier(name)
    await connection.execute(
        sql.SQL(
            "CREATE TABLE {} (LIKE interaction_history INCLUDING DEFAULTS)"
            " WITH (autovacuum_vacuum_insert_scale_factor = 0.02)"  # see 0009_history_indexes.sql
        ).format(table)
    )
    await connection.execute(
        sql.SQL(
            "ALTER TABLE interaction_history ATTACH PARTITION {} FOR VALUES FROM ({}) TO ({})"
        ).format(table, lower, sql.Literal(_bound(end)))
    )
    return name


async def _row(connection: Connection, query: str) -> tuple[Any, ...]:
    row = await (await connection.execute(query)).fetchone()
    assert row is not None
    return row


def _month(day: date) -> int:
    """Return the months since the year 0."""
    return day.year * 12 + day.month - 1


def _first_day(month: int) -> date:
    return date(month // 12, month % 12 + 1, 1)


def _bound(month: int) -> str:
    return f"{_first_day(month).isoformat()} 00:00:00+00"
