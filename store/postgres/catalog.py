"""The catalog in PostgreSQL: loaded whole or for counting, imported in one transaction, exported.

The four tables have the same shape, so their statements are generated from `store.records`: a
column has the name of the record's field.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar

import msgspec
from msgspec import UNSET, Struct
from psycopg import sql

from store.catalog_document import (
    CatalogDocument,
    CatalogError,
    ChannelItem,
    OfferItem,
    OutcomeTypeItem,
    TreatmentItem,
    check_document,
)
from store.postgres.pool import Connection, Pool, bounded, transaction
from store.records import (
    SYSTEM_OUTCOME_TYPES,
    Catalog,
    Channel,
    CountingRules,
    Creative,
    Offer,
    OutcomeType,
)

#: Tenant of the system outcome types. Not a legal tenant id.
SYSTEM_TENANT: Final = "*"
#: Time zone of a tenant that never registered one.
DEFAULT_TIMEZONE: Final = "UTC"
#: A catalog of the maximum size loads in a tenth of this.
LOAD_TIMEOUT_S: Final = 15.0

Record = TypeVar("Record", bound=Offer | Creative | Channel | OutcomeType)


class PartReport(NamedTuple):
    """Result of an import for one part of a catalog, in items."""

    added: int = 0
    changed: int = 0
    unchanged: int = 0


class ImportReport(NamedTuple):
    """Result of an import. `parts` has the document's parts by their names in it."""

    tenant: str
    version: int
    """The catalog's version now; announce it to readers if `changed`."""
    parts: Mapping[str, PartReport]
    changed: bool


async def load_catalog(pool: Pool, tenant: str) -> Catalog:
    """Return the tenant's catalog from one snapshot. Raises StoreUnavailable.

    A tenant that never registered anything has the default catalog.
    """
    return await bounded(_load(pool, tenant), LOAD_TIMEOUT_S)


async def _load(pool: Pool, tenant: str) -> Catalog:
    async with transaction(pool, read_only=True, snapshot=True) as connection:
        cursor = await connection.execute(
            "SELECT timezone, version FROM tenants WHERE tenant_id = %s", (tenant,)
        )
        row = await cursor.fetchone()
        timezone, version = row or (DEFAULT_TIMEZONE, 0)
        system = await _records(connection, OutcomeType, SYSTEM_TENANT)
        own = await _records(connection, OutcomeType, tenant)
        creatives = await _records(connection, Creative, tenant)
        return Catalog(
            tenant=tenant,
            timezone=timezone,
            version=version,
            registered=row is not None,
            offers=await _records(connection, Offer, tenant),
            creatives=creatives,
            channels=await _records(connection, Channel, tenant),
            outcome_types=own | system,
            treatment_counts=Counter(
                creative.channel_id
                for creative in creatives.values()
                if creative.channel_id is not None and creative.status != "archived"
            ),
        )


async def load_rules(pool: Pool, tenants: Sequence[str]) -> dict[str, CountingRules]:
    """Return tenant -> what counting needs, from one snapshot. Raises StoreUnavailable.

    A tenant that never registered anything has the default rules. Takes two queries.
    """
    async with transaction(pool, read_only=True, snapshot=True) as connection:
        registered = await _registered(connection, tenants)
        cursor = await connection.execute(
            "SELECT tenant_id, key FROM outcome_types WHERE tenant_id = ANY(%s)",
            ([*tenants, SYSTEM_TENANT],),
        )
        types: dict[str, set[str]] = {}
        for tenant, key in await cursor.fetchall():
            types.setdefault(tenant, set()).add(key)
    system = frozenset(types.get(SYSTEM_TENANT, ()))
    found = {}
    for tenant in tenants:
        timezone, stamp = registered.get(tenant, (DEFAULT_TIMEZONE, ""))
        own = types.get(tenant)
        found[tenant] = CountingRules(tenant, timezone, system | own if own else system, stamp)
    return found


async def load_stamps(pool: Pool, tenants: Sequence[str]) -> dict[str, str]:
    """Return tenant -> stamp, of those that have a catalog. Raises StoreUnavailable."""
    async with transaction(pool, read_only=True) as connection:
        registered = await _registered(connection, tenants)
    return {tenant: stamp for tenant, (_, stamp) in registered.items()}


