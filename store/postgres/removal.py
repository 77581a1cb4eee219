"""Removal of a tenant from PostgreSQL: its catalog, and its history in bounded transactions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from psycopg import sql

from store.counters import Source
from store.postgres.pool import TRANSACTION_TIMEOUT_S, Connection, Pool, transaction
from store.postgres.sql import load

_NOTE_REMOVED: Final = load("note_removed")
_REMOVED_THROUGH: Final = load("removed_through")
_BOUND: Final = load("removal_bound")
_REMOVE_ROWS: Final = load("remove_rows")
_REMOVE_IDENTITIES: Final = load("remove_identities")
_REMOVE_PRUNED_IDENTITIES: Final = load("remove_pruned_identities")
_FORGET_PRUNED: Final = load("forget_pruned")

#: Tables of a catalog, the tenant's own row last.
CATALOG_TABLES: Final = (
    "offers", "creatives", "channels", "outcome_types", "api_keys", "tenants",
)  # fmt: skip
#: Rows of one transaction: about a tenth of a second. Rows of one millisecond are not divided.
REMOVED_ROWS: Final = 10_000
#: Longest wait for a statement that reads all rows that are left of a pruned tenant.
_PRUNED_TIMEOUT_S: Final = 600.0


async def remove_catalog(pool: Pool, tenant: str) -> Mapping[str, int]:
    """Delete the tenant's catalog and keys in one transaction; return table -> number of rows.

    Raises StoreUnavailable.
    """
    removed = {}
    async with transaction(pool) as connection:
        for table in CATALOG_TABLES:
            statement = sql.SQL("DELETE FROM {} WHERE tenant_id = %s").format(sql.Identifier(table))
            removed[table] = (await connection.execute(statement, (tenant,))).rowcount
    return removed


async def note_removed(pool: Pool, tenant: str, ends: Mapping[Source, int]) -> None:
    """Note that the tenant's events below these offsets are removed: nothing brings them back.

    Raises StoreUnavailable.
    """
    parameters = {
        "tenant": tenant,
        "topic_ids": [UUID(topic_id) for topic_id, _ in ends],
        "partitions": [partition for _, partition in ends],
        "ends": list(ends.values()),
    }
    async with transaction(pool) as connection:
        await connection.execute(_NOTE_REMOVED, parameters)


async def removed_through(connection: Connection, tenant: str, topic_id: str) -> dict[int, int]:
    """Return partition -> offset below which the tenant's events were removed."""
    parameters = {"tenant": tenant, "topic_id": UUID(topic_id)}
    return dict(await (await connection.execute(_REMOVED_THROUGH, parameters)).fetchall())


async def remove_history(
    pool: Pool,
    tenant: str,
    *,
    topic_id: str | None,
    ends: Mapping[int, int],
    batch_rows: int = REMOVED_ROWS,
) -> AsyncIterator[int]:
    """Delete the tenant's rows and identities; yield the number of rows after each transaction.

    Rows of `topic_id`, the topic that is read now, stay from their partition's offset in `ends` on.
    Safe to repeat. Raises StoreUnavailable.
    """
    parameters: dict[str, Any] = {
        "tenant": tenant,
        "topic_id": UUID(topic_id) if topic_id else UUID(int=0),
        "partitions": list(ends),
        "ends": list(ends.values()),
        "rows": batch_rows - 1,
    }
    after: datetime | None = None
    while True:
        async with transaction(pool) as connection:
            parameters["after"] = after
            bound = await (await connection.execute(_BOUND, parameters)).fetchone()
            after = parameters["up_to"] = bound[0] if bound else None
            row = await (await connection.execute(_REMOVE_ROWS, parameters)).fetchone()
        assert row is not None
        yield int(row[0])
        if bound is None:
            break
    for statement, rows_max, timeout_s in (
        (_REMOVE_IDENTITIES, batch_rows, TRANSACTION_TIMEOUT_S),
        # Each time, all rows that are left are read.
        (_REMOVE_PRUNED_IDENTITIES, 10 * batch_rows, _PRUNED_TIMEOUT_S),
    ):
        parameters["identities"] = removed = rows_max
        while removed == rows_max:
            async with transaction(pool, timeout_s=timeout_s) as connection:
                removed = (await connection.execute(statement, parameters)).rowcount
    async with transaction(pool, timeout_s=_PRUNED_TIMEOUT_S) as connection:
        await connection.execute(_FORGET_PRUNED, parameters)
