"""Data of `up --demo`: a catalog, five weeks of events, then live traffic."""

from __future__ import annotations

from typing import Final

import msgspec

from cli.catalog import import_document, with_pool
from cli.traffic.demo_catalog import DEMO_OUTCOME_TYPE, demo_catalog
from store.catalog_document import parse_document
from store.postgres.history import HistoryWriter
from store.records import DEFAULT_TENANT
from store.settings import Settings

#: Tenant that an API in open mode assumes when a request names none.
TENANT: Final = DEFAULT_TENANT

_COMMON: Final = ("--tenant", TENANT, "--outcome-type", DEMO_OUTCOME_TYPE, "--customers", "2000")
#: The seed is fixed, so that each event counts once when an interrupted backfill is run again.
BACKFILL: Final = ("--events", "20000", "--days", "35", "--seed", "1", *_COMMON)
TRAFFIC: Final = ("--events", "0", "--rate", "20", *_COMMON)


async def import_demo_catalog(settings: Settings) -> None:
    """Import the demo catalog. Raises StoreUnavailable."""
    document = parse_document(msgspec.json.encode(demo_catalog(TENANT)))
    await import_document(settings, document)


async def has_history(settings: Settings) -> bool:
    """Return whether history has events of the demo's tenant. Raises StoreUnavailable."""
    return TENANT in await with_pool(settings, lambda pool: HistoryWriter(pool).tenants())
