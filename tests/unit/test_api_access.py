"""Access: keys, roles, tenants, rate limits, and what open mode lets in. Stores are small fakes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from limits.aio.storage import MemoryStorage
from psycopg.errors import InsufficientPrivilege

from api.access import Admin, Editor, KeyGate, Viewer
from api.app import build, create_app
from api.errors import CODES
from api.hosts import is_loopback_authority, is_loopback_origin
from api.key_checker import (
    LOAD_TIMEOUT_S,
    REFRESH_S,
    UNKNOWN_REFRESH_S,
    UNKNOWN_WAITERS_MAX,
    KeyChecker,
)
from api.rate_limit import BREAKER_FAILURES, TIMEOUT_S, RateLimiter
from store.api_keys import ApiKey, Role, hash_key, make_key
from store.records import (
    Catalog,
    CountedGroup,
    CountedTrend,
    CounterPage,
    GroupQuestion,
    Page,
    Question,
    StoreUnavailable,
    TrendQuestion,
)
from store.redis.rate_counts import make_rate_counts
from store.settings import Settings
from tests.support.waiting import eventually_async

PATH = "/api/v1/interaction-summary"
PEPPER, OLDER = "p" * 64, "o" * 64


class Keys:
    """Table of keys, as PostgreSQL has it."""

    def __init__(self) -> None:
        self.stored: dict[str, ApiKey] = {}
        self.version = 0
        self.loads = 0
        self.broken = False
        self.rehashed: list[str] = []

    def add(
        self, tenant: str, role: Role = "viewer", *, limit: int | None = None, pepper: str = PEPPER
    ) -> str:
        key = make_key()
        self.version += 1
        self.stored[key] = ApiKey(f"id-{self.version}", tenant, role, hash_key(key, pepper), limit)
        return key

    def revoke(self, key: str) -> None:
        del self.stored[key]
        self.version += 1

    async def load(self, known_version: int) -> tuple[int, tuple[ApiKey, ...]] | None:
        self.loads += 1
        if self.broken:
            raise StoreUnavailable("Postgres: connection to 10.0.0.7 as user admin failed")
        if known_version == self.version:
            return None
        return self.version, tuple(self.stored.values())

    async def rehash(self, stored: ApiKey, key: str) -> None:
        self.rehashed.append(key)
        self.version += 1
        self.stored[key] = stored._replace(key_hash=hash_key(key, PEPPER))


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        await asyncio.sleep(0)


class Counters:
    """Counters that record which tenants were asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def read(self, question: Question) -> CounterPage:
        self.asked.append(question.tenant)
        return CounterPage(Page([], 0), 0)

    async def read_group(self, question: GroupQuestion) -> CountedGroup:
        self.asked.append(question.tenant)
        return CountedGroup(None, 0)

    async def read_trend(self, question: TrendQuestion) -> CountedTrend:
        self.asked.append(question.tenant)
        return CountedTrend({}, 0)


class Catalogs:
    async def get(self, tenant: str, *, at_least_version: int = 0) -> Catalog:
        return Catalog(tenant)

    async def fresh(self, tenant: str) -> Catalog:
        return Catalog(tenant)


class BrokenCounts:
    """Counts of a Redis that does not answer."""

    def __init__(self) -> None:
        self.calls = 0

    async def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        self.calls += 1
        raise ConnectionError("gone")


