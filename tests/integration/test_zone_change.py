"""A tenant changes its time zone, so the days of its counters are no longer its days.

History answers, counting continues, `status` reports it, and rebuilt counters answer again.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest
from structlog.testing import capture_logs

from store.catalog_document import CatalogDocument
from store.counters import Activated
from store.postgres.catalog import import_catalog, load_catalog
from store.records import GROUPINGS, Event
from store.settings import Settings
from store.windows import DAY_MS, Calendar, period_for, window_of
from streams.commit import CounterCommitter
from tests.support.contract import LOG, Writer
from tests.support.events import NOW_MS, make_event, sourced
from tests.support.oracle import body_of, groups_of
from tests.support.pipeline_fixture import fresh, open_pipeline, values_of
from tests.support.program import Program
from tests.support.reader_pair import ReaderPair, Tenant, open_reader_pair
from tests.support.waiting import eventually_async
from tests.support.worker_fixture import now_ms

BEFORE, AFTER = "Asia/Tokyo", "America/New_York"
QUERIES = [(group_by, days) for group_by in GROUPINGS for days in (1, 7, 30, 365)]


def some_events(now_ms: int) -> list[Event]:
    """Return events near the midnights of both zones, many of them on different days there."""
    return [
        make_event(
            customer=f"C-{age % 3}",
            offer=f"off_{hour % 5}",
            occurred_ms=now_ms - age * DAY_MS - hour * 3_600_000,
        )
        for age in (0, 1, 6, 7, 30, 31, 45)
        for hour in range(0, 24, 3)
    ]


async def assert_answers(
    pair: ReaderPair, tenant: Tenant, counted: Sequence[Event], zone: str, source: str
) -> None:
    calendar = Calendar(zone)
    for group_by, days in QUERIES:
        window = window_of(period_for(days), calendar.day_of(pair.now_ms))
        expected = body_of(
            groups_of(counted, group_by, window, calendar),
            CatalogDocument(),
            group_by=group_by,
            days=days,
            limit=100,
            offset=0,
        )
        response = await tenant.ask(f"groupBy={group_by}&days={days}", of=pair.counted)
        assert response.headers["x-summary-source"] == source
        assert response.content == expected, (group_by, days)


async def move(pair: ReaderPair, tenant: Tenant, zone: str) -> None:
    await tenant.import_catalog(CatalogDocument(tenant=tenant.name, timezone=zone))


def status_of(program: Program) -> tuple[dict[str, object], str]:
    """Return the tenant from `status --json`, and the output of `status`."""
    (tenant,) = json.loads(program.run("status", "--json"))["tenants"]
    return tenant, program.run("status")


@pytest.mark.long
def test_history_answers_until_the_counters_are_built_in_the_new_zone(
    settings: Settings, tmp_path: Path
) -> None:
    async def run() -> None:
        async with open_reader_pair(settings) as pair:
            program = Program(settings, tmp_path)
            tenant = await pair.tenant("acme", BEFORE)
            counted = some_events(NOW_MS)
            await tenant.commit(counted)
            await assert_answers(pair, tenant, counted, BEFORE, "materialized")

            await move(pair, tenant, AFTER)
            await assert_answers(pair, tenant, counted, AFTER, "history")
            # Events are still counted, in the days of the counters' zone.
            more = some_events(NOW_MS - 1)
            await tenant.commit(more)
            counted += more
            await assert_answers(pair, tenant, counted, AFTER, "history")
            shown, printed = await asyncio.to_thread(status_of, program)
            assert (shown["timezone"], shown["catalogTimezone"]) == (BEFORE, AFTER)
            assert AFTER in printed
            assert "rebuild --tenant acme" in printed

            # Changing the zone back loses nothing.
            await move(pair, tenant, BEFORE)
            await assert_answers(pair, tenant, counted, BEFORE, "materialized")
            await move(pair, tenant, AFTER)

            await rebuild(pair, counted)
            # A reader checks for a newer zone at most once a second.
            await eventually_async(
                lambda: counters_answer(pair, tenant), message="the new counters answer"
            )
            await assert_answers(pair, tenant, counted, AFTER, "materialized")
            shown, printed = await asyncio.to_thread(status_of, program)
            assert (shown["timezone"], shown["catalogTimezone"]) == (AFTER, AFTER)
            assert "rebuild --tenant" not in printed

    asyncio.run(run())


async def counters_answer(pair: ReaderPair, tenant: Tenant) -> bool:
    response = await tenant.ask("days=1", of=pair.counted)
    return response.headers["x-summary-source"] == "materialized"


async def rebuild(pair: ReaderPair, counted: Sequence[Event]) -> None:
    """Build a generation in the tenant's current zone, with all events, and activate it."""
    zone = (await load_catalog(pair.pool, "acme")).timezone
    building = await pair.counters.build(
        "acme",
        day=Calendar(zone).day_of(pair.now_ms),
        timezone=zone,
        token="rebuild",
        watermarks=[],
    )
    await Writer(pair.counters, building).commit(counted)
    swapped = await pair.counters.swap(building, now_ms=pair.now_ms)
    assert isinstance(swapped, Activated), swapped


