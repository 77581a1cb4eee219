"""Counting without Postgres, on real stores: the tenants that are known, at once and exactly."""

from __future__ import annotations

import asyncio

import pytest

from store.catalog_document import CatalogDocument, OutcomeTypeItem
from store.postgres.catalog import import_catalog, load_rules, load_stamps
from store.postgres.pool import make_pool
from store.records import SYSTEM_OUTCOME_TYPES, CountingRules
from store.redis.catalog_copies import RedisCatalogCopies
from store.redis.keys import Keys
from store.settings import Settings
from tests.support.events import make_event
from tests.support.pipeline_fixture import open_pipeline, values_of
from tests.support.services.base import Services
from tests.support.waiting import eventually_async
from tests.support.worker_fixture import now_ms

pytestmark = pytest.mark.anyio
TENANTS = [f"t{n}" for n in range(200)]


def values(*tenants: str, outcome: str = "click") -> list[bytes]:
    return values_of([make_event(tenant=t, outcome=outcome, occurred_ms=now_ms()) for t in tenants])


async def test_rules_and_stamps_follow_the_catalog(settings: Settings) -> None:
    """A tenant that is removed and registered again has another stamp, at the same version."""
    own = OutcomeTypeItem("saved", "positive")
    async with make_pool(settings, max_size=1) as pool:
        await import_catalog(pool, CatalogDocument(tenant="a", timezone="Asia/Kolkata"))
        await import_catalog(pool, CatalogDocument(tenant="b", outcome_types=[own]))
        rules = await load_rules(pool, ["a", "b", "c"])
        system = frozenset(SYSTEM_OUTCOME_TYPES)
        assert (rules["a"].timezone, rules["a"].outcome_types) == ("Asia/Kolkata", system)
        assert (rules["b"].timezone, rules["b"].outcome_types) == ("UTC", system | {"saved"})
        assert (rules["c"].outcome_types, rules["c"].registered) == (system, False)
        stamps = await load_stamps(pool, ["a", "b", "c"])
        assert stamps == {t: rules[t].stamp for t in ("a", "b")}
        async with pool.connection() as connection:
            await connection.execute("DELETE FROM tenants WHERE tenant_id = 'a'")
        await import_catalog(pool, CatalogDocument(tenant="a", timezone="Asia/Kolkata"))
        assert await load_stamps(pool, ["a"]) != {"a": stamps["a"]}


async def test_a_copy_that_cannot_be_read_is_none(settings: Settings) -> None:
    async with open_pipeline(settings) as fixture:
        copies = RedisCatalogCopies(fixture.counters._client, settings.redis_prefix)
        rules = CountingRules("a", "UTC", frozenset({"click"}), "1")
        await copies.write([rules])
        await fixture.counters._client.set(Keys(settings.redis_prefix).rules("b"), b"\xc1")
        assert await copies.read(["a", "b", "c"]) == {"a": rules}


async def test_a_worker_counts_known_tenants_while_postgres_is_away(
    services: Services, settings: Settings
) -> None:
    """Also one that starts then: it has the copies, with the types of before."""
    own = OutcomeTypeItem("saved", "positive")
    async with open_pipeline(settings) as fixture:
        zone = "Pacific/Kiritimati"
        document = CatalogDocument(tenant="t0", timezone=zone, outcome_types=[own])
        await import_catalog(fixture.pool, document)
        await fixture.process(0, values(*TENANTS))
    await asyncio.to_thread(services.postgres.stop)
    try:
        async with open_pipeline(settings) as fixture:
            fixture.submit(0, values(*TENANTS[:100], outcome="saved"))
            fixture.submit(1, values(*TENANTS[100:]))

            async def counted() -> bool:
                return fixture.pipeline.positions[0] == 200

            await eventually_async(counted, message="all counted")
            saved = [each.record.offset for each in fixture.dead_letters.records]
            assert saved == list(range(1, 100)), "only t0 has the type"
            fixture.submit(2, [*values(*TENANTS[:99]), *values("never-seen")])

            async def waits() -> bool:
                found = await asyncio.gather(
                    fixture.builder._catalogs.rules(["never-seen"]), return_exceptions=True
                )
                return "wait for it: never-seen" in str(found[0])

            await eventually_async(waits, message="the error that says what waits")
            assert fixture.pipeline.positions[0] == 200, "a commit batch is counted as a whole"
            await asyncio.to_thread(services.postgres.start)

            async def all_counted() -> bool:
                return fixture.pipeline.positions[0] == 300

            await eventually_async(all_counted, message="all counted")
    finally:
        await asyncio.to_thread(services.postgres.start)
