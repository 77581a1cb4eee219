"""`/healthz`, `/readyz` and `/metrics` of a worker process, over HTTP."""

from __future__ import annotations

import socket
from typing import Any

import httpx
import pytest

from cli.embedded.server import free_port
from store.metrics import CONTENT_TYPE, METRICS
from store.settings import Settings
from tests.support.services.base import Services, revive
from tests.support.waiting import eventually_async
from tests.support.worker_fixture import WorkerFixture, make_events, open_worker_fixture


class Endpoints:
    """Client of the endpoints of a worker."""

    def __init__(self, fixture: WorkerFixture) -> None:
        self._fixture = fixture
        self.url = f"http://127.0.0.1:{fixture.settings.worker_metrics_port}"

    async def get(self, path: str) -> tuple[int, Any]:
        """Return status and body; (0, error) if the worker does not answer, as before its start."""
        async with httpx.AsyncClient(timeout=10) as client:
            try:
                answer = await client.get(f"{self.url}{path}")
            except httpx.TransportError as error:
                return 0, repr(error)
        assert answer.headers["cache-control"] == "no-store"
        return answer.status_code, answer.json()

    async def wait(self, path: str, code: int, **body: Any) -> None:
        """Wait until the endpoint answers with this status code and body."""

        async def answers() -> bool:
            seen = await self.get(path)
            assert seen == (code, body), f"{seen}\n{self._fixture.worker.log_tail(3)}"
            return True

        await eventually_async(answers, message=f"{path} answers with {code} {body}")


@pytest.mark.anyio
async def test_a_worker_is_ready_once_it_has_partitions_and_serves_its_metrics(
    settings: Settings,
) -> None:
    async with open_worker_fixture(settings, worker_metrics_port=free_port()) as fixture:
        endpoints = Endpoints(fixture)
        partitions = list(range(settings.topic_partitions))
        await endpoints.wait("/readyz", 200, status="ok", partitions=partitions, lag=0)
        assert await endpoints.get("/healthz") == (200, {"status": "ok"})
        await fixture.send(make_events(100))
        await fixture.wait_counted(100)
        async with httpx.AsyncClient(base_url=endpoints.url) as client:
            answer = await client.get("/metrics")
            assert answer.headers["content-type"] == CONTENT_TYPE
            assert "\ninteraction_summary_counted_total 100.0\n" in answer.text
            families = {line.split()[2] for line in answer.text.splitlines() if "# TYPE" in line}
            assert {name for name in METRICS if "_api_" not in name} <= families
            assert not {name for name in METRICS if "_api_" in name} & families
            head = await client.head("/metrics")
            assert (head.status_code, head.content) == (200, b"")
            assert (await client.get("/")).status_code == 404
            assert (await client.post("/healthz")).status_code == 405


@pytest.mark.anyio
async def test_a_worker_without_a_broker_is_alive_and_not_ready(settings: Settings) -> None:
    changes: dict[str, Any] = {
        "kafka_bootstrap_servers": "127.0.0.1:1",
        "worker_metrics_port": free_port(),
    }
    async with open_worker_fixture(settings, **changes) as fixture:
        endpoints = Endpoints(fixture)
        await endpoints.wait(
            "/readyz", 503, status="not ready", reason="no partition is assigned", partitions=[]
        )
        assert await endpoints.get("/healthz") == (200, {"status": "ok"})
        fixture.worker.kill()  # to leave the group takes its time without a broker


@pytest.mark.long
@pytest.mark.anyio
async def test_a_worker_that_cannot_count_is_not_ready_and_then_not_alive(
    settings: Settings, services: Services
) -> None:
    """Redis is frozen: events wait, and the watchdog trips after 5 s."""
    changes: dict[str, Any] = {
        "worker_metrics_port": free_port(),
        "worker_ready_lag_max": 49,
        "watchdog_s": 5,
        "redis_timeout_s": 1,
    }
    async with open_worker_fixture(settings, **changes) as fixture:
        endpoints = Endpoints(fixture)
        partitions = list(range(settings.topic_partitions))
        await endpoints.wait("/readyz", 200, status="ok", partitions=partitions, lag=0)
        services.redis.pause()
        try:
            await fixture.send(make_events(50), partition=0)
            await endpoints.wait(
                "/readyz",
                503,
                status="not ready",
                reason="50 events are not counted yet, more than WORKER_READY_LAG_MAX=49",
                partitions=partitions,
                lag=50,
            )
            assert await endpoints.get("/healthz") == (200, {"status": "ok"})
            reason = "RuntimeError: nothing counted for 5 s while events wait in partitions [0]"
            await endpoints.wait("/healthz", 503, status="failing", reason=reason)
            status, body = await endpoints.get("/readyz")
            assert (status, body["reason"]) == (503, f"the worker is ending: {reason}")
            assert await fixture.wait_ended() == 1
        finally:
            revive(services.redis)


@pytest.mark.anyio
async def test_a_worker_whose_port_is_taken_says_so_and_ends(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with open_worker_fixture(settings, worker_metrics_port=port) as fixture:
            assert await fixture.wait_ended() == 1
            assert f"cannot listen on 127.0.0.1:{port}" in fixture.worker.log_tail(5)