class Scene:
    """An API with AUTH_MODE=keys on fakes, and a client of it."""

    def __init__(self, *, shared: Any = None, limit: int = 0, previous: str = "") -> None:
        self.keys, self.clock, self.counters = Keys(), Clock(), Counters()
        self.checker = KeyChecker(
            self.keys,
            pepper=PEPPER,
            previous_pepper=previous,
            stale_max_s=60,
            monotonic=self.clock,
            sleep=self.clock.sleep,
        )
        limiter = RateLimiter(
            shared or MemoryStorage(), MemoryStorage(), now_s=self.clock, monotonic=self.clock
        )
        gate = KeyGate(self.checker, limiter, default_limit_per_minute=limit)
        self.app = create_app(
            Settings(api_key_pepper=PEPPER),
            counters=self.counters,
            history=self.counters,  # type: ignore[arg-type]
            catalogs=Catalogs(),
            now_ms=lambda: 0,
            gate=gate,
        )

        @self.app.get("/needs/viewer")
        async def viewer(caller: Viewer) -> str:
            return caller.role

        @self.app.get("/needs/editor")
        async def editor(caller: Editor) -> str:
            return caller.role

        @self.app.get("/needs/admin")
        async def admin(caller: Admin) -> str:
            return caller.role

    @contextmanager
    def client(self) -> Iterator[TestClient]:
        with TestClient(self.app, base_url="http://api.bank.example") as client:
            yield client


async def until(condition: Callable[[], bool]) -> None:
    async def met() -> bool:
        return condition()

    await eventually_async(met)


def status_of(client: TestClient, key: str, path: str = PATH, **headers: str) -> int:
    response = client.get(path, headers={"X-API-Key": key, **headers})
    if response.status_code >= 400:
        assert list(response.json()) == ["error"]
        assert key[8:] not in response.text
    status: int = response.status_code
    return status


def test_a_key_decides_the_tenant_in_either_header() -> None:
    scene = Scene()
    key = scene.keys.add("acme")
    with scene.client() as client:
        assert status_of(client, key) == 200
        bearer = client.get(PATH, headers={"Authorization": f"Bearer {key}"})
        assert bearer.status_code == 200
        both = {"Authorization": f"bearer {key}", "X-API-Key": key, "X-Tenant-Id": "acme"}
        assert client.get(PATH, headers=both).status_code == 200
    assert set(scene.counters.asked) == {"acme"}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-API-Key": ""},
        {"X-API-Key": "krn_" + "a" * 32},
        {"X-API-Key": "x" * 5_000},
        {"Authorization": "Basic YTpi"},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer krn_" + "a" * 32},
        {"X-Tenant-Id": "acme"},
    ],
)
def test_without_a_valid_key_it_is_a_401_on_every_endpoint_of_data(headers: dict[str, str]) -> None:
    scene = Scene()
    scene.keys.add("acme")
    with scene.client() as client:
        for path in (PATH, f"{PATH}?days=wrong", "/needs/viewer", "/needs/admin"):
            response = client.get(path, headers=headers)
            assert response.status_code == 401, path
            assert response.headers["www-authenticate"] == "Bearer"
            assert response.json()["error"]["code"] == "UNAUTHORIZED"
        assert client.get("/healthz").status_code == 200
        assert client.get("/readyz").json() == {"status": "ok"}  # no details without a key
    assert scene.counters.asked == []


def test_two_different_keys_are_refused() -> None:
    scene = Scene()
    one, two = scene.keys.add("acme"), scene.keys.add("other")
    with scene.client() as client:
        assert status_of(client, one, Authorization=f"Bearer {two}") == 401
        response = client.get(PATH, headers=[("X-API-Key", one), ("X-API-Key", two)])
        assert response.status_code == 401


def test_another_tenant_than_the_keys_is_a_403() -> None:
    scene = Scene()
    key = scene.keys.add("acme", "admin")
    with scene.client() as client:
        assert status_of(client, key, **{"X-Tenant-Id": "other"}) == 403
        assert status_of(client, key, **{"X-Tenant-Id": "ACME"}) == 403
        assert status_of(client, key, **{"X-Tenant-Id": "a b"}) == 400
    assert scene.counters.asked == []


@pytest.mark.parametrize("role", ["viewer", "editor", "admin"])
def test_a_role_has_the_rights_of_the_ones_before_it(role: Role) -> None:
    scene = Scene()
    roles: list[Role] = ["viewer", "editor", "admin"]
    key = scene.keys.add("acme", role)
    with scene.client() as client:
        granted = {needed: status_of(client, key, f"/needs/{needed}") for needed in roles}
    rank = roles.index(role)
    assert granted == {r: 200 if roles.index(r) <= rank else 403 for r in roles}


