"""Access on real stores: keys, administration, rate limits, and tenants that stay apart."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, contextmanager
from itertools import product
from typing import Any
from urllib.parse import quote

import httpx
import psycopg
import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from api import key_checker
from api.admin import CATALOG_PATH, CONCURRENCY, KEYS_PATH
from api.app import build
from api.workers import PATH as WORKERS_PATH
from store.api_keys import Role, is_key, pepper_id
from store.postgres.api_keys import create_key, list_keys, revoke_key
from store.postgres.pool import open_pool
from store.settings import Settings
from tests.support.contract import Writer
from tests.support.events import NOW_MS, TODAY, make_event, sourced
from tests.support.stores import Stores
from tests.support.waiting import eventually, eventually_async

PATH = "/api/v1/interaction-summary"
PEPPER = "p" * 64
#: Ids that would end a key, a hash tag, a string or a statement, if anything were put together.
HOSTILE_IDS = (
    "C-1", "}", "{acme/0}", "a:b", "is:{other/0}:1:g:a", "x'; DROP TABLE tenants; --", "a\nb",
    "a\rb", "\u202eabc", "a\u200bb", "\U0001f600" * 128, "é", "e\u0301", "%00", "..", "*", '"',
    "\\", "\x01",
)  # fmt: skip


@pytest.fixture
def stores(redis_url: str, database_url: str) -> Settings:
    return Settings(
        redis_url=redis_url,
        database_url=database_url,
        api_key_pepper=PEPPER,
        read_budget_ms=5_000,
        rate_limit_per_minute=0,
    )


def make_key(
    settings: Settings, tenant: str, role: Role = "viewer", limit: int | None = None
) -> str:
    async def make() -> str:
        async with open_pool(settings, max_size=1) as pool:
            _, key = await create_key(
                pool, tenant, role, name="test", pepper=PEPPER, rate_limit_per_minute=limit
            )
            return key

    return asyncio.run(make())


@contextmanager
def client_of(settings: Settings, **changes: Any) -> Iterator[TestClient]:
    app = build(settings.model_copy(update=changes), now_ms=lambda: NOW_MS)
    with TestClient(app, base_url="http://api.example") as client:
        yield client


def with_key(key: str, **headers: str) -> dict[str, str]:
    return {"X-API-Key": key, **headers}


def test_a_new_key_works_at_once_and_a_revoked_one_is_refused_within_seconds(
    stores: Settings,
) -> None:
    with client_of(stores) as client:
        admin = with_key(make_key(stores, "acme", "admin"))
        assert client.get(PATH, headers=admin).status_code == 200
        made = client.post(KEYS_PATH, headers=admin, json={"role": "viewer", "name": "page"})
        assert made.status_code == 201
        assert made.headers["cache-control"] == "no-store"
        new = made.json()
        assert is_key(new["key"])
        assert (new["tenant"], new["role"], new["name"]) == ("acme", "viewer", "page")

        def works() -> bool:
            answer = client.get(PATH, headers=with_key(new["key"]))
            return bool(answer.status_code == 200)

        eventually(works, timeout_s=5, message="the new key works")
        listed = client.get(KEYS_PATH, headers=admin).json()["keys"]
        assert [key["name"] for key in listed] == ["test", "page"]
        assert "key" not in listed[1]

        gone = client.delete(f"{KEYS_PATH}/{new['id']}", headers=admin)
        assert gone.status_code == 200
        assert gone.json()["revokedAt"]
        eventually(lambda: not works(), timeout_s=5, message="the revoked key is refused")


class FreezingProxy:
    """TCP proxy in front of PostgreSQL; the connections that it has can be frozen."""

    def __init__(self, database_url: str) -> None:
        self._target = conninfo_to_dict(database_url)
        self._frozen: asyncio.Event | None = None

    def freeze(self) -> None:
        """Pass nothing on any more, of the connections that are open now."""
        if self._frozen is not None:
            self._frozen.set()
        self._frozen = None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        """Yield the address of the database behind the proxy."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        try:
            yield make_conninfo(**{**self._target, "host": "127.0.0.1", "port": port})
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        frozen = self._frozen = self._frozen or asyncio.Event()
        host, port = str(self._target["host"]), int(self._target["port"] or 0)
        back, forth = await asyncio.open_connection(host, port)

        async def relay(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65_536):
                if not frozen.is_set():
                    sink.write(data)

        await asyncio.gather(relay(reader, forth), relay(back, writer), return_exceptions=True)
        for end in (writer, forth):
            end.close()


