"""Import of a catalog: stored in PostgreSQL, then announced to the readers through Redis."""

from __future__ import annotations

from typing import NamedTuple

from store.catalog_document import CatalogDocument
from store.postgres.catalog import ImportReport, import_catalog, load_catalog
from store.postgres.pool import Pool
from store.records import StoreUnavailable
from store.redis.counters import RedisCounters
from store.settings import Settings


class Imported(NamedTuple):
    """Result of an import."""

    report: ImportReport
    notes: tuple[str, ...]
    """What the caller should know, in sentences for people."""


async def import_and_announce(
    settings: Settings, pool: Pool, counters: RedisCounters, document: CatalogDocument
) -> Imported:
    """Import a catalog, and announce to the readers that their cached copy is out of date.

    Raises CatalogError, and StoreUnavailable if PostgreSQL is unavailable. Without Redis it is
    imported all the same.
    """
    report = await import_catalog(pool, document, outcome_types_max=settings.outcome_types_max)
    tenant = report.tenant
    timezone = (await load_catalog(pool, tenant)).timezone
    try:
        # Even if nothing changed: an earlier import may have failed before this step.
        await counters.announce_catalog(tenant, report.version)
        generation = await counters.generation(tenant)
    except StoreUnavailable:
        return Imported(
            report,
            (
                "imported, but Redis is unavailable; readers see the new catalog within "
                f"{settings.catalog_refresh_s:g} s",
            ),
        )
    if generation is None or generation.timezone == timezone:
        return Imported(report, ())
    return Imported(
        report,
        (
            f"the counters of tenant {tenant} are in {generation.timezone} and its catalog is in "
            f"{timezone}; history answers until `interaction-summary rebuild --tenant {tenant}`",
        ),
    )
