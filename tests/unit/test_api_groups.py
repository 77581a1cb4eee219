"""Groups and trends as clients see them, with the stores' protocols played by small fakes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from api.group_routes import GROUP_PATH, TREND_PATH
from api.routes import PATH
from store.records import (
    Catalog,
    CountedGroup,
    CountedTrend,
    CounterPage,
    GroupCounts,
    GroupPeriods,
    GroupQuestion,
    Incomplete,
    Offer,
    Page,
    StoreUnavailable,
    TrendQuestion,
)
from store.settings import Settings
from store.windows import EPOCH, Window

#: Tuesday 2026-11-24, 10:30 in UTC; already 23:30 in Auckland.
NOW_MS = int(datetime(2026, 11, 24, 10, 30, tzinfo=UTC).timestamp() * 1_000)
TODAY = (datetime(2026, 11, 24, tzinfo=UTC).date() - EPOCH).days

GROUP: Final[GroupPeriods] = {
    "daily": GroupCounts("gold", {}),
    "weekly": GroupCounts("gold", {"impression": 3, "click": 1}),
    "monthly": GroupCounts("gold", {"impression": 3, "click": 1}),
    "alltime": GroupCounts("gold", {"impression": 8, "click": 1, "own_type": 1}),
}
TREND = {TODAY: {"impression": 4, "convert": 1}, TODAY - 2: {"own_type": 2}}


class Store:
    """Fake of counters or history: returns `script` in order, then repeats its last result."""

    def __init__(self, *script: Any) -> None:
        self.script = list(script)
        self.questions: list[Any] = []

    async def read(self, question: Any) -> Any:
        self.questions.append(question)
        answer = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if isinstance(answer, BaseException):
            raise answer
        return answer

    read_group = read_trend = read


class Catalogs:
    """Fake of the catalogs; `newer` is returned if a minimum version is given."""

    def __init__(self, catalog: Catalog, newer: Catalog | None = None) -> None:
        self.catalog, self.newer = catalog, newer

    async def get(self, tenant: str, *, at_least_version: int = 0) -> Catalog:
        return self.newer if at_least_version and self.newer else self.catalog

    async def fresh(self, tenant: str) -> Catalog:
        return self.newer or self.catalog


NAMES = Catalog("acme", offers={"gold": Offer("gold", "Gold card")}, version=3)


@contextmanager
def client_of(
    counters: Store, history: Store | None = None, catalogs: Catalogs | None = None, **settings: Any
) -> Iterator[TestClient]:
    lag = settings.pop("lag", None)
    app = create_app(
        Settings(auth_mode="open", **settings),
        counters=counters,
        history=history or Store(AssertionError("history was read")),
        catalogs=catalogs or Catalogs(NAMES),
        now_ms=lambda: NOW_MS,
        lag=lag,
    )
    headers = {"X-Tenant-Id": "acme"}
    with TestClient(app, base_url="http://127.0.0.1", headers=headers) as client:
        yield client


#: Path, what counters answer, what history answers.
ENDPOINTS = [
    pytest.param(f"{PATH}/action/gold", CountedGroup(GROUP, 3), GROUP, id="group"),
    pytest.param(f"{TREND_PATH}?days=3", CountedTrend(TREND, 3), TREND, id="trend"),
]


def row(impression: int, click: int, total: int, ctr: float, neutral: int) -> str:
    return (
        '{"id":"gold","name":"Gold card","issue":null,"group":null,"status":null,"priority":null,'
        f'"impression":{impression},"click":{click},"dismiss":0,"accept":0,"convert":0,'
        f'"total":{total},"ctr":{ctr},"cvr":0.0,"positive":{click},"negative":0,'
        f'"neutral":{neutral}}}'
    )


@pytest.mark.parametrize("source", ["materialized", "history"])
def test_the_body_of_a_group_to_the_byte_from_either_store(source: str) -> None:
    counters = CountedGroup(GROUP, 3) if source == "materialized" else Incomplete("rolling")
    with client_of(Store(counters), Store(GROUP)) as client:
        response = client.get(f"{PATH}/action/gold")
    assert response.headers["x-summary-source"] == source
    assert response.text == (
        '{"groupBy":"action","id":"gold","periods":{'
        f'"daily":{{"windowStart":"2026-11-24","row":{row(0, 0, 0, 0.0, 0)}}},'
        f'"weekly":{{"windowStart":"2026-11-18","row":{row(3, 1, 4, 33.33, 2)}}},'
        f'"monthly":{{"windowStart":"2026-10-25","row":{row(3, 1, 4, 33.33, 2)}}},'
        f'"alltime":{{"windowStart":null,"row":{row(8, 1, 10, 12.5, 7)}}}}}}}'
    )


@pytest.mark.parametrize("source", ["materialized", "history"])
def test_the_body_of_a_trend_to_the_byte_from_either_store(source: str) -> None:
    counters = CountedTrend(TREND, 3) if source == "materialized" else Incomplete("rolling")
    with client_of(Store(counters), Store(TREND)) as client:
        response = client.get(f"{TREND_PATH}?days=2&compare=previous")
    assert response.headers["x-summary-source"] == source
    assert response.headers["x-summary-window-start"] == "2026-11-23"
    empty = '"impression":0,"click":0,"dismiss":0,"accept":0,"convert":0'
    assert response.text == (
        '{"groupBy":"action","id":null,"days":2,"points":['
        f'{{"date":"2026-11-23",{empty},"total":0,"ctr":0.0,"cvr":0.0}},'
        '{"date":"2026-11-24","impression":4,"click":0,"dismiss":0,"accept":0,"convert":1,'
        '"total":5,"ctr":0.0,"cvr":25.0}],"previous":['
        f'{{"date":"2026-11-21",{empty},"total":0,"ctr":0.0,"cvr":0.0}},'
        f'{{"date":"2026-11-22",{empty},"total":2,"ctr":0.0,"cvr":0.0}}]}}'
    )


@pytest.mark.parametrize(
    ("query", "group_by", "id_", "first", "source"),
    [
        ("", "action", None, TODAY - 29, "materialized"),
        ("days=31&id=x", "action", "x", TODAY - 30, "materialized"),
        ("days=15&compare=previous", "action", None, TODAY - 29, "materialized"),
        ("days=16&compare=previous", "action", None, TODAY - 31, "history"),
        ("days=32", "action", None, TODAY - 31, "history"),
        ("days=3650&compare=previous", "action", None, TODAY - 7_299, "history"),
        ("days=1&groupBy=treatment", "treatment", None, TODAY, "materialized"),
        ("days=1&groupBy=channel", "channel", None, TODAY, "materialized"),
        # all interactions have a customer and an action
        ("days=1&groupBy=customer", "action", None, TODAY, "materialized"),
        ("days=1&groupBy=customer&id=C-1", "customer", "C-1", TODAY, "materialized"),
    ],
)
def test_the_question_about_a_trend_and_who_answers_it(
    query: str, group_by: Any, id_: str | None, first: int, source: str
) -> None:
    counters, history = Store(CountedTrend({}, 3)), Store({})
    with client_of(counters, history) as client:
        response = client.get(f"{TREND_PATH}?{query}")
    assert response.status_code == 200
    assert response.headers["x-summary-source"] == source
    asked, other = (counters, history) if source == "materialized" else (history, counters)
    question = TrendQuestion("acme", group_by, id_, Window(first, TODAY), TODAY, "UTC")
    assert asked.questions == [question]
    assert other.questions == []


@pytest.mark.parametrize(("path", "counted", "stored"), ENDPOINTS)
@pytest.mark.parametrize(
    "trouble",
    [Incomplete("pending"), StoreUnavailable("Redis: gone"), TimeoutError(), ValueError("a bug")],
    ids=repr,
)
def test_history_answers_the_same_question(
    path: str, counted: Any, stored: Any, trouble: Any
) -> None:
    counters, history = Store(trouble), Store(stored)
    with client_of(counters, history) as client:
        response = client.get(path)
    assert response.status_code == 200
    assert response.headers["x-summary-source"] == "history"
    assert counters.questions == history.questions
    with client_of(Store(counted)) as client:
        assert client.get(path).content == response.content


@pytest.mark.parametrize(("path", "counted", "stored"), ENDPOINTS)
def test_the_breaker_is_that_of_all_endpoints(path: str, counted: Any, stored: Any) -> None:
    counters, history = Store(StoreUnavailable("Redis: gone")), Store(Page([], 0), stored)
    with client_of(counters, history, breaker_failures=1, breaker_open_s=3_600) as client:
        assert client.get(PATH).headers["x-summary-source"] == "history"
        assert client.get(path).headers["x-summary-source"] == "history"
    assert len(counters.questions) == 1


@pytest.mark.parametrize(("path", "counted", "stored"), ENDPOINTS)
def test_both_stores_down(path: str, counted: Any, stored: Any) -> None:
    down = StoreUnavailable("gone")
    with client_of(Store(down), Store(down)) as client:
        response = client.get(path)
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "SERVICE_UNAVAILABLE"
    assert int(response.headers["retry-after"]) >= 1


@pytest.mark.parametrize("source", ["materialized", "history"])
@pytest.mark.parametrize("path", [f"{PATH}/customer/C-1", f"{TREND_PATH}?groupBy=customer&id=C-1"])
def test_a_group_without_any_interaction_is_a_404(source: str, path: str) -> None:
    counted = CountedGroup(None, 3) if "trend" not in path else CountedTrend(None, 3)
    counters = Store(counted if source == "materialized" else Incomplete("rolling"))
    with client_of(counters, Store(None)) as client:
        response = client.get(path)
    assert response.status_code == 404
    error = response.json()["error"]
    assert list(error) == ["code", "message", "status", "requestId"]
    assert error["code"] == "NOT_FOUND"
    assert error["message"] == "there never was an interaction of this customer; check id"
    assert error["requestId"] == response.headers["x-request-id"]


@pytest.mark.parametrize(("path", "counted", "stored"), ENDPOINTS)
def test_the_headers_of_an_answer(path: str, counted: Any, stored: Any) -> None:
    async def lag() -> int:
        return 12

    with client_of(Store(counted._replace(pending=5)), lag=lag) as client:
        response = client.get(path)
        while "x-summary-lag" not in response.headers:  # the lag is refreshed in the background
            response = client.get(path)
        head = client.head(path)
        again = client.get(path, headers={"If-None-Match": response.headers["etag"]})
    headers = dict(response.headers)
    assert headers.pop("etag").startswith('"')
    assert len(headers.pop("x-request-id")) == 32
    if "trend" in path:
        assert headers.pop("x-summary-window-start") == "2026-11-22"
    assert headers == {
        "content-type": "application/json",
        "content-length": str(len(response.content)),
        "cache-control": "private, no-cache",
        "x-content-type-options": "nosniff",
        "x-summary-source": "materialized",
        "x-summary-lag": "17",
        "x-summary-timezone": "UTC",
    }
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["etag"] == response.headers["etag"]
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (f"{PATH}/offer/gold", "groupBy must be one of"),
        (f"{PATH}/trend/gold", "groupBy must be one of"),
        (f"{PATH}/action/", "id must be 1 to 128 characters"),
        (f"{PATH}/action/{'x' * 129}", "id must be 1 to 128 characters"),
        (f"{PATH}/action/%FF", "id must be 1 to 128 characters"),
        (f"{PATH}/action/gold?days=7", "unknown parameter 'days'; none is allowed here"),
        (f"{TREND_PATH}?id=", "id must be 1 to 128 characters"),
        (f"{TREND_PATH}?limit=1", "unknown parameter 'limit'; allowed are groupBy, id, days"),
    ],
)
def test_bad_input_is_a_400_that_names_it(path: str, message: str) -> None:
    counters = Store(AssertionError("counters were read"))
    with client_of(counters) as client:
        response = client.get(path)
    assert response.status_code == 400
    assert response.json()["error"]["message"].startswith(message)
    assert counters.questions == []


@pytest.mark.parametrize("id_", ["a/b", "é", "%2F", "?", "#", " ", "trend", "%00", "a\nb", "a\n"])
def test_any_id_reaches_the_stores_as_it_is(id_: str) -> None:
    counters = Store(CountedGroup(GROUP, 3))
    encoded = "".join(f"%{byte:02X}" for byte in id_.encode())
    with client_of(counters) as client:
        assert client.get(f"{PATH}/action/{encoded}").status_code == 200
    assert counters.questions == [GroupQuestion("acme", "action", id_, TODAY, "UTC")]


def test_there_is_nothing_at_a_grouping_without_an_id() -> None:
    with client_of(Store(AssertionError("read"))) as client:
        assert client.get(f"{PATH}/action").status_code == 404
        refused = client.post(f"{PATH}/action/gold")
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")


def test_a_newer_time_zone_makes_it_another_question() -> None:
    newer = Catalog("acme", timezone="Pacific/Kiritimati", version=4)  # a day ahead
    counters = Store(CountedGroup(GROUP, 4))
    with client_of(counters, catalogs=Catalogs(NAMES, newer)) as client:
        response = client.get(f"{PATH}/action/gold")
    assert [q.today for q in counters.questions] == [TODAY, TODAY + 1]
    assert response.json()["periods"]["daily"]["windowStart"] == "2026-11-25"


def test_the_id_of_a_group_is_not_in_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    from structlog.testing import capture_logs

    with capture_logs() as logs, client_of(Store(CountedGroup(GROUP, 3))) as client:
        client.get(f"{PATH}/customer/Ada%20Lovelace%2F1")
        client.get(f"{PATH}/other/Ada%20Lovelace")
        client.get(TREND_PATH)
    paths = [entry["path"] for entry in logs if entry["event"] == "request"]
    assert paths[0] == f"{PATH}/customer/{{id}}"
    assert paths[1] == f"{PATH}/other/{{id}}"
    assert "Lovelace" not in repr(logs)


def test_the_metrics_have_the_templates_of_the_paths() -> None:
    with client_of(Store(CountedGroup(GROUP, 3))) as client:
        client.get(f"{PATH}/action/gold")
        assert f'route="{GROUP_PATH}"' in client.get("/metrics").text


# --- the list in another order, and as CSV


def test_a_list_in_another_order_asks_for_all_groups() -> None:
    groups = [
        GroupCounts("b", {"impression": 10, "click": 1}),
        GroupCounts("a", {"impression": 4, "click": 2}),
        GroupCounts("c", {"dismiss": 3}),
    ]
    counters = Store(CounterPage(Page(groups, 3), 3))
    with client_of(counters) as client:
        body = client.get(f"{PATH}?sort=ctr&limit=1&offset=1").json()
    (question,) = counters.questions
    assert (question.limit, question.offset) == (1_000, 0)
    assert [shown["id"] for shown in body["summary"]] == ["b"]
    assert (body["total"], body["limit"], body["offset"]) == (3, 1, 1)


def test_too_many_groups_to_sort_are_a_400_from_either_store() -> None:
    page = Page([GroupCounts("a", {"click": 1})], 1_001)
    messages = []
    for counters in (Store(CounterPage(page, 3)), Store(Incomplete("rolling"))):
        with client_of(counters, Store(page)) as client:
            response = client.get(f"{PATH}?sort=cvr")
        assert response.status_code == 400
        messages.append(response.json()["error"]["message"])
    assert messages[0] == messages[1]
    assert messages[0].startswith("sort=cvr needs all groups of the window, at most 1000")


def test_each_representation_of_a_list_has_its_entity_tag() -> None:
    page = Page([GroupCounts("gold", {"impression": 8, "click": 1})], 1)
    with client_of(Store(CounterPage(page, 3))) as client:
        json, csv = (client.get(PATH, headers={"Accept": a}) for a in ("*/*", "text/csv"))
        tag = {"Accept": "text/csv", "If-None-Match": csv.headers["etag"]}
        same = client.get(PATH, headers=tag)
        other = client.get(PATH, headers={"If-None-Match": csv.headers["etag"]})
    assert csv.headers["content-type"] == "text/csv; charset=utf-8"
    assert csv.text == (
        "id,name,issue,group,status,priority,impression,click,dismiss,accept,convert,total,ctr,cvr,"
        "positive,negative,neutral\r\ngold,Gold card,,,,,8,1,0,0,0,9,12.5,0.0,1,0,7\r\n"
    )
    assert json.headers["etag"] != csv.headers["etag"]
    assert {r.headers["vary"] for r in (json, csv, same, other)} == {"Accept"}
    assert (same.status_code, same.content) == (304, b"")
    assert other.status_code == 200


def test_reads_of_history_share_their_limit() -> None:
    """A trend that waits for history takes the place of a list."""

    async def go() -> None:
        asked, go_on = asyncio.Event(), asyncio.Event()

        class Waiting(Store):
            async def read_trend(self, question: Any) -> Any:
                asked.set()
                await go_on.wait()
                return {}

        from httpx import ASGITransport, AsyncClient

        app = create_app(
            Settings(auth_mode="open", fallback_concurrency=1),
            counters=Store(Incomplete("rolling")),
            history=Waiting(Page([], 0)),
            catalogs=Catalogs(NAMES),
            now_ms=lambda: NOW_MS,
        )
        async with AsyncClient(transport=ASGITransport(app), base_url="http://127.0.0.1") as client:
            trend = asyncio.create_task(client.get(TREND_PATH))
            await asked.wait()
            refused = await client.get(PATH)
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            go_on.set()
            assert (await trend).status_code == 200
            assert (await client.get(PATH)).status_code == 200

    asyncio.run(go())