@pytest.mark.anyio
async def test_a_connection_that_stopped_answering_does_not_hide_a_revoked_key(
    stores: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a failover: the old server is gone without a word, a new one takes its address."""
    monkeypatch.setattr(key_checker, "LOAD_TIMEOUT_S", 0.2)
    monkeypatch.setattr(key_checker, "REFRESH_S", 0.1)
    proxy = FreezingProxy(stores.database_url)
    async with proxy.open() as address, open_pool(stores, max_size=1) as pool:
        listed, key = await create_key(pool, "acme", "viewer", name="", pepper=PEPPER)
        app = build(stores.model_copy(update={"database_url": address}))
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://api.example") as client,
        ):

            async def status() -> int:
                return (await client.get("/readyz", headers=with_key(key))).status_code

            assert await status() == 200
            proxy.freeze()
            await revoke_key(pool, listed.id)

            async def is_refused() -> bool:
                return await status() == 401

            await eventually_async(is_refused, timeout_s=5)


def test_roles_guard_keys_and_catalog(stores: Settings) -> None:
    document = {"offers": [{"id": "off_001", "name": "Gold card"}], "timezone": "Europe/Berlin"}
    keys = {role: make_key(stores, "acme", role) for role in ("viewer", "editor", "admin")}
    calls = {
        "catalog": ("GET", CATALOG_PATH, None),
        "import": ("POST", CATALOG_PATH, document),
        "keys": ("GET", KEYS_PATH, None),
        "create": ("POST", KEYS_PATH, {"role": "viewer"}),
        "revoke": ("DELETE", f"{KEYS_PATH}/00000000-0000-0000-0000-000000000000", None),
        "workers": ("GET", WORKERS_PATH, None),
    }
    with client_of(stores) as client:
        answers = {
            (role, name): client.request(method, path, headers=with_key(key), json=body).status_code
            for name, (method, path, body) in calls.items()
            for role, key in keys.items()
        }
        assert answers == {
            ("viewer", "catalog"): 404, ("editor", "catalog"): 404, ("admin", "catalog"): 404,
            ("viewer", "import"): 403, ("editor", "import"): 200, ("admin", "import"): 200,
            ("viewer", "keys"): 403, ("editor", "keys"): 403, ("admin", "keys"): 200,
            ("viewer", "create"): 403, ("editor", "create"): 403, ("admin", "create"): 201,
            ("viewer", "revoke"): 403, ("editor", "revoke"): 403, ("admin", "revoke"): 404,
            ("viewer", "workers"): 403, ("editor", "workers"): 403, ("admin", "workers"): 200,
        }  # fmt: skip
        viewer = with_key(keys["viewer"])
        exported = client.get(CATALOG_PATH, headers=viewer)
        assert exported.json()["tenant"] == "acme"
        assert exported.json()["offers"][0]["name"] == "Gold card"
        assert exported.json()["timezone"] == "Europe/Berlin"


BAD_BODIES: list[tuple[str, object, str]] = [
    (KEYS_PATH, {"role": "root"}, "role"),
    (KEYS_PATH, {}, "role"),
    (KEYS_PATH, {"role": "viewer", "tenant": "other"}, "tenant"),
    (KEYS_PATH, {"role": "viewer", "name": "x" * 101}, "name"),
    (KEYS_PATH, {"role": "viewer", "rateLimitPerMinute": 0}, "rateLimitPerMinute"),
    (KEYS_PATH, [], "object"),
    (CATALOG_PATH, {"timezone": "Mars"}, "timezone"),
    (CATALOG_PATH, {"offers": [{"id": ""}]}, "offers[0].id"),
    (CATALOG_PATH, {"surplus": 1}, "surplus"),
]


def test_a_bad_body_is_a_400_that_names_the_field(stores: Settings) -> None:
    admin = with_key(make_key(stores, "acme", "admin"))
    typed = {**admin, "Content-Type": "application/json"}
    with client_of(stores) as client:
        for path, body, words in BAD_BODIES:
            response = client.post(path, headers=admin, json=body)
            assert response.status_code == 400
            assert words in response.json()["error"]["message"]
        for path in (KEYS_PATH, CATALOG_PATH):
            for wrong in (b"{", b"\xff", b"", b'{"offers":' + b"[" * 50_000):
                assert client.post(path, headers=typed, content=wrong).status_code == 400
            plain = {**admin, "Content-Type": "text/plain"}
            response = client.post(path, headers=plain, content=b"{}")
            assert "application/json" in response.json()["error"]["message"]
            assert client.post(f"{path}?x=1", headers=admin, json={}).status_code == 400


def test_a_body_over_the_limit_is_a_413_also_where_its_length_is_not_said(stores: Settings) -> None:
    admin = {**with_key(make_key(stores, "acme", "admin")), "Content-Type": "application/json"}
    with client_of(stores) as client:
        big = client.post(KEYS_PATH, headers=admin, content=iter([b" " * 40_000] * 2))
        assert big.status_code == 413
        # A catalog may be larger.
        document = {"offers": [{"id": f"off_{i}", "name": "x" * 900} for i in range(200)]}
        content = json.dumps(document).encode()
        assert len(content) > 65_536
        fits = client.post(CATALOG_PATH, headers=admin, content=iter([content]))
        assert fits.status_code == 200
        assert fits.json()["parts"]["offers"] == {"added": 200, "changed": 0, "unchanged": 0}


def test_an_admin_of_one_tenant_reaches_nothing_of_another(stores: Settings) -> None:
    ours, theirs = (with_key(make_key(stores, t, "admin")) for t in ("acme", "other"))
    with client_of(stores) as client:
        assert client.post(CATALOG_PATH, headers=theirs, json={"offers": []}).status_code == 200
        (their_key,) = client.get(KEYS_PATH, headers=theirs).json()["keys"]
        assert client.delete(f"{KEYS_PATH}/{their_key['id']}", headers=ours).status_code == 404
        assert client.get(PATH, headers=theirs).status_code == 200
        named = {"tenant": "other", "offers": [{"id": "x"}]}
        assert client.post(CATALOG_PATH, headers=ours, json=named).status_code == 403
        assert client.get(CATALOG_PATH, headers=ours).status_code == 404
        assert client.get(CATALOG_PATH, headers=theirs).json()["offers"] == []
        for path in (PATH, KEYS_PATH, CATALOG_PATH, "/readyz"):
            headers = {**ours, "X-Tenant-Id": "other"}
            assert client.get(path, headers=headers).status_code == 403, path


def test_the_rate_limit_is_shared_by_all_processes(stores: Settings) -> None:
    with ExitStack() as stack:
        one, two = (stack.enter_context(client_of(stores)) for _ in range(2))
        key = with_key(make_key(stores, "acme", limit=5))
        eventually(
            lambda: all(c.get(PATH, headers=key).status_code != 401 for c in (one, two)),
            timeout_s=5,
            message="both know the key",
        )

        def over() -> bool:
            # Whatever was counted before, and even if a new minute begins here.
            statuses = [c.get(PATH, headers=key).status_code for c in (one, two) * 4]
            return statuses[-2:] == [429, 429] and statuses.count(200) <= 5

        eventually(over, message="both refuse")


def test_without_redis_the_rate_limit_holds_in_each_process(stores: Settings) -> None:
    key = with_key(make_key(stores, "acme", limit=3))
    with client_of(stores, redis_url="redis://127.0.0.1:1/0") as client:

        def over() -> bool:
            answers = [client.get(PATH, headers=key) for _ in range(4)]
            assert {answer.status_code for answer in answers} <= {200, 429}
            return bool(answers[-1].status_code == 429)  # or a new minute began

        eventually(over, message="a 429")


def test_a_pepper_is_replaced_while_keys_are_used(stores: Settings) -> None:
    newer = "n" * 64
    key = with_key(make_key(stores, "acme"))

    async def peppers() -> set[str]:
        async with open_pool(stores, max_size=1) as pool:
            return {listed.pepper_id for listed in await list_keys(pool)}

    with client_of(stores, api_key_pepper=newer) as client:
        assert client.get(PATH, headers=key).status_code == 401
    with client_of(stores, api_key_pepper=newer, api_key_pepper_previous=PEPPER) as client:
        assert client.get(PATH, headers=key).status_code == 200
        eventually(
            lambda: asyncio.run(peppers()) == {pepper_id(newer)}, message="the key is rehashed"
        )
        assert client.get(PATH, headers=key).status_code == 200
    with client_of(stores, api_key_pepper=newer) as client:
        assert client.get(PATH, headers=key).status_code == 200
    with client_of(stores) as client:
        assert client.get(PATH, headers=key).status_code == 401


def test_a_key_is_revoked_while_reads_of_catalogs_take_all_their_places(stores: Settings) -> None:
    admin = with_key(make_key(stores, "acme", "admin"))
    viewer = with_key(make_key(stores, "other"))
    with (
        client_of(stores, fallback_timeout_ms=60_000) as client,
        psycopg.connect(stores.database_url) as blocker,
        ThreadPoolExecutor(2 * CONCURRENCY) as readers,
    ):
        (key,) = client.get(KEYS_PATH, headers=admin).json()["keys"]
        blocker.execute("LOCK TABLE offers IN ACCESS EXCLUSIVE MODE")
        reads = [
            readers.submit(client.get, CATALOG_PATH, headers=viewer) for _ in range(2 * CONCURRENCY)
        ]
        try:
            waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
            eventually(
                lambda: blocker.execute(waiting).fetchone() == (CONCURRENCY,),
                message="reads of catalogs have all places",
            )
            assert client.delete(f"{KEYS_PATH}/{key['id']}", headers=admin).status_code == 200
        finally:
            blocker.rollback()
        assert {read.result().status_code for read in reads} <= {404, 503}


def test_administration_without_postgres_is_a_503_without_details(stores: Settings) -> None:
    admin = with_key(make_key(stores, "acme", "admin"))
    with client_of(stores) as client:
        assert client.get(PATH, headers=admin).status_code == 200
    broken = {"database_url": "postgresql://secret-user:pw@127.0.0.1:1/postgres"}
    with client_of(stores, **broken) as client:
        for path in (KEYS_PATH, CATALOG_PATH, PATH, "/readyz"):
            response = client.get(path, headers=admin)
            assert response.status_code == 503, path
            assert response.headers["retry-after"]
            for leaked in ("secret-user", "127.0.0.1", "psycopg", "connection"):
                assert leaked not in response.text


async def _fill(settings: Settings, ids: tuple[str, ...]) -> None:
    """Count one event per id for each of two tenants, in both stores: one type for each tenant."""
    async with Stores(settings) as opened:
        for tenant, outcome in (("acme", "click"), ("other", "dismiss")):
            events = [
                make_event(
                    tenant=tenant,
                    customer=i,
                    offer=i,
                    creative=i,
                    channel=i,
                    outcome=outcome,
                    occurred_ms=NOW_MS,
                )
                for i in ids
            ]
            generation = await opened.counters.create(
                tenant, day=TODAY, timezone="UTC", complete=True, watermarks=[]
            )
            await Writer(opened.counters, generation).commit(events)
        both = [
            make_event(tenant=t, customer=i, offer=i, creative=i, channel=i, outcome=o,
                       occurred_ms=NOW_MS)
            for t, o in (("acme", "click"), ("other", "dismiss"))
            for i in ids
        ]  # fmt: skip
        await opened.history.write(
            topic="t",
            topic_id="0b0c3a52-8b1e-4a53-9d1f-0d7a4a1f0c11",
            partition=0,
            expected_offset=None,
            next_offset=len(both),
            events=sourced(*both),
        )


GROUPINGS = ("action", "treatment", "channel", "customer")
#: Windows that counters answer, and one that only history does.
WINDOWS = ("days=1", "days=7", "days=30", "days=40", "days=3&window=exact", "days=40&window=exact")


def test_no_request_shows_another_tenant_whatever_ids_events_carry(stores: Settings) -> None:
    """Each tenant sees its own events, whole, and no others: from counters and from history."""
    asyncio.run(_fill(stores, HOSTILE_IDS))
    keys = {tenant: make_key(stores, tenant) for tenant in ("acme", "other")}
    seen: set[str] = set()
    with client_of(stores) as client:
        for tenant, group_by, window in product(keys, GROUPINGS, WINDOWS):
            url = f"{PATH}?groupBy={group_by}&{window}&limit=500"
            response = client.get(url, headers=with_key(keys[tenant]))
            assert response.status_code == 200
            rows = response.json()["summary"]
            name = "customerId" if group_by == "customer" else "id"
            mine, foreign = ("click", "dismiss") if tenant == "acme" else ("dismiss", "click")
            assert {row[name] for row in rows} == set(HOSTILE_IDS)
            assert all(row[mine] == row["total"] == 1 and row[foreign] == 0 for row in rows)
            seen.add(response.headers["x-summary-source"])
        assert seen == {"materialized", "history"}
        for tenant, group_by, id_ in product(keys, GROUPINGS, HOSTILE_IDS):
            # A client resolves `..` in a path, unless its dots are encoded.
            encoded = quote(id_, safe="").replace(".", "%2E")
            mine = "click" if tenant == "acme" else "dismiss"
            one = {**dict.fromkeys(("click", "dismiss"), 0), mine: 1}
            url = f"{PATH}/{group_by}/{encoded}"
            group = client.get(url, headers=with_key(keys[tenant])).json()
            assert group["id"] == id_
            for period in group["periods"].values():
                assert {key: period["row"][key] for key in one} == one
            for days in (3, 40):
                url = f"{PATH}/trend?groupBy={group_by}&id={encoded}&days={days}"
                points = client.get(url, headers=with_key(keys[tenant])).json()["points"]
                assert [point["total"] for point in points] == [0] * (days - 1) + [1]
                assert {key: points[-1][key] for key in one} == one
        for tenant, group_by, days in product(keys, GROUPINGS, (3, 40)):
            url = f"{PATH}/trend?groupBy={group_by}&days={days}"
            point = client.get(url, headers=with_key(keys[tenant])).json()["points"][-1]
            mine, foreign = ("click", "dismiss") if tenant == "acme" else ("dismiss", "click")
            assert (point[mine], point[foreign]) == (len(HOSTILE_IDS), 0)

        @hypothesis_settings(
            max_examples=50,
            deadline=None,
            suppress_health_check=[HealthCheck.function_scoped_fixture],
        )
        @given(
            claimed=st.sampled_from([b"other", b"acme,other", b"acme\x00other", b"*", b"ACME"])
            | st.binary(max_size=70).filter(lambda value: value != b"acme"),
            query=st.sampled_from(["", "tenant=other", "tenantId=other", "X-Tenant-Id=other"])
            | st.text(max_size=8).map(quote),
        )
        def refuses(claimed: bytes, query: str) -> None:
            headers: dict[str, Any] = {**with_key(keys["acme"]), "X-Tenant-Id": claimed}
            for url in (
                f"{PATH}?{query}",
                f"{PATH}?groupBy=action&{query}",
                f"{PATH}/customer/C-1?{query}",
                f"{PATH}/trend?{query}",
            ):
                response = client.get(url, headers=headers)
                assert response.status_code in (400, 403)
                assert list(response.json()) == ["error"]

        refuses()