def test_a_new_key_works_and_a_revoked_one_is_refused_after_the_next_refresh() -> None:
    scene = Scene()
    old = scene.keys.add("acme")

    async def scenario() -> None:
        assert await scene.checker.check(old) is not None
        scene.keys.revoke(old)
        new = scene.keys.add("acme")
        # A known key costs no query; an unknown one waits for a refresh.
        loads = scene.keys.loads
        assert await scene.checker.check(old) is not None
        assert scene.keys.loads == loads
        assert await scene.checker.check(new) is not None
        assert await scene.checker.check(old) is None

    asyncio.run(scenario())


def test_invalid_keys_cost_few_queries_and_wait_in_bounded_number() -> None:
    scene = Scene()

    async def scenario() -> None:
        began_s = scene.clock.now_s
        for _ in range(20):  # one after the other
            assert await scene.checker.check(make_key()) is None
        assert scene.keys.loads <= (scene.clock.now_s - began_s) / UNKNOWN_REFRESH_S + 2
        go = asyncio.Event()

        async def sleep(seconds: float) -> None:
            await go.wait()

        scene.checker._sleep = sleep
        loads = scene.keys.loads
        waiting = [
            asyncio.create_task(scene.checker.check(make_key())) for _ in range(UNKNOWN_WAITERS_MAX)
        ]
        await until(lambda: scene.checker._waiters == UNKNOWN_WAITERS_MAX)
        assert await scene.checker.check(make_key()) is None  # at once
        scene.clock.now_s += 1
        go.set()
        assert await asyncio.gather(*waiting) == [None] * UNKNOWN_WAITERS_MAX
        assert scene.keys.loads == loads + 1

    asyncio.run(scenario())


def test_a_revoked_key_is_refused_within_one_refresh_of_the_background_task() -> None:
    scene = Scene()
    key = scene.keys.add("acme")

    async def scenario() -> None:
        slept: list[float] = []
        turn = asyncio.Event()

        async def sleep(seconds: float) -> None:
            if seconds < REFRESH_S:
                return  # of a request with an unknown key
            slept.append(seconds)
            await turn.wait()
            turn.clear()

        scene.checker._sleep = sleep
        running = asyncio.create_task(scene.checker.run())
        await until(lambda: bool(slept))
        assert await scene.checker.check(key) is not None
        scene.keys.revoke(key)
        turn.set()
        await until(lambda: len(slept) == 2)
        assert await scene.checker.check(key) is None
        assert set(slept) == {REFRESH_S}
        running.cancel()

    asyncio.run(scenario())


def test_loads_begin_at_most_4_s_apart_also_after_one_that_was_not_answered() -> None:
    """So a key revoked just after one began is refused within 5 s, even if the next is lost."""
    scene = Scene()
    began_s: list[float] = []

    async def load(known_version: int) -> None:
        began_s.append(scene.clock.now_s)
        if len(began_s) == 2:
            scene.clock.now_s += LOAD_TIMEOUT_S
            raise StoreUnavailable("Postgres: no answer in time")

    scene.keys.load = load  # type: ignore[method-assign]

    async def scenario() -> None:
        running = asyncio.create_task(scene.checker.run())
        await until(lambda: len(began_s) > 2)
        running.cancel()

    asyncio.run(scenario())
    assert began_s[2] - began_s[0] == REFRESH_S + LOAD_TIMEOUT_S < 5


