"""What `up --demo` adds: a catalog, five weeks of events, and live traffic after them."""

from __future__ import annotations

from typing import Final

import msgspec

from cli.catalog import import_document, with_pool
from cli.traffic.demo_catalog import DEMO_OUTCOME_TYPE, demo_catalog
from store.catalog_document import parse_document
from store.postgres.pool import Pool, transaction
from store.records import DEFAULT_TENANT
from store.settings import Settings

#: The tenant that an API without keys answers for when none is named.
TENANT: Final = DEFAULT_TENANT

_COMMON: Final = ("--tenant", TENANT, "--outcome-type", DEMO_OUTCOME_TYPE, "--customers", "2000")
#: The seed is fixed: a backfill that was cut short and is run again counts each event once.
BACKFILL: Final = ("--events", "20000", "--days", "35", "--seed", "1", *_COMMON)
TRAFFIC: Final = ("--events", "0", "--rate", "20", *_COMMON)


async def import_demo_catalog(settings: Settings) -> None:
    document = parse_document(msgspec.json.encode(demo_catalog(TENANT)))
    await import_document(settings, document)


async def has_history(settings: Settings) -> bool:
    """Whether history has events of the demo's tenant. Raises StoreUnavailable."""

    async def ask(pool: Pool) -> bool:
        async with transaction(pool, read_only=True) as connection:
            cursor = await connection.execute(
                "SELECT EXISTS (SELECT 1 FROM interaction_history WHERE tenant_id = %s)", (TENANT,)
            )
            row = await cursor.fetchone()
        return bool(row and row[0])

    return await with_pool(settings, ask)
