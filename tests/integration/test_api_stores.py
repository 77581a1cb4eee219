"""The reader on real stores: equal answers from both, and its behaviour when they fail."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
import redis
from fastapi.testclient import TestClient

from api.app import build
from store.catalog_document import CatalogDocument, OfferItem
from store.postgres.catalog import import_catalog
from store.postgres.history import HistoryWriter
from store.postgres.pool import make_pool
from store.records import Event
from store.redis.client import make_client
from store.redis.counters import RedisCounters
from store.settings import Settings
from store.windows import DAY_MS
from tests.support.contract import LOG, Writer
from tests.support.events import IDS, NOW_MS, OUTCOMES, TODAY, make_event, sourced
from tests.support.services.base import Services, revive
from tests.support.waiting import eventually

PATH = "/api/v1/interaction-summary"
ACME = {"X-Tenant-Id": "acme"}
GROUPINGS = ("action", "treatment", "channel", "customer")
UNREACHABLE = {
    "redis_url": "redis://127.0.0.1:1/0",
    "database_url": "postgresql://postgres@127.0.0.1:1/postgres",
}


def some_events(count: int, seed: int = 7) -> list[Event]:
    rng = random.Random(seed)
    return [
        make_event(
            customer=rng.choice(IDS),
            offer=rng.choice(IDS),
            creative=rng.choice((None, *IDS)),
            channel=rng.choice((None, *IDS)),
            outcome=rng.choice(OUTCOMES),
            occurred_ms=NOW_MS - rng.randrange(40 * DAY_MS),
        )
        for _ in range(count)
    ]


def fill(settings: Settings, events: list[Event]) -> None:
    """Write `events` to both stores, as a worker does."""

    async def both() -> None:
        client = make_client(settings, timeout_s=10, retries=0)
        try:
            store = RedisCounters(client, settings.redis_prefix)
            generation = await store.create(
                "acme", day=TODAY, timezone="UTC", complete=True, watermarks=[]
            )
            await Writer(store, generation).commit(events)
        finally:
            await client.aclose()
        async with make_pool(settings, max_size=1) as pool:
            assert isinstance(
                await HistoryWriter(pool).write(
                    topic="interactions",
                    topic_id=LOG,
                    partition=0,
                    expected_offset=None,
                    next_offset=len(events),
                    events=sourced(*events),
                ),
                int,
            )

    asyncio.run(both())


def import_offers(settings: Settings, **names: str) -> None:
    """Import a catalog and announce it, as `catalog import` does."""

    async def run() -> None:
        document = CatalogDocument(
            tenant="acme", offers=[OfferItem(id=id_, name=name) for id_, name in names.items()]
        )
        async with make_pool(settings, max_size=1) as pool:
            report = await import_catalog(pool, document)
        client = make_client(settings, timeout_s=10, retries=0)
        try:
            counters = RedisCounters(client, settings.redis_prefix)
            await counters.announce_catalog("acme", report.version)
        finally:
            await client.aclose()

    asyncio.run(run())


@pytest.fixture
def stores(redis_url: str, database_url: str) -> Settings:
    # The read budget is long where the test is not about it: the machine may be busy.
    return Settings(
        auth_mode="open", redis_url=redis_url, database_url=database_url, read_budget_ms=5_000
    )


@contextmanager
def client_of(settings: Settings, **changes: Any) -> Iterator[TestClient]:
    app = build(settings.model_copy(update=changes), now_ms=lambda: NOW_MS)
    with TestClient(app, base_url="http://127.0.0.1", headers=ACME) as client:
        yield client


def source_of(client: TestClient, query: str = "") -> str:
    response = client.get(f"{PATH}?{query}")
    source: str = response.headers.get("x-summary-source", str(response.status_code))
    return source


def test_it_starts_and_says_what_is_wrong_with_both_stores_down() -> None:
    with client_of(Settings(auth_mode="open"), **UNREACHABLE) as client:
        assert client.get("/healthz").status_code == 200
        ready = client.get("/readyz")
        assert ready.status_code == 503
        assert ready.json()["status"] == "down"
        assert set(ready.json()["stores"].values()) <= {"unavailable", "no answer within 1 s"}
        answer = client.get(PATH)
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "SERVICE_UNAVAILABLE"
        assert int(answer.headers["retry-after"]) >= 1


def test_empty_stores_answer_with_no_rows(stores: Settings) -> None:
    with client_of(stores) as client:
        assert client.get("/readyz").json() == {
            "status": "ok",
            "stores": {"redis": "ok", "postgres": "ok"},
            "lag": {"events": None, "max": None},
            "counters": {"generation": None, "complete": False},
        }
        answer = client.get(PATH)
    assert answer.headers["x-summary-source"] == "history"
    assert answer.json()["summary"] == []
    assert answer.json()["total"] == 0


def test_counters_and_history_give_the_same_body_for_every_grouping_and_period(
    stores: Settings,
) -> None:
    fill(stores, some_events(400))
    import_offers(stores, a="Alpha", off_1="One")
    questions = [
        f"groupBy={group_by}&days={days}&limit={limit}&offset={offset}"
        for group_by in GROUPINGS
        for days in (1, 7, 30, 365)
        for limit, offset in ((100, 0), (3, 2), (5, 1_000))
    ]
    with client_of(stores) as client:
        counted = {q: client.get(f"{PATH}?{q}") for q in questions}
        with redis.Redis.from_url(stores.redis_url) as connection:
            connection.flushall()
        historic = {q: client.get(f"{PATH}?{q}") for q in questions}
    for question in questions:
        assert counted[question].headers["x-summary-source"] == "materialized"
        assert historic[question].headers["x-summary-source"] == "history"
        assert historic[question].text == counted[question].text
        assert historic[question].headers["etag"] == counted[question].headers["etag"]
    assert counted[questions[0]].json()["total"] > 1
    names = {
        row["id"]: row["name"]
        for row in counted["groupBy=action&days=365&limit=100&offset=0"].json()["summary"]
    }
    assert names["a"] == "Alpha"
    assert names["B"] is None


def test_an_exact_window_equals_the_period_of_that_many_days(stores: Settings) -> None:
    fill(stores, some_events(200))
    with client_of(stores) as client:
        weekly = client.get(f"{PATH}?days=7")
        exact = client.get(f"{PATH}?days=7&window=exact")
        shorter = client.get(f"{PATH}?days=6&window=exact")
        longer = client.get(f"{PATH}?days=8&window=exact")
    assert weekly.text == exact.text
    sizes = [sum(row["total"] for row in r.json()["summary"]) for r in (shorter, exact, longer)]
    assert sizes == sorted(set(sizes))
    assert shorter.headers["x-summary-source"] == "materialized"


def test_an_imported_catalog_is_seen_by_the_next_request(stores: Settings) -> None:
    fill(stores, [make_event(offer="off_001")])
    with client_of(stores, catalog_refresh_s=3_600) as client:
        assert client.get(PATH).json()["summary"][0]["name"] is None
        import_offers(stores, off_001="Gold card")
        assert client.get(PATH).json()["summary"][0]["name"] == "Gold card"
        import_offers(stores, off_001="Platinum card")
        assert client.get(PATH).json()["summary"][0]["name"] == "Platinum card"


def test_a_frozen_redis_costs_the_budget_until_the_breaker_opens_and_comes_back(
    stores: Settings, services: Services
) -> None:
    fill(stores, some_events(50))
    changes = {"read_budget_ms": 200, "breaker_failures": 2, "breaker_open_s": 1.0}
    with client_of(stores, **changes) as client:
        eventually(lambda: source_of(client) == "materialized")
        body = client.get(PATH).text
        before = fallbacks(client, "breaker_open")
        services.redis.pause()

        def is_open() -> bool:
            answer = client.get(PATH)
            assert (answer.headers["x-summary-source"], answer.text) == ("history", body)
            return fallbacks(client, "breaker_open") > before

        assert not is_open()
        eventually(is_open)
        services.redis.resume()
        eventually(lambda: source_of(client) == "materialized")


def fallbacks(client: TestClient, reason: str) -> float:
    found = re.search(rf'fallbacks_total{{reason="{reason}"}} (\S+)', client.get("/metrics").text)
    assert found is not None
    return float(found[1])


def test_a_killed_redis_leaves_history_to_answer_the_same(
    stores: Settings, services: Services
) -> None:
    fill(stores, some_events(50))
    with client_of(stores) as client:
        body = client.get(PATH).text
        services.redis.kill()
        answer = client.get(PATH)
        assert answer.headers["x-summary-source"] == "history"
        assert answer.text == body
        assert "x-summary-lag" not in answer.headers
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["status"]) == (200, "degraded")


def test_without_postgres_the_counters_go_on_and_without_both_it_is_a_503(
    stores: Settings, services: Services
) -> None:
    fill(stores, some_events(50))
    with client_of(stores, catalog_refresh_s=0.01, fallback_timeout_ms=500) as client:
        body = client.get(PATH).text
        services.postgres.kill()
        for _ in range(3):
            answer = client.get(PATH)
            assert answer.headers["x-summary-source"] == "materialized"
            assert answer.text == body
        services.redis.kill()
        answer = client.get(PATH)
        assert answer.status_code == 503
        assert "neither" in answer.json()["error"]["message"]
        assert client.get("/readyz").status_code == 503
        revive(services.postgres)
        eventually(lambda: source_of(client) == "history")


def test_a_history_query_over_its_time_is_a_503_and_is_ended_in_postgres(stores: Settings) -> None:
    fill(stores, some_events(10))
    with redis.Redis.from_url(stores.redis_url) as connection:
        connection.flushall()
    with client_of(stores, fallback_timeout_ms=100) as client:
        assert source_of(client) == "history"
        with psycopg.connect(stores.database_url) as blocker:
            blocker.execute("LOCK TABLE interaction_history IN ACCESS EXCLUSIVE MODE")
            answer = client.get(PATH)
            assert answer.status_code == 503
            eventually(lambda: not _waits_for_a_lock(blocker), message="the query is ended")
        eventually(lambda: source_of(client) == "history")


def _waits_for_a_lock(connection: psycopg.Connection) -> bool:
    found = connection.execute(
        "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'interaction_history'::regclass"
    )
    return found.fetchone() is not None