@pytest.mark.parametrize("rounds", [1, 2])
def test_a_pepper_is_replaced_in_two_rounds_of_restarts(rounds: int) -> None:
    """As docs/operations.md says; in one round, processes refuse the keys that others rehashed."""
    table = Keys()
    key = table.add("acme", pepper=OLDER)

    def process(pepper: str, previous: str) -> KeyChecker:
        async def rehash(stored: ApiKey, key: str) -> None:
            if table.stored[key].key_hash == stored.key_hash:
                table.stored[key] = stored._replace(key_hash=hash_key(key, pepper))
                table.version += 1

        source = Keys()
        source.load, source.rehash = table.load, rehash  # type: ignore[method-assign]
        return KeyChecker(
            source, pepper=pepper, previous_pepper=previous, stale_max_s=60, monotonic=Clock()
        )

    async def accepted(*processes: KeyChecker) -> list[bool]:
        found = []
        for checker in processes:
            await checker.refresh()
            found.append(await checker.check(key) is not None)
            await checker._rehash()
        return found

    async def scenario() -> None:
        old = process(OLDER, PEPPER if rounds == 2 else "")
        if rounds == 2:
            assert await accepted(process(OLDER, ""), old) == [True, True]
        new = process(PEPPER, OLDER)
        assert await accepted(new, old, new, old) == [True, rounds == 2] * 2
        assert await accepted(new, process(PEPPER, "")) == [True, True]

    asyncio.run(scenario())


@pytest.mark.parametrize("trouble", ["waits for a lock", "is not allowed"])
def test_a_key_that_cannot_be_hashed_again_does_not_delay_the_notice_of_revoked_ones(
    trouble: str,
) -> None:
    scene = Scene(previous=OLDER)
    old, revoked = scene.keys.add("acme", pepper=OLDER), scene.keys.add("acme")
    tried: list[str] = []

    async def rehash(stored: ApiKey, key: str) -> None:
        tried.append(key)
        if trouble == "is not allowed":
            raise InsufficientPrivilege("permission denied for table api_keys")
        await asyncio.Event().wait()

    scene.keys.rehash = rehash  # type: ignore[method-assign]

    async def scenario() -> None:
        assert await scene.checker.check(old) is not None
        running = asyncio.create_task(scene.checker.run())
        await until(lambda: bool(tried))
        scene.keys.revoke(revoked)
        loads = scene.keys.loads
        await until(lambda: scene.keys.loads > loads + 1)
        assert scene.checker._find(revoked) is None
        assert await scene.checker.check(old) is not None
        running.cancel()
        await asyncio.wait([running])
        assert scene.checker._rehashing is not None
        await asyncio.wait([scene.checker._rehashing])

    asyncio.run(scenario())


def test_known_keys_are_accepted_without_postgres_for_a_bounded_time() -> None:
    scene = Scene()
    key = scene.keys.add("acme")
    with scene.client() as client:
        assert status_of(client, key) == 200
        scene.keys.broken = True
        scene.clock.now_s += 59
        assert status_of(client, key) == 200
        scene.clock.now_s += 2
        response = client.get(PATH, headers={"X-API-Key": key})
        assert response.status_code == 503
        assert response.headers["retry-after"] == "2"
        assert "10.0.0.7" not in response.text
        scene.keys.broken = False
        assert status_of(client, make_key()) == 401  # refreshes
        assert status_of(client, key) == 200


def test_a_key_of_the_previous_pepper_works_and_is_hashed_again() -> None:
    scene = Scene(previous=OLDER)
    old, new = scene.keys.add("acme", pepper=OLDER), scene.keys.add("acme")

    async def scenario() -> None:
        assert await scene.checker.check(old) is not None
        assert await scene.checker.check(new) is not None
        running = asyncio.create_task(scene.checker.run())
        await until(lambda: bool(scene.keys.rehashed))
        running.cancel()
        # The same table, read by a process that knows the current pepper only.
        current = KeyChecker(
            scene.keys, pepper=PEPPER, previous_pepper="", stale_max_s=60, monotonic=scene.clock
        )
        assert await current.check(old) is not None

    asyncio.run(scenario())
    assert scene.keys.rehashed == [old]
    without = Scene()
    key = without.keys.add("acme", pepper=OLDER)
    with without.client() as client:
        assert status_of(client, key) == 401


# --- rate limit


