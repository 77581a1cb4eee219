"""The reader as its clients see it, with the stores' protocols played by small fakes."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
import structlog
from fastapi import FastAPI
from fastapi.testclient import TestClient

from api.access import StartupRefused, check_startup
from api.app import create_app
from api.body import BODY_BYTES_MAX
from api.errors import CODES, ApiError
from store.api_keys import make_key
from store.records import (
    Catalog,
    Channel,
    CounterPage,
    Creative,
    GroupCounts,
    GroupQuestion,
    Incomplete,
    Offer,
    Page,
    Question,
    StoreUnavailable,
    TrendQuestion,
)
from store.settings import Settings
from store.windows import EPOCH, Window

BASE_URL = "http://127.0.0.1"
PATH = "/api/v1/interaction-summary"
#: Tuesday 2026-11-24, 10:30 in UTC; already 23:30 in Auckland.
NOW_MS = int(datetime(2026, 11, 24, 10, 30, tzinfo=UTC).timestamp() * 1_000)
TODAY = (datetime(2026, 11, 24, tzinfo=UTC).date() - EPOCH).days

SAMPLE = GroupCounts("off_001", {"impression": 1250, "click": 87, "dismiss": 45, "convert": 32}, 1)
CATALOG = Catalog(
    "acme",
    version=3,
    offers={"off_001": Offer("off_001", "Gold card", "Retention", "Cards", "active", 10)},
    creatives={
        "cr_001": Creative("cr_001", "Banner", "off_001", "ch_001", "html", "A", 0.5, "active")
    },
    channels={"ch_001": Channel("ch_001", "Web", "web", "active")},
    treatment_counts={"ch_001": 2},
)


class Store:
    """Fake of counters or history: returns `script` in order, then repeats its last result."""

    def __init__(self, *script: Any) -> None:
        self.script = list(script)
        self.questions: list[Question] = []

    async def read(self, question: Question) -> Any:
        # What both stores are asked; the version of a kept answer is for the counters alone.
        self.questions.append(question._replace(known_version=None))
        answer = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if callable(answer):
            answer = await answer()
        if isinstance(answer, BaseException):
            raise answer
        return answer

    async def read_group(self, question: GroupQuestion) -> Any:
        raise AssertionError("tests/unit/test_api_groups.py is about groups")

    async def read_trend(self, question: TrendQuestion) -> Any:
        raise AssertionError("tests/unit/test_api_groups.py is about trends")


class Catalogs:
    """Fake of the catalogs by tenant; `newer` is returned if a minimum version is given."""

    def __init__(self, catalog: Any = None, newer: Any = None) -> None:
        self.catalog, self.newer = catalog, newer
        self.requests: list[tuple[str, int]] = []

    async def get(self, tenant: str, *, at_least_version: int = 0) -> Catalog:
        self.requests.append((tenant, at_least_version))
        answer = self.newer if at_least_version and self.newer else self.catalog
        if isinstance(answer, BaseException):
            raise answer
        return answer or Catalog(tenant)

    async def fresh(self, tenant: str) -> Catalog:
        return await self.get(tenant, at_least_version=-1)


def page(*groups: GroupCounts, total: int | None = None) -> Page:
    return Page(groups, len(groups) if total is None else total)


def counted(*groups: GroupCounts, version: int = 0) -> CounterPage:
    return CounterPage(page(*groups), version)


def app_of(
    counters: Store,
    history: Store | None = None,
    catalogs: Catalogs | None = None,
    *,
    now_ms: int = NOW_MS,
    lag: Callable[[], Awaitable[int | None]] | None = None,
    checks: Any = None,
    **settings: Any,
) -> FastAPI:
    return create_app(
        Settings(auth_mode="open", **settings),
        counters=counters,
        history=history or Store(AssertionError("history was read")),
        catalogs=catalogs or Catalogs(),
        now_ms=lambda: now_ms,
        lag=lag,
        checks=checks,
    )


@contextmanager
def client_of(*args: Any, **options: Any) -> Iterator[TestClient]:
    with TestClient(app_of(*args, **options), base_url=BASE_URL) as client:
        yield client


def assert_error(response: Any, status: int, *words: str) -> str:
    """Check the shape of an error response, and return its message."""
    assert response.status_code == status
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert list(body) == ["error"]
    assert list(body["error"]) == ["code", "message", "status", "requestId"]
    error = body["error"]
    assert error["code"] == CODES[status]
    assert error["status"] == status
    assert error["requestId"] == response.headers["x-request-id"]
    for word in words:
        assert word in error["message"]
    message: str = error["message"]
    return message


# --- the body


@pytest.mark.parametrize(
    ("group_by", "group_id", "row"),
    [
        (
            "action",
            "off_001",
            '{"id":"off_001","name":"Gold card","issue":"Retention","group":"Cards",'
            '"status":"active","priority":10,"impression":1250,"click":87,"dismiss":45,"accept":0,'
            '"convert":32,"total":1414,"ctr":6.96,"cvr":2.56,"positive":87,"negative":45,'
            '"neutral":1118}',
        ),
        (
            "treatment",
            "cr_001",
            '{"id":"cr_001","name":"Banner","offerName":"Gold card","channelType":"web",'
            '"channelName":"Web","templateType":"html","abTestVariant":"A","weight":0.5,'
            '"status":"active","impression":1250,"click":87,"dismiss":45,"accept":0,"convert":32,'
            '"total":1414,"ctr":6.96,"cvr":2.56}',
        ),
        (
            "channel",
            "ch_001",
            '{"id":"ch_001","name":"Web","channelType":"web","treatmentCount":2,"impression":1250,'
            '"click":87,"dismiss":45,"accept":0,"convert":32,"total":1414,"ctr":6.96}',
        ),
        (
            "customer",
            "C-1",
            '{"customerId":"C-1","total":1414,"impression":1250,"click":87,"dismiss":45,"accept":0,'
            '"convert":32,"uniqueActions":1}',
        ),
    ],
)
@pytest.mark.parametrize("source", ["materialized", "history"])
def test_the_body_of_each_grouping_to_the_byte_from_either_store(
    source: str, group_by: str, group_id: str, row: str
) -> None:
    group = SAMPLE._replace(id=group_id)
    counters = counted(group) if source == "materialized" else Incomplete("no_generation")
    with client_of(Store(counters), Store(page(group)), Catalogs(CATALOG)) as client:
        response = client.get(f"{PATH}?groupBy={group_by}", headers={"X-Tenant-Id": "acme"})
    assert response.status_code == 200
    assert response.headers["x-summary-source"] == source
    assert response.headers["content-type"] == "application/json"
    assert response.text == (
        f'{{"groupBy":"{group_by}","days":30,"summary":[{row}],"total":1,"limit":100,"offset":0}}'
    )


@pytest.mark.parametrize("group_by", ["action", "treatment", "channel"])
def test_what_the_catalog_lacks_is_null_and_rates_without_impressions_are_zero(
    group_by: str,
) -> None:
    with client_of(Store(counted(GroupCounts("x", {"click": 3})))) as client:
        row = client.get(f"{PATH}?groupBy={group_by}").json()["summary"][0]
    fixed = {"id", "impression", "click", "dismiss", "accept", "convert", "total", "ctr", "cvr"}
    attributes = {k: v for k, v in row.items() if k not in fixed | {"positive", "negative"}}
    attributes.pop("neutral", None)
    assert attributes
    assert set(attributes.values()) == {None}
    assert row["ctr"] == 0
    assert row["total"] == 3


def test_capped_limit_and_offset_are_echoed_and_asked_for() -> None:
    counters = Store(CounterPage(page(total=7), 0))
    with client_of(counters) as client:
        body = client.get(f"{PATH}?limit=1000&offset=9223372036854775807").json()
    assert body == {
        "groupBy": "action",
        "days": 30,
        "summary": [],
        "total": 7,
        "limit": 500,
        "offset": 9223372036854775807,
    }
    assert counters.questions[0].limit == 500
    # no store receives an offset that its arithmetic cannot represent
    assert counters.questions[0].offset == 10**12


# --- the window


@pytest.mark.parametrize(
    ("query", "period", "start"),
    [
        ("days=1", "daily", "2026-11-24"),
        ("days=2", "weekly", "2026-11-18"),
        ("days=7", "weekly", "2026-11-18"),
        ("days=8", "monthly", "2026-10-25"),
        ("days=31", "monthly", "2026-10-25"),
        ("days=32", "alltime", None),
        ("days=3650", "alltime", None),
        ("days=1&window=exact", "daily", "2026-11-24"),
        ("days=7&window=exact", "weekly", "2026-11-18"),
        ("days=31&window=exact", "monthly", "2026-10-25"),
    ],
)
def test_the_smallest_period_that_covers_the_days_answers(
    query: str, period: str, start: str | None
) -> None:
    counters = Store(counted(SAMPLE))
    with client_of(counters) as client:
        response = client.get(f"{PATH}?{query}")
    assert response.headers["x-summary-source"] == "materialized"
    assert response.headers["x-summary-period"] == period
    assert response.headers.get("x-summary-window-start") == start
    assert counters.questions[0].period == period
    assert counters.questions[0].today == TODAY


@pytest.mark.parametrize(("days", "start"), [(2, "2026-11-23"), (30, "2026-10-26")])
@pytest.mark.parametrize("why", [None, "too_many_groups"])
def test_an_exact_window_of_days_that_have_tiles_is_asked_of_the_counters_first(
    days: int, start: str, why: str | None
) -> None:
    counters = Store(Incomplete(why) if why else counted(SAMPLE))
    history = Store(page(SAMPLE))
    with client_of(counters, history) as client:
        response = client.get(f"{PATH}?window=exact&days={days}")
    assert response.headers["x-summary-source"] == ("history" if why else "materialized")
    assert response.headers["x-summary-period"] == "exact"
    assert response.headers["x-summary-window-start"] == start
    assert counters.questions[0].period is None
    assert counters.questions[0].window == Window(TODAY - days + 1, TODAY)
    assert history.questions == (counters.questions if why else [])


@pytest.mark.parametrize(("days", "start"), [(32, "2026-10-24"), (365, "2025-11-25")])
def test_an_exact_window_beyond_the_tiles_is_answered_by_history_alone(
    days: int, start: str
) -> None:
    counters, history = Store(AssertionError("counters were read")), Store(page(SAMPLE))
    with client_of(counters, history) as client:
        response = client.get(f"{PATH}?window=exact&days={days}")
    assert response.status_code == 200
    assert response.headers["x-summary-source"] == "history"
    assert response.headers["x-summary-period"] == "exact"
    assert response.headers["x-summary-window-start"] == start
    assert counters.questions == []
    assert history.questions[0].period is None
    assert history.questions[0].window == Window(TODAY - days + 1, TODAY)


def test_today_is_the_tenants_day() -> None:
    counters = Store(counted())
    now_ms = NOW_MS + 3_600_000  # 00:30 of the 25th in Auckland
    catalogs = Catalogs(Catalog("nz", timezone="Pacific/Auckland"))
    with client_of(counters, catalogs=catalogs, now_ms=now_ms) as client:
        response = client.get(f"{PATH}?days=1", headers={"X-Tenant-Id": "nz"})
    assert response.headers["x-summary-window-start"] == "2026-11-25"
    assert counters.questions[0] == Question(
        "nz",
        "action",
        "daily",
        Window(TODAY + 1, TODAY + 1),
        TODAY + 1,
        "Pacific/Auckland",
        100,
        0,
    )


# --- the catalog


def test_a_newer_catalog_announced_by_the_counters_is_fetched_before_rows_are_made() -> None:
    newer = Catalog("acme", version=4, offers={"off_001": Offer("off_001", "Renamed")})
    catalogs = Catalogs(CATALOG, newer)
    with client_of(Store(counted(SAMPLE, version=4)), catalogs=catalogs) as client:
        row = client.get(PATH, headers={"X-Tenant-Id": "acme"}).json()["summary"][0]
    assert row["name"] == "Renamed"
    assert catalogs.requests == [("acme", 0), ("acme", 4)]


def test_a_catalog_that_cannot_be_renewed_still_names_the_rows() -> None:
    catalogs = Catalogs(CATALOG, StoreUnavailable("Postgres: gone"))
    with client_of(Store(counted(SAMPLE, version=4)), catalogs=catalogs) as client:
        row = client.get(PATH).json()["summary"][0]
    assert row["name"] == "Gold card"


def test_a_newer_time_zone_makes_it_another_question() -> None:
    newer = Catalog("acme", timezone="Pacific/Kiritimati", version=4)  # a day ahead
    counters = Store(counted(version=4), counted(SAMPLE, version=4))
    with client_of(counters, catalogs=Catalogs(CATALOG, newer)) as client:
        response = client.get(f"{PATH}?days=1")
    assert [q.timezone for q in counters.questions] == ["UTC", "Pacific/Kiritimati"]
    assert response.headers["x-summary-window-start"] == "2026-11-25"
    assert len(response.json()["summary"]) == 1


@pytest.mark.parametrize("first", [counted(version=4), Incomplete("other_timezone")], ids=repr)
def test_history_is_asked_the_question_of_the_newest_catalog(
    first: CounterPage | Incomplete,
) -> None:
    newer = Catalog("acme", timezone="Pacific/Kiritimati", version=4)
    counters = Store(first, Incomplete("other_timezone"))
    history = Store(page(SAMPLE))
    with client_of(counters, history, Catalogs(CATALOG, newer)) as client:
        response = client.get(f"{PATH}?days=1")
    assert response.headers["x-summary-source"] == "history"
    assert response.headers["x-summary-window-start"] == "2026-11-25"
    assert [q.timezone for q in counters.questions] == ["UTC", "Pacific/Kiritimati"]
    assert history.questions == counters.questions[1:]


def test_counters_of_another_time_zone_are_asked_once_where_the_catalog_is_the_newest() -> None:
    counters = Store(Incomplete("other_timezone"))
    with client_of(counters, Store(page(SAMPLE))) as client:
        assert client.get(PATH).headers["x-summary-source"] == "history"
    assert len(counters.questions) == 1


def test_without_any_catalog_there_is_no_answer() -> None:
    catalogs = Catalogs(StoreUnavailable("Postgres: gone"))
    with client_of(Store(counted(SAMPLE)), catalogs=catalogs) as client:
        response = client.get(PATH)
    assert_error(response, 503, "catalog")
    assert response.headers["retry-after"] == "1"


# --- fallback


async def _too_slow() -> CounterPage:
    await asyncio.sleep(60)
    return counted()


@pytest.mark.parametrize(
    "trouble",
    [
        Incomplete("no_generation"),
        Incomplete("rolling"),
        StoreUnavailable("Redis: gone"),
        TimeoutError(),
        ValueError("a bug of ours"),
        _too_slow,
    ],
    ids=lambda trouble: getattr(trouble, "__name__", None) or repr(trouble),
)
def test_whatever_keeps_the_counters_from_answering_history_answers_whole(trouble: object) -> None:
    other = GroupCounts("off_002", {"impression": 1})
    counters, history = Store(trouble), Store(page(other))
    with client_of(counters, history, read_budget_ms=20) as client:
        response = client.get(f"{PATH}?days=7")
    assert response.headers["x-summary-source"] == "history"
    assert response.headers["x-summary-period"] == "weekly"
    assert [row["id"] for row in response.json()["summary"]] == ["off_002"]
    # both received the same question
    assert counters.questions == history.questions


def test_history_is_not_asked_while_the_counters_answer() -> None:
    history = Store(page())
    with client_of(Store(counted(SAMPLE)), history) as client:
        assert client.get(PATH).status_code == 200
    assert history.questions == []


def test_the_breaker_spares_counters_that_fail_and_tries_them_again() -> None:
    counters = Store(*[StoreUnavailable("Redis: gone")] * 2, counted(SAMPLE))
    history = Store(page(SAMPLE))
    with client_of(counters, history, breaker_failures=2, breaker_open_s=3_600) as client:
        sources = [client.get(PATH).headers["x-summary-source"] for _ in range(4)]
        assert sources == ["history"] * 4
        assert len(counters.questions) == 2
        assert "interaction_summary_api_breaker_open 1.0" in client.get("/metrics").text
    with client_of(
        Store(StoreUnavailable("Redis: gone"), counted(SAMPLE)),
        history,
        breaker_failures=1,
        breaker_open_s=1e-9,
    ) as client:
        sources = [client.get(PATH).headers["x-summary-source"] for _ in range(3)]
        assert sources == ["history", "materialized", "materialized"]
        assert "interaction_summary_api_breaker_open 0.0" in client.get("/metrics").text


def test_incomplete_counters_do_not_open_the_breaker() -> None:
    counters = Store(Incomplete("rolling"))
    with client_of(counters, Store(page()), breaker_failures=1, breaker_open_s=3_600) as client:
        for _ in range(3):
            client.get(PATH)
    assert len(counters.questions) == 3


@pytest.mark.parametrize("cause", [StoreUnavailable("Postgres: secret-host"), TimeoutError()])
def test_both_stores_down(cause: Exception) -> None:
    with client_of(Store(StoreUnavailable("Redis: gone")), Store(cause)) as client:
        response = client.get(PATH)
    message = assert_error(response, 503, "neither")
    assert "secret-host" not in message
    assert int(response.headers["retry-after"]) >= 1
    assert "x-summary-source" not in response.headers


async def _asgi_get(app: FastAPI, path: str, query: str = "") -> tuple[int, dict[str, str]]:
    """Send one request on the running loop (a request of TestClient blocks its thread)."""
    start: dict[str, Any] = {}

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            start.update(message)

    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [(b"host", b"127.0.0.1")],
        "scheme": "http",
        "server": ("127.0.0.1", 80),
        "client": ("127.0.0.1", 1),
        "root_path": "",
        "http_version": "1.1",
    }
    await app(scope, receive, send)
    headers = {name.decode(): value.decode() for name, value in start["headers"]}
    return start["status"], headers


def test_no_more_than_the_allowed_history_queries_run_at_once() -> None:
    async def scenario() -> None:
        running = peak = 0
        go = asyncio.Event()

        async def slow() -> Page:
            nonlocal running, peak
            running += 1
            peak = max(peak, running)
            await go.wait()
            running -= 1
            return page(SAMPLE)

        app = app_of(Store(Incomplete("no_generation")), Store(slow), fallback_concurrency=2)
        requests = [asyncio.create_task(_asgi_get(app, PATH)) for _ in range(6)]
        refused, _ = await asyncio.wait(requests, return_when=asyncio.FIRST_COMPLETED)
        while len(refused) < 4:
            refused = {task for task in requests if task.done()}
            await asyncio.sleep(0)
        go.set()
        answers = await asyncio.gather(*requests)
        assert sorted(status for status, _ in answers) == [200, 200, 503, 503, 503, 503]
        assert {h.get("retry-after") for s, h in answers if s == 503} == {"1"}
        assert peak == 2
        # and the slots are free again
        assert (await _asgi_get(app, PATH))[0] == 200

    asyncio.run(scenario())


def test_a_burst_queues_before_the_counters_and_does_not_eat_their_budget() -> None:
    async def scenario() -> None:
        running = peak = 0

        async def read() -> CounterPage:
            nonlocal running, peak
            running += 1
            peak = max(peak, running)
            await asyncio.sleep(0)
            running -= 1
            return counted(SAMPLE)

        app = app_of(Store(read), read_budget_ms=10_000)
        queries = (f"offset={i}" for i in range(300))  # equal questions would share a read
        answers = await asyncio.gather(*(_asgi_get(app, PATH, query) for query in queries))
        assert {(s, h["x-summary-source"]) for s, h in answers} == {(200, "materialized")}
        assert peak == 32

    asyncio.run(scenario())


def test_a_given_up_request_gives_its_places_back() -> None:
    async def scenario() -> None:
        asked = asyncio.Event()

        async def never() -> Page:
            asked.set()
            await asyncio.Event().wait()
            raise AssertionError

        history = Store(never, page(SAMPLE))
        app = app_of(Store(Incomplete("no_generation")), history, fallback_concurrency=1)
        request = asyncio.create_task(_asgi_get(app, PATH))
        await asked.wait()
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        assert (await _asgi_get(app, PATH))[0] == 200

    asyncio.run(scenario())


# --- headers


def test_the_headers_of_an_answer() -> None:
    async def lag() -> int:
        return 12

    with client_of(Store(counted(SAMPLE)), lag=lag) as client:
        response = client.get(f"{PATH}?days=7")
        while "x-summary-lag" not in response.headers:  # the lag is refreshed in the background
            response = client.get(f"{PATH}?days=7")
    headers = dict(response.headers)
    assert len(headers.pop("x-request-id")) == 32
    assert headers.pop("etag").startswith('"')
    assert headers.pop("content-length") == str(len(response.content))
    assert headers == {
        "content-type": "application/json",
        "cache-control": "private, no-cache",
        "x-content-type-options": "nosniff",
        "x-summary-source": "materialized",
        "x-summary-period": "weekly",
        "x-summary-window-start": "2026-11-18",
        "x-summary-timezone": "UTC",
        "x-summary-lag": "12",
        "vary": "Accept",
    }


def test_an_unknown_lag_is_not_shown() -> None:
    failing = asyncio.Event()

    async def lag() -> int:
        failing.set()
        raise StoreUnavailable("Redis: gone")

    with client_of(Store(counted(SAMPLE)), lag=lag) as client:
        while not failing.is_set():
            client.get("/healthz")
        assert "x-summary-lag" not in client.get(PATH).headers
        assert "interaction_summary_api_lag_events -1.0" in client.get("/metrics").text


@pytest.mark.parametrize("form", ["{}", "W/{}", '"other", {}', '"a,b",W/{}', "*", " * "])
def test_what_the_client_has_is_not_sent_again(form: str) -> None:
    with client_of(Store(counted(SAMPLE))) as client:
        first = client.get(PATH)
        again = client.get(PATH, headers={"If-None-Match": form.format(first.headers["etag"])})
    assert again.status_code == 304
    assert again.content == b""
    for name in first.headers:
        if name not in ("x-request-id", "content-type", "content-length"):
            assert again.headers[name] == first.headers[name]


@pytest.mark.parametrize("header", ["", '"other"', "x", '"*"'])
def test_what_the_client_lacks_is_sent(header: str) -> None:
    with client_of(Store(counted(SAMPLE))) as client:
        assert client.get(PATH, headers={"If-None-Match": header}).status_code == 200


def test_the_etag_is_that_of_the_body() -> None:
    other = GroupCounts("off_002", {"impression": 1})
    counters = Store(counted(SAMPLE), Incomplete("rolling"), counted(other))
    with client_of(counters, Store(page(SAMPLE))) as client:
        first, from_history, changed = (client.get(PATH) for _ in range(3))
    assert first.headers["etag"] == from_history.headers["etag"] != changed.headers["etag"]


def test_a_sane_request_id_is_kept_and_another_replaced() -> None:
    with client_of(Store(counted())) as client:
        kept = client.get(PATH, headers={"X-Request-Id": "abc-123_x.y:z"})
        assert kept.headers["x-request-id"] == "abc-123_x.y:z"
        for bad in ("a b", "x" * 129, "ä".encode(), '"', ""):
            made = client.get("/nowhere", headers={"X-Request-Id": bad})
            assert len(made.headers["x-request-id"]) == 32
            assert_error(made, 404)


# --- errors


@pytest.mark.parametrize("query", ["foo=1", "days=0", "days=1&days=1", "groupBy=x", "limit="])
def test_a_bad_parameter_is_a_400_that_names_it_and_asks_no_store(query: str) -> None:
    counters = Store(counted())
    with client_of(counters) as client:
        assert_error(client.get(f"{PATH}?{query}"), 400, query.split("=")[0])
    assert counters.questions == []


@pytest.mark.parametrize("path", ["/nowhere", f"{PATH}/", f"{PATH}/x", "/API", "/%00", "//"])
def test_an_unknown_path(path: str) -> None:
    with client_of(Store(counted())) as client:
        assert_error(client.get(f"http://127.0.0.1{path}"), 404)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
@pytest.mark.parametrize("path", [PATH, "/healthz"])
def test_another_method_is_told_the_allowed_one(method: str, path: str) -> None:
    with client_of(Store(counted())) as client:
        response = client.request(method, path)
    assert_error(response, 405, method)
    assert response.headers["allow"] == "GET, HEAD"


def test_a_fault_of_ours_shows_nothing_and_is_logged_with_its_traceback() -> None:
    with structlog.testing.capture_logs() as lines:
        catalogs = Catalogs(RuntimeError("password=hunter2"))
        with client_of(Store(counted()), catalogs=catalogs) as client:
            response = client.get(PATH)
    message = assert_error(response, 500)
    assert "hunter2" not in message
    (fault,) = [line for line in lines if line["event"] == "request failed"]
    assert fault["exc_info"]
    (line,) = [line for line in lines if line["event"] == "request"]
    assert line["status"] == 500
    assert line["request_id"] == response.headers["x-request-id"]


@pytest.mark.parametrize("status", sorted(CODES))
def test_every_status_has_the_one_shape(status: int) -> None:
    app = app_of(Store(counted()))

    @app.get("/fails")
    async def fails() -> None:
        raise ApiError(status, "because", headers={"X-Extra": "1"})

    with TestClient(app, base_url=BASE_URL) as client:
        response = client.get("/fails")
    assert_error(response, status, "because")
    assert response.headers["x-extra"] == "1"


def test_what_fastapi_itself_refuses_has_the_shape_too() -> None:
    app = app_of(Store(counted()))

    @app.get("/typed")
    async def typed(number: int) -> int:
        return number

    with TestClient(app, base_url=BASE_URL) as client:
        assert_error(client.get("/typed?number=x"), 400, "query.number")


def test_a_body_over_the_limit_is_refused() -> None:
    with client_of(Store(counted())) as client:
        for path in (PATH, "/nowhere"):
            response = client.request("GET", path, content=b"x" * (BODY_BYTES_MAX + 1))
            assert_error(response, 413, str(BODY_BYTES_MAX))
            assert response.headers["connection"] == "close"
        assert client.request("GET", PATH, content=b"x" * BODY_BYTES_MAX).status_code == 200
        headers = {"Content-Length": "9" * 400}
        assert_error(client.request("GET", PATH, headers=headers), 413)


def test_a_body_of_unknown_length_is_refused_once_it_is_over_the_limit() -> None:
    with client_of(Store(counted())) as client:
        big = client.request("GET", PATH, content=iter([b"x" * 10_000] * 7))
        assert_error(big, 413)
        small = client.request("GET", PATH, content=iter([b"x" * 10_000] * 6))
        assert small.status_code == 200


# --- access


@pytest.mark.parametrize("tenant", ["acme", "a", "A.b_c-9", "x" * 64])
def test_the_tenant_header_names_the_tenant(tenant: str) -> None:
    counters, catalogs = Store(counted()), Catalogs()
    with client_of(counters, catalogs=catalogs) as client:
        assert client.get(PATH, headers={"X-Tenant-Id": tenant}).status_code == 200
    assert counters.questions[0].tenant == tenant
    assert catalogs.requests == [(tenant, 0)]


def test_without_the_header_it_is_the_default_tenant() -> None:
    counters = Store(counted())
    with client_of(counters) as client:
        client.get(PATH)
    assert counters.questions[0].tenant == "default"


@pytest.mark.parametrize("tenant", ["", "a b", "x" * 65, "a/b", "{a}", "ä".encode(), "a,b"])
def test_a_bad_tenant_is_a_400_that_names_the_header(tenant: str | bytes) -> None:
    with client_of(Store(counted())) as client:
        assert_error(client.get(PATH, headers={"X-Tenant-Id": tenant}), 400, "X-Tenant-Id")


def test_two_tenants_are_refused() -> None:
    with client_of(Store(counted())) as client:
        response = client.get(PATH, headers=[("X-Tenant-Id", "a"), ("X-Tenant-Id", "b")])
    assert_error(response, 400, "X-Tenant-Id", "more than once")


def test_a_catalog_can_never_move_a_question_to_another_tenant() -> None:
    counters = Store(counted(version=9))
    with client_of(counters, catalogs=Catalogs(Catalog("other"))) as client:
        client.get(PATH, headers={"X-Tenant-Id": "acme"})
    assert {question.tenant for question in counters.questions} == {"acme"}


def test_keys_mode_needs_a_pepper_and_says_how_to_make_one() -> None:
    with pytest.raises(StartupRefused, match="AUTH_MODE=keys needs API_KEY_PEPPER") as caught:
        check_startup(Settings(), "127.0.0.1")
    assert "secrets.token_hex(32)" in str(caught.value)
    check_startup(Settings(api_key_pepper="p" * 32), "0.0.0.0")  # noqa: S104


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost", "LOCALHOST"])
def test_open_mode_starts_on_loopback(host: str) -> None:
    check_startup(Settings(auth_mode="open"), host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.168.1.2", "example.com", "127.1"])  # noqa: S104
def test_open_mode_refuses_any_other_address(host: str) -> None:
    with pytest.raises(StartupRefused, match="loopback only"):
        check_startup(Settings(auth_mode="open"), host)


# --- endpoints of the operator


async def _fine() -> None:
    return None


async def _broken() -> None:
    raise StoreUnavailable("Redis: ConnectionError: refused\nand more")


def test_healthz_needs_no_store() -> None:
    with client_of(Store(counted()), checks={"redis": _broken}) as client:
        response = client.get("/healthz")
    assert (response.status_code, response.json()) == (200, {"status": "ok"})


@pytest.mark.parametrize(
    ("redis", "postgres", "status", "word"),
    [
        (_fine, _fine, 200, "ok"),
        (_fine, _broken, 200, "degraded"),
        (_broken, _fine, 200, "degraded"),
        (_broken, _broken, 503, "down"),
    ],
)
def test_readyz_says_which_stores_answer_and_shows_no_error_of_a_driver(
    redis: Callable[[], Awaitable[None]],
    postgres: Callable[[], Awaitable[None]],
    status: int,
    word: str,
) -> None:
    with client_of(Store(counted()), checks={"redis": redis, "postgres": postgres}) as client:
        response = client.get("/readyz")
    shown: dict[Callable[[], Awaitable[None]], str] = {_fine: "ok", _broken: "unavailable"}
    assert response.status_code == status
    body = response.json()
    assert ("error" in body) == (status == 503)
    body.pop("error", None)
    assert body == {
        "status": word,
        "stores": {"redis": shown[redis], "postgres": shown[postgres]},
        "lag": {"events": None, "max": None},
    }


@pytest.mark.parametrize(("maximum", "status", "word"), [(0, 200, "ok"), (11, 503, "behind")])
def test_readyz_compares_the_lag_with_its_limit(maximum: int, status: int, word: str) -> None:
    async def lag() -> int:
        return 12

    options: dict[str, Any] = {"lag": lag, "checks": {"redis": _fine}}
    with client_of(Store(counted()), api_ready_lag_max=maximum, **options) as client:
        response = client.get("/readyz")
        while response.json()["lag"]["events"] is None:  # it is refreshed in the background
            response = client.get("/readyz")
    assert (response.status_code, response.json()["status"]) == (status, word)


def test_metrics_count_requests_by_route_and_status() -> None:
    with client_of(Store(counted())) as client:
        before = client.get("/metrics").text
        client.get(PATH)
        client.get("/invented/1")
        client.get("/invented/2")
        after = client.get("/metrics")
    assert after.headers["content-type"].startswith("text/plain; version=0.0.4")

    def value(text: str, route: str, status: int) -> float:
        name = f'interaction_summary_api_requests_total{{route="{route}",status="{status}"}} '
        return sum(float(ln.removeprefix(name)) for ln in text.splitlines() if ln.startswith(name))

    for route, status, more in ((PATH, 200, 1), ("other", 404, 2)):
        assert value(after.text, route, status) - value(before, route, status) == more
    assert "invented" not in after.text


def test_one_log_line_per_request_and_never_a_key() -> None:
    with structlog.testing.capture_logs() as lines, client_of(Store(counted())) as client:
        client.get(
            f"{PATH}?days=7",
            headers={
                "X-Tenant-Id": "acme",
                "X-Request-Id": "r-1",
                "X-API-Key": "krn_secret",
                "Authorization": "Bearer krn_secret",
            },
        )
    (line,) = [line for line in lines if line["event"] == "request"]
    assert line.pop("duration_ms") >= 0
    assert line == {
        "event": "request",
        "part": "api",
        "log_level": "info",
        "method": "GET",
        "path": PATH,
        "status": 200,
        "source": "materialized",
        "tenant": "acme",
        "key_id": None,
        "request_id": "r-1",
    }
    assert "krn_secret" not in repr(lines)


def test_a_key_in_the_wrong_place_is_not_shown() -> None:
    key = make_key()
    with client_of(Store(counted())) as client:
        response = client.get(PATH, params={key: "1"}, headers={"X-Request-Id": key})
    assert response.status_code == 400
    assert f"{key[:8]}…" in response.json()["error"]["message"]
    assert key not in response.text + repr(response.headers)


def test_openapi_describes_parameters_rows_and_errors() -> None:
    with client_of(Store(counted(SAMPLE))) as client:
        document = client.get("/openapi.json").json()
        rows = {
            name: client.get(f"{PATH}?groupBy={name}").json()["summary"][0]
            for name in ("action", "treatment", "channel", "customer")
        }
    operation = document["paths"][PATH]["get"]
    parameters = {p["name"]: p for p in operation["parameters"]}
    assert list(parameters) == [
        "groupBy",
        "days",
        "limit",
        "offset",
        "window",
        "sort",
        "X-Tenant-Id",
    ]
    assert parameters["days"]["schema"] == {
        "type": "integer",
        "minimum": 1,
        "maximum": 3650,
        "default": 30,
    }
    described_errors = {int(status) for status in operation["responses"]} - {200, 304}
    assert described_errors == set(CODES) - {404, 405}
    error = operation["responses"]["400"]["content"]["application/json"]["schema"]
    assert list(error["properties"]["error"]["properties"]) == [
        "code",
        "message",
        "status",
        "requestId",
    ]
    body = operation["responses"]["200"]["content"]["application/json"]["schema"]
    described = {
        s["title"]: s["properties"] for s in body["properties"]["summary"]["items"]["oneOf"]
    }
    for name, row in rows.items():
        assert list(described[name]) == list(row)
        for field, value in row.items():
            types = described[name][field]["type"]
            json_type = {str: "string", int: "integer", float: "number", type(None): "null"}
            assert json_type[type(value)] in types, (name, field)


# --- logs


def test_logs_are_json_lines_with_the_request_id_and_without_secrets(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from store import logs

    key = make_key()
    before = structlog.get_config(), logging.root.handlers[:], logging.root.level
    try:
        logs.configure("INFO")
        topic_id = structlog.get_logger(part="test")
        with structlog.contextvars.bound_contextvars(request_id="r-1"):
            topic_id.info("hello", Authorization="krn_secret", odd="\ud800", thing=object)
            topic_id.info("request", path=f"/api/v1/keys/{key}", odd="\ud800")
            logging.getLogger("library").warning("from %s", "outside")
            logging.getLogger("library").warning("%s is wrong", key)
        topic_id.debug("not shown")
        lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    finally:
        structlog.configure(**before[0])
        logging.root.handlers[:], level = before[1], before[2]
        logging.root.setLevel(level)
    shown = f"{key[:8]}…"
    assert [line["event"] for line in lines] == [
        "hello", "request", "from outside", f"{shown} is wrong",
    ]  # fmt: skip
    assert lines[1]["path"] == f"/api/v1/keys/{shown}"
    assert {line["request_id"] for line in lines} == {"r-1"}
    assert lines[0]["Authorization"] == "***"
    assert lines[0]["level"] == "info"
    assert lines[2]["logger"] == "library"
