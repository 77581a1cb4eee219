"""The catalog in Postgres: imported by id, all or nothing; loaded whole; exported."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import pytest

from store.catalog_document import CatalogError, dump_document, parse_document
from store.postgres.catalog import (
    PartReport,
    export_catalog,
    import_catalog,
    list_tenants,
    load_catalog,
)
from store.postgres.pool import Pool, make_pool
from store.records import SYSTEM_OUTCOME_TYPES, Catalog, Channel, Creative, Offer, StoreUnavailable
from store.settings import Settings
from tests.support.catalogs import FULL_CATALOG


def with_pool(url: str, body: Callable[[Pool], Awaitable[None]]) -> None:
    async def go() -> None:
        async with make_pool(Settings(database_url=url), max_size=6) as pool:
            await body(pool)

    asyncio.run(go())


async def imported(pool: Pool, document: object) -> Any:
    return await import_catalog(pool, parse_document(json.dumps(document)))


def test_a_tenant_that_never_registered_anything_has_the_defaults(database_url: str) -> None:
    async def body(pool: Pool) -> None:
        catalog = await load_catalog(pool, "nobody")
        assert catalog == Catalog("nobody", outcome_types=SYSTEM_OUTCOME_TYPES)
        assert await list_tenants(pool) == []
        with pytest.raises(CatalogError, match="tenant 'nobody' has no catalog"):
            await export_catalog(pool, "nobody")

    with_pool(database_url, body)


def test_what_is_imported_is_loaded(database_url: str) -> None:
    async def body(pool: Pool) -> None:
        report = await imported(pool, FULL_CATALOG)
        assert report == (
            "acme",
            1,
            dict.fromkeys(
                ("timezone", "offers", "treatments", "channels", "outcomeTypes"),
                PartReport(1, 0, 0),
            ),
            True,
        )
        catalog = await load_catalog(pool, "acme")
        assert (catalog.timezone, catalog.version) == ("Europe/Berlin", 1)
        assert catalog.offers == {"o": Offer("o", "Offer", "Growth", "Cards", "active", 7)}
        assert catalog.creatives == {"c": Creative("c", "T", "o", "h", "html", "A", 0.5, "active")}
        assert catalog.channels == {"h": Channel("h", "Mail", "email", "active")}
        assert catalog.outcome_types.keys() == SYSTEM_OUTCOME_TYPES.keys() | {"save"}
        assert catalog.outcome_types["save"].classification == "positive"
        assert catalog.treatment_counts == {"h": 1}
        assert (await load_catalog(pool, "other")).offers == {}
        assert await list_tenants(pool) == ["acme"]

    with_pool(database_url, body)


def test_export_then_import_changes_nothing(database_url: str) -> None:
    """Also ids of every script, and nulls."""
    ids = ("é", "b", "a", "B", "😀", "_", "a b", "x" * 128)
    document = FULL_CATALOG | {
        "offers": [{"id": id_, "name": id_} for id_ in ids],
        "treatments": [{"id": id_, "weight": 1 / 3, "channelId": "a"} for id_ in ids],
    }

    async def body(pool: Pool) -> None:
        await imported(pool, document)
        before = await load_catalog(pool, "acme")
        exported = await export_catalog(pool, "acme")
        assert [offer["id"] for offer in json.loads(dump_document(exported))["offers"]] == sorted(
            ids
        )
        report = await import_catalog(pool, parse_document(dump_document(exported)))
        assert not report.changed
        assert report.version == 1
        assert report.parts == {
            "timezone": (0, 0, 1),
            "offers": (0, 0, 8),
            "treatments": (0, 0, 8),
            "channels": (0, 0, 1),
            "outcomeTypes": (0, 0, 1),
        }
        assert await load_catalog(pool, "acme") == before

    with_pool(database_url, body)


def test_an_import_adds_changes_and_leaves_by_id(database_url: str) -> None:
    async def body(pool: Pool) -> None:
        await imported(
            pool,
            FULL_CATALOG
            | {
                "offers": [
                    {"id": "a", "name": "A", "priority": 1},
                    {"id": "b", "name": "B"},
                    {"id": "z"},
                ]
            },
        )
        report = await imported(
            pool,
            {
                "tenant": "acme",
                "offers": [{"id": "a", "name": "A"}, {"id": "b", "name": "B"}, {"id": "c"}],
            },
        )
        assert report == ("acme", 2, {"offers": PartReport(1, 1, 1)}, True)
        catalog = await load_catalog(pool, "acme")
        assert catalog.offers == {
            "a": Offer("a", "A"),  # the priority that it lacks now is null
            "b": Offer("b", "B"),
            "c": Offer("c"),
            "z": Offer("z"),  # not given: as it was
        }
        assert catalog.timezone == "Europe/Berlin"
        assert catalog.channels.keys() == {"h"}
        assert catalog.version == 2
        assert (await imported(pool, {"tenant": "acme", "timezone": "UTC"})).version == 3
        assert (await imported(pool, {"tenant": "acme", "timezone": "UTC"})).version == 3
        assert (await load_catalog(pool, "acme")).timezone == "UTC"

    with_pool(database_url, body)


def test_treatments_are_counted_by_channel_without_archived_ones(database_url: str) -> None:
    async def body(pool: Pool) -> None:
        treatments = [
            {"id": "1", "channelId": "h", "status": "active"},
            {"id": "2", "channelId": "h", "status": "archived"},
            {"id": "3", "channelId": "h"},
            {"id": "4", "channelId": "i", "status": "archived"},
            {"id": "5"},
        ]
        await imported(pool, {"treatments": treatments})
        assert (await load_catalog(pool, "default")).treatment_counts == {"h": 2}

    with_pool(database_url, body)


def test_a_tenant_has_at_most_so_many_types_of_its_own(database_url: str) -> None:
    """And a document that goes beyond leaves nothing of itself behind."""

    def types(start: int, end: int) -> list[dict[str, str]]:
        return [{"key": f"k{i}", "classification": "neutral"} for i in range(start, end)]

    async def body(pool: Pool) -> None:
        await imported(pool, {"outcomeTypes": types(0, 40)})
        await imported(pool, {"outcomeTypes": types(20, 64)})
        with pytest.raises(CatalogError, match="has 64 of its own and would have 65; at most 64"):
            await imported(pool, {"offers": [{"id": "o"}], "outcomeTypes": types(60, 65)})
        catalog = await load_catalog(pool, "default")
        assert len(catalog.outcome_types) == 74
        assert (catalog.offers, catalog.version) == ({}, 2)
        await imported(pool, {"tenant": "other", "outcomeTypes": types(0, 64)})
        more = parse_document(json.dumps({"outcomeTypes": types(60, 70)}))
        assert (await import_catalog(pool, more, outcome_types_max=70)).changed
        with pytest.raises(CatalogError, match="would have 71; at most 70"):
            await import_catalog(
                pool,
                parse_document(json.dumps({"outcomeTypes": types(70, 71)})),
                outcome_types_max=70,
            )

    with_pool(database_url, body)


def test_imports_at_once_lose_nothing(database_url: str) -> None:
    async def body(pool: Pool) -> None:
        reports = await asyncio.gather(
            *(imported(pool, {"offers": [{"id": "shared"}, {"id": f"o{i}"}]}) for i in range(6))
        )
        assert sorted(report.version for report in reports) == [1, 2, 3, 4, 5, 6]
        assert sum(report.parts["offers"].added for report in reports) == 7
        catalog = await load_catalog(pool, "default")
        assert (len(catalog.offers), catalog.version) == (7, 6)

    with_pool(database_url, body)


def test_a_catalog_that_cannot_be_loaded_is_unavailable(database_url: str) -> None:
    async def body(pool: Pool) -> None:
        with psycopg.connect(database_url) as other:
            other.execute("DROP TABLE channels")
            other.commit()
        with pytest.raises(StoreUnavailable, match=r"Postgres: .*channels.*run `migrate` first"):
            await load_catalog(pool, "acme")

    with_pool(database_url, body)