async def _registered(connection: Connection, tenants: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return tenant -> (time zone, stamp), of those that have a catalog."""
    cursor = await connection.execute(
        "SELECT tenant_id, timezone, version, created_at FROM tenants WHERE tenant_id = ANY(%s)",
        (list(tenants),),
    )
    return {
        tenant: (timezone, f"{version} {created_at.timestamp():.6f}")
        for tenant, timezone, version, created_at in await cursor.fetchall()
    }


async def import_catalog(
    pool: Pool, document: CatalogDocument, *, outcome_types_max: int = 64
) -> ImportReport:
    """Insert or update the items of `document` by id, all or none; other items stay unchanged.

    An item replaces the stored one as a whole: a missing field becomes null. The version increases
    if anything changed. A tenant may have `outcome_types_max` types besides the system types.

    Raises CatalogError for an invalid document, and StoreUnavailable.
    """
    check_document(document)
    tenant = document.tenant
    parts: dict[str, PartReport] = {}
    async with transaction(pool) as connection:
        is_new, timezone, version = await _lock(connection, tenant)
        if document.timezone is not UNSET:
            same = not is_new and document.timezone == timezone
            parts["timezone"] = PartReport(int(is_new), int(not is_new and not same), int(same))
            timezone = document.timezone
        if document.offers is not UNSET:
            parts["offers"] = await _merge(connection, Offer, tenant, document.offer_records())
        if document.treatments is not UNSET:
            parts["treatments"] = await _merge(
                connection, Creative, tenant, document.creative_records()
            )
        if document.channels is not UNSET:
            parts["channels"] = await _merge(
                connection, Channel, tenant, document.channel_records()
            )
        if document.outcome_types is not UNSET:
            parts["outcomeTypes"] = await _merge(
                connection,
                OutcomeType,
                tenant,
                document.outcome_type_records(),
                max_records=outcome_types_max,
            )
        changed = is_new or any(part.added or part.changed for part in parts.values())
        if changed:
            version += 1
            await connection.execute(
                "UPDATE tenants SET timezone = %s, version = %s, updated_at = now()"
                " WHERE tenant_id = %s",
                (timezone, version, tenant),
            )
    return ImportReport(tenant, version, parts, changed)


async def export_catalog(pool: Pool, tenant: str) -> CatalogDocument:
    """Return the document that produces this catalog when it is imported.

    Raises CatalogError for a tenant that never had a catalog, and StoreUnavailable.
    """
    catalog = await load_catalog(pool, tenant)
    if catalog.version == 0:
        raise CatalogError(f"tenant {tenant!r} has no catalog")
    return CatalogDocument(
        tenant=tenant,
        timezone=catalog.timezone,
        offers=[OfferItem(**_fields(offer)) for offer in catalog.offers.values()],
        treatments=[TreatmentItem(**_fields(item)) for item in catalog.creatives.values()],
        channels=[ChannelItem(**_fields(channel)) for channel in catalog.channels.values()],
        outcome_types=[
            OutcomeTypeItem(**_fields(kind))
            for kind in catalog.outcome_types.values()
            if kind.key not in SYSTEM_OUTCOME_TYPES
        ],
    )


async def list_tenants(pool: Pool) -> list[str]:
    """Return the tenants that have a catalog, sorted. Raises StoreUnavailable."""
    async with transaction(pool, read_only=True) as connection:
        cursor = await connection.execute("SELECT tenant_id FROM tenants ORDER BY tenant_id")
        return [tenant for (tenant,) in await cursor.fetchall()]


async def timezones(pool: Pool) -> dict[str, str]:
    """Return tenant -> IANA time zone of the tenants with a catalog. Raises StoreUnavailable."""
    async with transaction(pool, read_only=True) as connection:
        cursor = await connection.execute("SELECT tenant_id, timezone FROM tenants")
        return dict(await cursor.fetchall())


async def _lock(connection: Connection, tenant: str) -> tuple[bool, str, int]:
    """Create the tenant if it is new, and lock it against other imports.

    Return whether it is new, its time zone and its version.
    """
    made = await connection.execute(
        "INSERT INTO tenants (tenant_id) VALUES (%s) ON CONFLICT DO NOTHING", (tenant,)
    )
    cursor = await connection.execute(
        "SELECT timezone, version FROM tenants WHERE tenant_id = %s FOR UPDATE", (tenant,)
    )
    row = await cursor.fetchone()
    assert row is not None
    return made.rowcount == 1, row[0], row[1]


async def _merge(
    connection: Connection,
    kind: type[Record],
    tenant: str,
    given: Mapping[str, Record],
    *,
    max_records: int | None = None,
) -> PartReport:
    present = await _records(connection, kind, tenant)
    if max_records is not None and len(present | dict(given)) > max_records:
        raise CatalogError(
            f"outcomeTypes: tenant {tenant!r} has {len(present)} of its own and would have "
            f"{len(present | dict(given))}; at most {max_records} are allowed (OUTCOME_TYPES_MAX)"
        )
    added = [record for id_, record in given.items() if id_ not in present]
    changed = [r for id_, r in given.items() if id_ in present and present[id_] != r]
    if added or changed:
        await connection.cursor().executemany(
            _STATEMENTS[kind].upsert,
            [(tenant, *msgspec.structs.astuple(record)) for record in (*added, *changed)],
        )
    return PartReport(len(added), len(changed), len(given) - len(added) - len(changed))


async def _records(connection: Connection, kind: type[Record], tenant: str) -> dict[str, Record]:
    """Return the tenant's records of one table by id, in the order of ids."""
    cursor = await connection.execute(_STATEMENTS[kind].select, (tenant,))
    return {row[0]: kind(*row) for row in await cursor.fetchall()}


def _fields(record: Struct) -> dict[str, Any]:
    return msgspec.structs.asdict(record)


class _Statements(NamedTuple):
    select: sql.Composed
    upsert: sql.Composed


def _statements(table: str, kind: type[Struct]) -> _Statements:
    """Return the statements over all fields of a record; the first field is its id."""
    columns = [sql.Identifier(name) for name in kind.__struct_fields__]
    listed = sql.SQL(", ").join(columns)
    return _Statements(
        sql.SQL("SELECT {} FROM {} WHERE tenant_id = %s ORDER BY {}").format(
            listed, sql.Identifier(table), columns[0]
        ),
        sql.SQL(
            "INSERT INTO {} (tenant_id, {}) VALUES (%s, {})"
            " ON CONFLICT (tenant_id, {}) DO UPDATE SET {}"
        ).format(
            sql.Identifier(table),
            listed,
            sql.SQL(", ").join([sql.Placeholder()] * len(columns)),
            columns[0],
            sql.SQL(", ").join(sql.SQL("{0} = EXCLUDED.{0}").format(c) for c in columns[1:]),
        ),
    )


_STATEMENTS: Final[Mapping[type[Struct], _Statements]] = {
    Offer: _statements("offers", Offer),
    Creative: _statements("creatives", Creative),
    Channel: _statements("channels", Channel),
    OutcomeType: _statements("outcome_types", OutcomeType),
}
