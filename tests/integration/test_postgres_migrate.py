"""Migrations: applied once, also concurrently, and never by a program older than the schema."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from structlog.testing import capture_logs

from store.postgres.migrate import ensure_partitions, migrate, migrations, restore_partitions
from store.postgres.pool import make_pool, ping
from store.records import SYSTEM_OUTCOME_TYPES, OutcomeType, StoreUnavailable
from store.settings import Settings
from streams.worker import Stores

NAMES = [migration.name for migration in migrations()]


@pytest.fixture
def bare_url(database_url: str) -> str:
    """Return the URL of an empty database."""
    rows(database_url, "DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    return database_url


def rows(url: str, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement.encode(), parameters or None)
        return cursor.fetchall() if cursor.description else []


def partitions(url: str) -> list[str]:
    found = rows(
        url,
        "SELECT c.relname FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid"
        " WHERE inhparent = 'interaction_history'::regclass ORDER BY 1",
    )
    return [name.removeprefix("interaction_history_") for (name,) in found]


def store_at(url: str, instant: str) -> str:
    """Store a row of that time and return its partition."""
    found = rows(
        url,
        "INSERT INTO interaction_history (tenant_id, event_id, customer_id, offer_id, outcome_type,"
        " occurred_at, source_topic, source_log, source_partition, source_offset, recorded_at)"
        " VALUES ('t', gen_random_uuid(), 'c', 'o', 'click', %s, 'i', gen_random_uuid(), 0, 0,"
        " now()) RETURNING tableoid::regclass::text",
        instant,
    )
    return str(found[0][0]).removeprefix("interaction_history_")


def test_a_bare_database_gets_every_migration_once(bare_url: str) -> None:
    assert asyncio.run(migrate(bare_url)) == NAMES
    assert asyncio.run(migrate(bare_url)) == []
    assert [name for (name,) in rows(bare_url, "SELECT name FROM schema_migrations ORDER BY 1")] == NAMES  # fmt: skip  # noqa: E501


def test_many_may_migrate_at_once_and_one_does_it(bare_url: str) -> None:
    async def all_at_once() -> list[list[str]]:
        return await asyncio.gather(*(migrate(bare_url) for _ in range(6)))

    applied = asyncio.run(all_at_once())
    assert sorted(applied, key=len) == [[]] * 5 + [NAMES]


def test_a_database_newer_than_the_program_is_refused(database_url: str) -> None:
    rows(database_url, "INSERT INTO schema_migrations VALUES (9999, '9999_later')")
    with pytest.raises(RuntimeError, match="newer than this program: it has migration 9999_later"):
        asyncio.run(migrate(database_url))


def test_a_migration_that_fails_leaves_nothing_behind(bare_url: str) -> None:
    """Each migration is one transaction: one that fails at an existing table creates no other."""
    rows(bare_url, "CREATE TABLE creatives (mine text)")
    with pytest.raises(psycopg.errors.DuplicateTable):
        asyncio.run(migrate(bare_url))
    assert rows(bare_url, "SELECT to_regclass('tenants'), count(*) FROM schema_migrations") == [(None, 0)]  # fmt: skip  # noqa: E501
    rows(bare_url, "DROP TABLE creatives")
    assert asyncio.run(migrate(bare_url)) == NAMES


def test_a_database_that_is_not_in_utf8_is_refused(database_url: str) -> None:
    name = conninfo_to_dict(database_url)["dbname"]
    rows(
        database_url,
        f"CREATE DATABASE {name}_latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0",
    )
    try:
        with pytest.raises(RuntimeError, match="encoding is LATIN1; it must be UTF8"):
            asyncio.run(migrate(make_conninfo(database_url, dbname=f"{name}_latin")))
    finally:
        rows(database_url, f"DROP DATABASE {name}_latin")


def test_a_server_that_is_not_there_is_unavailable() -> None:
    with pytest.raises(StoreUnavailable, match="Postgres: connection"):
        asyncio.run(migrate("postgresql://postgres@127.0.0.1:1/postgres"))


def test_the_seeded_system_types_are_those_of_the_program(database_url: str) -> None:
    seeded = rows(
        database_url,
        "SELECT key, name, classification, category FROM outcome_types WHERE tenant_id = '*'",
    )
    assert {row[0]: OutcomeType(*row) for row in seeded} == SYSTEM_OUTCOME_TYPES


def test_months_are_made_ahead_and_everything_older_has_one_place(bare_url: str) -> None:
    asyncio.run(migrate(bare_url, today=date(2026, 11, 24)))
    assert partitions(bare_url) == ["2026_11", "2026_12", "2027_01", "2027_02", "older"]
    assert store_at(bare_url, "2026-10-31T23:59:59.999Z") == "older"
    assert store_at(bare_url, "2026-11-01T00:00Z") == "2026_11"
    assert store_at(bare_url, "2027-02-28T23:59:59.999Z") == "2027_02"
    with pytest.raises(psycopg.errors.CheckViolation):
        store_at(bare_url, "2027-03-01T00:00Z")


def test_later_calls_add_the_missing_months_without_a_gap(bare_url: str) -> None:
    """Create each month once, after any gap and with concurrent calls."""
    asyncio.run(migrate(bare_url, today=date(2025, 11, 30)))
    before = set(partitions(bare_url))

    async def all_at_once() -> list[list[str]]:
        pool = make_pool(Settings(database_url=bare_url), max_size=4)
        async with pool:
            return await asyncio.gather(
                *(ensure_partitions(pool, date(2026, 5, 1), ahead_months=2) for _ in range(4))
            )

    made = [name for names in asyncio.run(all_at_once()) for name in names]
    assert sorted(made) == [f"interaction_history_2026_{month:02}" for month in range(3, 8)]
    assert set(partitions(bare_url)) - before == {f"2026_{month:02}" for month in range(3, 8)}

    async def again(today: date) -> list[str]:
        async with await psycopg.AsyncConnection.connect(bare_url, autocommit=True) as connection:
            return await ensure_partitions(connection, today)

    assert asyncio.run(again(date(2019, 1, 1))) == []
    with pytest.raises(RuntimeError, match="is today really 9000-01-01"):
        asyncio.run(again(date(9000, 1, 1)))


def test_months_are_made_while_a_reader_and_a_writer_are_at_work(bare_url: str) -> None:
    """Creating a month does not wait for transactions that use the table."""
    asyncio.run(migrate(bare_url, today=date(2026, 11, 24)))
    with psycopg.connect(bare_url) as reader, psycopg.connect(bare_url) as writer:
        reader.execute("SELECT count(*) FROM interaction_history")
        writer.execute("LOCK interaction_history IN ROW EXCLUSIVE MODE")

        async def make() -> list[str]:
            pool = make_pool(
                Settings(database_url=bare_url), max_size=1, statement_timeout_ms=2_000
            )
            async with pool:
                return await ensure_partitions(pool, date(2026, 12, 1))

        assert asyncio.run(make()) == ["interaction_history_2027_03"]


def test_a_connection_that_read_only_read_can_make_months(database_url: str) -> None:
    """The settings of a transaction are undone on its connection."""

    async def make() -> list[str]:
        async with make_pool(Settings(database_url=database_url), max_size=1) as pool:
            await ping(pool)
            return await ensure_partitions(pool, datetime.now(UTC).date(), ahead_months=5)

    assert len(asyncio.run(make())) == 2


def test_a_role_that_must_not_create_tables_gets_an_error_that_is_retried(
    database_url: str,
) -> None:
    """A worker need not own the tables: `migrate` may create the months."""
    with reading_role(database_url) as url:

        async def make() -> list[str]:
            async with make_pool(Settings(database_url=url), max_size=1) as pool:
                return await ensure_partitions(pool, datetime.now(UTC).date(), ahead_months=5)

        with pytest.raises(StoreUnavailable, match=r"month partitions.*permission denied"):
            asyncio.run(make())


def test_a_worker_that_must_not_create_tables_logs_it_and_goes_on(database_url: str) -> None:
    in_half_a_year = datetime.now(UTC) + timedelta(days=180)
    with reading_role(database_url) as url:

        async def make() -> None:
            stores = Stores(
                Settings(database_url=url), now_ms=lambda: int(in_half_a_year.timestamp() * 1_000)
            )
            await stores.pool.open()
            await stores.make_partitions()
            await stores.close()

        with capture_logs() as logged:
            asyncio.run(make())
    (entry,) = logged
    assert (entry["event"], entry["log_level"]) == ("month partitions not created", "warning")
    assert "permission denied" in entry["error"]


@contextmanager
def reading_role(database_url: str) -> Iterator[str]:
    """Create a role that may only read; yield the URL of the database as this role."""
    role = f"writer_{conninfo_to_dict(database_url)['dbname']}"
    rows(database_url, f"CREATE ROLE {role} LOGIN PASSWORD '{role}'")
    try:
        rows(database_url, f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
        yield make_conninfo(database_url, user=role, password=role)
    finally:
        rows(database_url, f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_the_day_of_migration_is_today_by_default(bare_url: str) -> None:
    before = datetime.now(UTC)
    asyncio.run(migrate(bare_url))
    after = datetime.now(UTC)
    assert partitions(bare_url)[0] in {f"{before:%Y_%m}", f"{after:%Y_%m}"}


@pytest.mark.parametrize("dropped", ["older", "2026_11", "2026_12", "2027_01"])
def test_a_dropped_partition_is_created_again_for_rows_of_its_months(
    bare_url: str, dropped: str
) -> None:
    asyncio.run(migrate(bare_url, today=date(2026, 11, 24)))
    before = partitions(bare_url)
    instant = "2026-10-01" if dropped == "older" else f"{dropped.replace('_', '-')}-30"
    rows(bare_url, f"DROP TABLE interaction_history_{dropped}")
    with pytest.raises(psycopg.errors.CheckViolation):
        store_at(bare_url, instant)

    async def restore() -> list[str]:
        async with make_pool(Settings(database_url=bare_url), max_size=1) as pool:
            return await restore_partitions(pool) + await restore_partitions(pool)

    rows(bare_url, "ALTER DATABASE {} SET TimeZone = 'Asia/Tokyo'".format(*rows(bare_url, "SELECT current_database()")[0]))  # fmt: skip  # noqa: E501
    assert asyncio.run(restore()) == [f"interaction_history_{dropped}"]
    assert partitions(bare_url) == before
    assert store_at(bare_url, instant) == dropped


def undo_indexes(url: str) -> str:
    """Return to the indexes of history before the last change of them; return the change."""
    before = "CREATE INDEX interaction_history_time ON interaction_history (tenant_id, occurred_at)"
    rows(url, f"{before}; DROP INDEX interaction_history_days, interaction_history_customer")
    (change,) = [each for each in migrations() if each.name == "0009_history_indexes"]
    return change.statements


def test_vacuum_does_not_wait_for_a_fifth_of_a_month(bare_url: str) -> None:
    """In the partitions of before the migration that says so, and in those made later."""
    asyncio.run(migrate(bare_url, today=date(2026, 1, 1)))
    rows(bare_url, "ALTER TABLE interaction_history_2026_01 RESET (autovacuum_vacuum_insert_scale_factor)")  # fmt: skip  # noqa: E501
    indexes = undo_indexes(bare_url)
    rows(bare_url, indexes)
    asyncio.run(migrate(bare_url, today=date(2026, 3, 1)))
    found = rows(
        bare_url,
        "SELECT relname, reloptions FROM pg_class WHERE relkind = 'r'"
        " AND relname ~ '^interaction_history_'",
    )
    assert len(found) > 4
    assert all(options == ["autovacuum_vacuum_insert_scale_factor=0.02"] for _, options in found)


def tables_closed_by(url: str, statements: str) -> list[tuple[Any, ...]]:
    """Return the tables that readers wait for while a transaction has run the statements."""
    with psycopg.connect(url) as connection:
        connection.execute(statements.encode())
        return connection.execute(
            "SELECT relname FROM pg_locks JOIN pg_class ON pg_class.oid = relation"
            " WHERE mode = 'AccessExclusiveLock' AND relkind IN ('r', 'p')"
        ).fetchall()


def test_readers_do_not_wait_while_indexes_of_history_are_built(bare_url: str) -> None:
    asyncio.run(migrate(bare_url, today=date(2026, 1, 1)))
    indexes = undo_indexes(bare_url)
    build, _, last = indexes.rpartition("DROP INDEX")
    assert build.count("CREATE INDEX") == 2
    assert last.strip() == "interaction_history_time;"
    assert tables_closed_by(bare_url, build) == []


def test_readers_do_not_wait_while_the_index_of_sums_is_built(bare_url: str) -> None:
    asyncio.run(migrate(bare_url, today=date(2026, 1, 1)))
    (change,) = [each for each in migrations() if each.name == "0011_history_sums"]
    build, _, last = change.statements.partition("DROP INDEX")
    assert last.split(";")[0].strip() == "interaction_history_days"
    assert tables_closed_by(bare_url, build) == []