def test_a_worker_that_starts_after_the_change_counts_in_the_counters_zone(
    redis_url: str, database_url: str
) -> None:
    """Counters with the days of two zones would be right for neither."""
    stores = Settings(auth_mode="open", redis_url=redis_url, database_url=database_url)

    async def run() -> None:
        async with open_reader_pair(stores) as pair:
            tenant = await pair.tenant("acme", BEFORE)
            await move(pair, tenant, AFTER)

            async def zone_of(name: str) -> str:
                return (await load_catalog(pair.pool, name)).timezone

            committer = CounterCommitter(
                pair.counters, pair.history, now_ms=lambda: pair.now_ms, timezone_of=zone_of
            )
            committer.start_session(LOG, {})
            counted = some_events(NOW_MS)
            await committer.commit("acme", 0, sourced(*counted), len(counted))
            await move(pair, tenant, BEFORE)
            await assert_answers(pair, tenant, counted, BEFORE, "materialized")
            # A tenant that starts now starts in the zone that it has now.
            await pair.tenant("other", AFTER)
            account = await committer.tenants.get("other")
            assert account.generation.timezone == AFTER

    asyncio.run(run())


def test_headers_are_of_the_zone_that_the_tenant_has_now(redis_url: str, database_url: str) -> None:
    stores = Settings(auth_mode="open", redis_url=redis_url, database_url=database_url)

    async def start_of(tenant: Tenant, reader: httpx.AsyncClient) -> str:
        return (await tenant.ask("days=1", of=reader)).headers["x-summary-window-start"]

    async def run() -> None:
        async with open_reader_pair(stores) as pair:
            pair.now_ms = NOW_MS + 4 * 3_600_000  # 01:00 of the 25th in Tokyo
            tenant = await pair.tenant("acme", BEFORE)
            assert await start_of(tenant, pair.counted) == "2026-11-25"
            await move(pair, tenant, AFTER)
            assert await start_of(tenant, pair.counted) == "2026-11-24"

    asyncio.run(run())


@pytest.mark.anyio
async def test_a_worker_warns_once_that_the_counters_have_another_zone(settings: Settings) -> None:
    """Events came first, and the catalog with its time zone later."""
    batch = values_of([make_event(tenant="late", occurred_ms=now_ms()) for _ in range(3)])
    async with open_pipeline(settings) as fixture:
        await fixture.process(0, batch)
        document = CatalogDocument(tenant="late", timezone=BEFORE)
        await import_catalog(fixture.pool, document)
        await fixture.builder._catalogs.fresh_rules(["late"])
        with capture_logs() as logged:
            for number in (1, 2):
                await fixture.process(number, fresh(batch, number))
    warnings = [entry for entry in logged if entry["log_level"] == "warning"]
    assert [(e["tenant"], e["counters"], e["catalog"]) for e in warnings] == [
        ("late", "UTC", BEFORE)
    ]
    assert "rebuild" in warnings[0]["event"]
