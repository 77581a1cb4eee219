"""TENANTS_REGISTERED_ONLY: events of tenants without a catalog are dead letters."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
import pytest

from store.catalog_document import CatalogDocument
from store.postgres.catalog import import_catalog
from store.settings import Settings
from streams.counting_catalogs import RETRY_S
from tests.support.events import make_event
from tests.support.pipeline_fixture import PipelineFixture, open_pipeline, values_of
from tests.support.waiting import eventually_async
from tests.support.worker_fixture import now_ms

pytestmark = pytest.mark.anyio


def values(*tenants: str) -> list[bytes]:
    return values_of([make_event(tenant=tenant, occurred_ms=now_ms()) for tenant in tenants])


def letters(fixture: PipelineFixture) -> list[tuple[int, str, str]]:
    return [
        (x.record.offset, x.rejection.reason, x.rejection.detail.split()[1])
        for x in fixture.dead_letters.records
    ]


async def test_events_of_tenants_without_a_catalog_are_dead_letters(settings: Settings) -> None:
    """They use up no place of TENANTS_MAX. A tenant counts as soon as it is registered."""
    async with open_pipeline(settings, tenants_registered_only=True, tenants_max=2) as fixture:
        await import_catalog(fixture.pool, CatalogDocument(tenant="a"))
        await fixture.process(0, values("a", "made-up-1", "made-up-2", "a", "b"))
        assert letters(fixture) == [
            (1, "unregistered_tenant", "made-up-1"),
            (2, "unregistered_tenant", "made-up-2"),
            (4, "unregistered_tenant", "b"),
        ]
        detail = fixture.dead_letters.records[0].rejection.detail
        assert "TENANTS_REGISTERED_ONLY" in detail
        assert "catalog import" in detail
        assert list(await fixture.counters.tenants()) == ["a"]
        await import_catalog(fixture.pool, CatalogDocument(tenant="b"))
        fixture.catalog_clock_s += RETRY_S
        await fixture.process(1, values("a", "b", "b", "b", "made-up-1"))
        assert letters(fixture)[3:] == [(9, "unregistered_tenant", "made-up-1")]
        assert list(await fixture.counters.tenants()) == ["a", "b"]


async def test_without_the_setting_every_tenant_counts(settings: Settings) -> None:
    async with open_pipeline(settings) as fixture:
        await fixture.process(0, values("a", "made-up"))
        assert letters(fixture) == []


@pytest.mark.parametrize("is_known", [False, True])
async def test_nothing_is_rejected_while_postgres_cannot_be_asked(
    settings: Settings, is_known: bool
) -> None:
    """The tenant may have been registered since it was looked up."""
    async with open_pipeline(settings, tenants_registered_only=True) as fixture:
        await fixture.process(0, values("b" if is_known else "other"))
        before = letters(fixture)
        await import_catalog(fixture.pool, CatalogDocument(tenant="b"))
        fixture.catalog_clock_s += RETRY_S
        async with catalogs_locked(settings) as connection:
            fixture.submit(1, values("b"))

            async def asked() -> bool:
                cursor = await connection.execute(
                    "SELECT count(*) FROM pg_locks JOIN pg_database ON oid = database"
                    " WHERE NOT granted AND datname = current_database()"
                )
                return await cursor.fetchone() != (0,)

            await eventually_async(asked, message="a question to PostgreSQL that waits")
            assert letters(fixture) == before
            assert fixture.pipeline.positions[0] == 1

        async def counted() -> bool:
            return fixture.pipeline.positions[0] == 2

        await eventually_async(counted, message="the event of b")
        assert letters(fixture) == before


@asynccontextmanager
async def catalogs_locked(settings: Settings) -> AsyncIterator[psycopg.AsyncConnection]:
    """Keep everybody else from reading the tenants."""
    async with await psycopg.AsyncConnection.connect(settings.database_url) as holder:
        await holder.execute("LOCK TABLE tenants IN ACCESS EXCLUSIVE MODE")
        yield holder
        await holder.rollback()