@pytest.mark.parametrize("shared", [None, "broken"])
def test_requests_over_the_limit_are_refused_until_the_next_minute(shared: str | None) -> None:
    counts = BrokenCounts() if shared else None
    scene = Scene(shared=counts, limit=3)
    key, own, other = (scene.keys.add("acme", limit=limit) for limit in (None, 1, None))
    scene.clock.now_s = 6_000 * 60 + 18.5
    with scene.client() as client:
        answers = [client.get(PATH, headers={"X-API-Key": key}) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
        assert [answer.headers["ratelimit-remaining"] for answer in answers] == list("2100")
        refused = answers[-1]
        assert refused.json()["error"]["code"] == "TOO_MANY_REQUESTS"
        assert refused.headers["retry-after"] == refused.headers["ratelimit-reset"] == "42"
        assert refused.headers["ratelimit-limit"] == "3"
        assert status_of(client, other) == 200
        assert [status_of(client, own) for _ in range(2)] == [200, 429]
        scene.clock.now_s += 42
        assert status_of(client, key) == 200
    if counts:
        # The circuit breaker: a Redis that does not answer costs a few requests, not each one.
        assert counts.calls == BREAKER_FAILURES + 1


@pytest.mark.parametrize("cluster", [False, True])
def test_timeouts_in_the_address_of_redis_are_no_obstacle(cluster: bool) -> None:
    url = "redis://127.0.0.1:1/0?socket_timeout=2&socket_connect_timeout=2"
    make_rate_counts(Settings(redis_url=url, redis_cluster=cluster), timeout_s=TIMEOUT_S)


def test_without_a_limit_nothing_is_counted() -> None:
    counts = BrokenCounts()
    scene = Scene(shared=counts, limit=0)
    key = scene.keys.add("acme")
    with scene.client() as client:
        response = client.get(PATH, headers={"X-API-Key": key})
    assert "ratelimit-limit" not in response.headers
    assert counts.calls == 0


# --- open mode


def open_client(host: str = "127.0.0.1:8000") -> TestClient:
    app = create_app(
        Settings(auth_mode="open"),
        counters=Counters(),
        history=Counters(),  # type: ignore[arg-type]
        catalogs=Catalogs(),
        now_ms=lambda: 0,
    )
    return TestClient(app, base_url="http://127.0.0.1", headers={"Host": host})


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.0.0.1:8000", "localhost:1", "LocalHost", "[::1]:8000", "127.8.9.1"],
)
def test_open_mode_answers_requests_to_a_loopback_name(host: str) -> None:
    with open_client(host) as client:
        assert client.get(PATH).status_code == 200
        assert client.get(PATH, headers={"Origin": "http://localhost:3000"}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil.example",
        "10.0.0.1", "", "localhost:8000@evil.example", "evil.example#localhost", "[::2]", "1.0.0.0",
    ],
)  # fmt: skip
def test_open_mode_answers_no_page_that_was_rebound_to_this_machine(host: str) -> None:
    with open_client(host) as client:
        for path in (PATH, "/healthz", "/docs", "/nowhere", "/metrics", "/", "/page/main.js"):
            response = client.get(path)
            assert response.status_code == 421, path
            assert response.json()["error"]["code"] == "MISDIRECTED_REQUEST"


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1.evil.example"])
def test_open_mode_refuses_requests_of_other_sites(origin: str) -> None:
    with open_client() as client:
        assert client.get(PATH, headers={"Origin": origin}).status_code == 403
        assert client.post("/api/v1/keys", headers={"Origin": origin}).status_code == 403


def test_with_keys_any_host_is_answered() -> None:
    scene = Scene()
    key = scene.keys.add("acme")
    with scene.client() as client:
        assert status_of(client, key, Origin="https://dashboard.bank.example") == 200


