"""Health of a worker: the judgement, and the server that asks the event loop for it."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator

import httpx
import pytest

from streams.endpoints import Endpoints
from streams.health import Health, WorkerState, liveness, readiness


def state(**changes: object) -> WorkerState:
    return WorkerState(failure=None, stopping=False, lags={0: 3, 1: 4})._replace(**changes)  # type: ignore[arg-type]


def test_a_worker_with_partitions_and_a_small_lag_is_ready() -> None:
    assert liveness(state()) == Health(True, {"status": "ok"})
    ready = {"status": "ok", "partitions": [0, 1], "lag": 7}
    assert readiness(state(), lag_max=7) == Health(True, ready)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"lags": {}}, "no partition is assigned"),
        ({"lags": {0: 5, 1: 3}}, "8 events are not counted yet, more than WORKER_READY_LAG_MAX=7"),
        ({"lags": {0: 1, 2: None}}, "the end of partitions [2] is not known"),
        ({"stopping": True}, "the worker is stopping"),
        ({"failure": "OSError: x"}, "the worker is ending: OSError: x"),
    ],
)
def test_a_worker_is_not_ready(changes: dict[str, object], reason: str) -> None:
    health = readiness(state(**changes), lag_max=7)
    assert (health.ok, health.body["reason"]) == (False, reason)


@pytest.mark.parametrize(
    ("changes", "alive"),
    [
        ({"lags": {}}, True),
        ({"lags": {0: 10**9}}, True),
        ({"stopping": True}, True),
        ({"failure": "OSError: x"}, False),
    ],
)
def test_only_a_worker_that_has_failed_is_not_alive(
    changes: dict[str, object], alive: bool
) -> None:
    assert liveness(state(**changes)).ok is alive


@pytest.fixture
def endpoints() -> Iterator[Endpoints]:
    served = Endpoints("127.0.0.1", 0, lag_max=7, loop_timeout_s=0.2)
    served.start()
    yield served
    served.close()


def get(endpoints: Endpoints, path: str) -> tuple[int, dict[str, str]]:
    answer = httpx.get(f"http://127.0.0.1:{endpoints.port}{path}")
    return answer.status_code, answer.json()


def test_a_worker_that_starts_is_alive_and_not_ready(endpoints: Endpoints) -> None:
    assert get(endpoints, "/healthz") == (200, {"status": "ok"})
    starting = {"status": "not ready", "reason": "the worker is starting"}
    assert get(endpoints, "/readyz") == (503, starting)


def test_a_worker_whose_event_loop_is_blocked_is_neither_alive_nor_ready(
    endpoints: Endpoints,
) -> None:
    loop = asyncio.new_event_loop()
    running = threading.Thread(target=loop.run_forever)
    running.start()
    endpoints.attach(loop, state)
    assert get(endpoints, "/healthz") == (200, {"status": "ok"})
    unblock = threading.Event()
    loop.call_soon_threadsafe(unblock.wait)
    reason = "the event loop has not answered for 0.2 s"
    assert get(endpoints, "/healthz") == (503, {"status": "failing", "reason": reason})
    assert get(endpoints, "/readyz") == (503, {"status": "not ready", "reason": reason})
    unblock.set()
    assert get(endpoints, "/readyz")[0] == 200
    loop.call_soon_threadsafe(loop.stop)
    running.join()
    loop.close()
    assert get(endpoints, "/healthz")[1]["reason"] == "the event loop has ended"


def test_an_error_of_the_judgement_is_not_taken_for_health(endpoints: Endpoints) -> None:
    loop = asyncio.new_event_loop()
    running = threading.Thread(target=loop.run_forever)
    running.start()

    def fail() -> WorkerState:
        raise LookupError("no such part")

    endpoints.attach(loop, fail)
    assert get(endpoints, "/healthz")[1]["reason"] == "LookupError: no such part"
    loop.call_soon_threadsafe(loop.stop)
    running.join()
    loop.close()


def test_connections_beyond_the_limit_are_closed(endpoints: Endpoints) -> None:
    """Those that say nothing must not keep threads without end."""
    address = ("127.0.0.1", endpoints.port)
    silent = [socket.create_connection(address) for _ in range(Endpoints.CONNECTIONS_MAX)]
    with socket.create_connection(address, timeout=10) as refused:
        assert refused.recv(1) == b""
    for connection in silent:
        connection.close()
