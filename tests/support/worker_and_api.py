"""A worker process and an API on the same stores, for tests of answers while something is wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from api.app import build
from store.settings import Settings
from tests.support.waiting import eventually_async
from tests.support.worker_fixture import WorkerFixture, make_events, open_worker_fixture

PATH = "/api/v1/interaction-summary"


class WorkerAndApi:
    """A worker process, an API, and the keys of the tenant."""

    def __init__(self, worker: WorkerFixture, api: httpx.AsyncClient) -> None:
        self.worker, self._api = worker, api

    async def key(self, kind: str) -> str:
        """Return the name of a key of the tenant; `*` is the number of the active generation."""
        prefix = self.worker.settings.redis_prefix
        base = f"{prefix}:{{acme/0}}:"
        number = (await self.worker.client.get(f"{base}active") or b"").decode()
        return f"{prefix}:tenants" if kind == "tenants" else base + kind.replace("*", number)

    async def answer(self, group_by: str = "action") -> tuple[str, int]:
        """Return the source of an answer for all time, and the interactions in it."""
        response = await self._api.get(
            PATH,
            params={"groupBy": group_by, "days": 365, "limit": 100},
            headers={"X-Tenant-Id": "acme"},
        )
        assert response.status_code == 200, response.text
        rows = response.json()["summary"]
        return response.headers["X-Summary-Source"], sum(row["total"] for row in rows)

    async def wait_counters(self, n: int) -> None:
        """Wait until the counters answer with `n` interactions."""

        async def right() -> bool:
            found = await self.answer()
            assert found[0] == "history" or found[1] == n, f"{found}, not {n}, and complete"
            return found == ("materialized", n)

        await eventually_async(right, message=f"the counters answer {n}")


@asynccontextmanager
async def open_api(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client of an API of its own."""
    app = build(settings.model_copy(update={"read_budget_ms": 5_000}))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as api,
    ):
        yield api


@asynccontextmanager
async def open_worker_and_api(settings: Settings) -> AsyncIterator[WorkerAndApi]:
    """Start both, and count 200 events."""
    async with open_worker_fixture(settings) as worker, open_api(settings) as api:
        await worker.send(make_events(200))
        await worker.wait_counted(200)
        await worker.wait_stored(200)
        yield WorkerAndApi(worker, api)