@given(st.text(max_size=40))
def test_no_text_but_a_loopback_name_is_one(text: str) -> None:
    name = text.rpartition(":")[0] if ":" in text and not text.endswith("]") else text
    if is_loopback_authority(text):
        assert name.lower() in ("localhost", "[::1]") or name.startswith(("127.", "["))
    assert not is_loopback_authority(f"{text}.example")
    assert not is_loopback_origin(f"http://{text}.example")


# --- HEAD


def test_head_answers_as_get_without_a_body() -> None:
    scene = Scene()
    key = scene.keys.add("acme")
    with scene.client() as client:
        for path, headers in [
            (PATH, {"X-API-Key": key}),
            (PATH, {}),
            (f"{PATH}?days=0", {"X-API-Key": key}),
            ("/healthz", {}),
            ("/nowhere", {}),
            ("/docs", {}),
            ("/", {}),
            ("/openapi.json", {}),
        ]:
            answer, head = (client.request(m, path, headers=headers) for m in ("GET", "HEAD"))
            assert head.status_code == answer.status_code
            assert head.content == b""
            for name in answer.headers:
                if name != "x-request-id":
                    assert head.headers[name] == answer.headers[name], (path, name)


# --- every route


def test_every_route_answers_every_method_with_json_of_the_one_shape_or_its_own() -> None:
    """Without a key, with an unknown one, and with stores that do not answer."""
    app = build(
        Settings(
            api_key_pepper=PEPPER,
            redis_url="redis://127.0.0.1:1/0",
            database_url="postgresql://127.0.0.1:1/none",
        )
    )
    described_paths = app.openapi()["paths"].items()
    document = {path.replace("{key_id}", "x"): methods for path, methods in described_paths}
    paths = set(document)
    assert {PATH, "/api/v1/keys/x", "/metrics"} <= paths
    paths |= {"/docs", "/docs/swagger-ui.css", "/openapi.json", "/nowhere", "/", "/page/main.js"}
    client = TestClient(app, base_url="http://api.bank.example")
    for path, method, key in product(
        sorted(paths),
        ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"),
        (None, make_key()),
    ):
        headers = {"X-API-Key": key} if key else {}
        response = client.request(method, path, headers=headers)
        if response.status_code < 400:
            assert path in ("/", "/healthz", "/readyz", "/metrics") or path.startswith(
                ("/docs", "/open", "/page/")
            )
            continue
        assert response.headers["content-type"] == "application/json", (method, path)
        if method == "HEAD":
            assert response.content == b""
            continue
        error = response.json()["error"]
        assert list(error) == ["code", "message", "status", "requestId"]
        assert error["code"] == CODES[response.status_code] == CODES[error["status"]]
        assert error["requestId"] == response.headers["x-request-id"]
        assert response.status_code in (401, 404, 405, 503), (method, path)
        if response.status_code == 405:
            allowed = set(response.headers["allow"].split(", "))
            described = {m.upper() for m in document.get(path, {"get": None})}
            assert allowed == described | ({"HEAD"} if "GET" in described else set())
            assert method not in allowed
        if path.startswith("/api/"):
            assert response.status_code in ((401, 405) if not key else (401, 405, 503))


def test_only_statuses_with_the_one_shape_are_described() -> None:
    document = build(Settings(auth_mode="open")).openapi()
    for path, operations in document["paths"].items():
        for operation in operations.values():
            described = {int(status) for status in operation["responses"]}
            assert described - {200, 201, 304} <= set(CODES), path
    assert "HTTPValidationError" not in document["components"]["schemas"]


def test_the_docs_page_loads_nothing_from_another_host() -> None:
    with open_client() as client:
        page = client.get("/docs")
        assert page.headers["content-type"].startswith("text/html")
        assert "default-src 'none'" in page.headers["content-security-policy"]
        loaded = re.findall(r"""(?:src|href|url)[=:] ?["']([^"']+)["']""", page.text)
        assert {"docs/swagger-ui-bundle.js", "docs/swagger-ui.css", "openapi.json"} <= set(loaded)
        for name in loaded:
            assert client.get(f"/{name}").status_code == 200, name
