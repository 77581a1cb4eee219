"""The reader as a process: it binds, serves, adds up its metrics, and stops in order."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psycopg
import pytest

from tests.support.waiting import eventually

PATH = "/api/v1/interaction-summary"
_SERVE = (
    "import sys; from api.server import serve; from store.settings import Settings; "
    "serve(Settings(), sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))"
)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port: int = bound.getsockname()[1]
        return port


@contextmanager
def serving(
    log: Path, environment: dict[str, str], *, workers: int = 1
) -> Iterator[tuple[subprocess.Popen[bytes], httpx.Client]]:
    port = free_port()
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-c", _SERVE, "127.0.0.1", str(port), str(workers)],
            env={**os.environ, "AUTH_MODE": "open", **environment},
            stderr=stream,
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:

            def answers() -> bool:
                assert process.poll() is None, log.read_text()
                try:
                    return client.get("/healthz").status_code == 200
                except httpx.TransportError:
                    return False

            eventually(answers, message="the API answers")
            yield process, client
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def environment(redis_url: str, database_url: str) -> dict[str, str]:
    return {"REDIS_URL": redis_url, "DATABASE_URL": database_url, "READ_BUDGET_MS": "10000"}


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_it_serves_and_ends_with_0(
    tmp_path: Path, environment: dict[str, str], workers: int, name: str
) -> None:
    log = tmp_path / "log"
    with serving(log, environment, workers=workers) as (process, client):
        answer = client.get(PATH)
        assert answer.status_code == 200
        assert answer.headers["x-summary-source"] == "history"
        assert "server" not in answer.headers
        process.send_signal(getattr(signal, name))
        assert process.wait(timeout=10) == 0
    lines = log.read_text().splitlines()
    assert any('"event":"request"' in line and PATH in line for line in lines)
    assert all(line.startswith("{") for line in lines), lines


def test_a_request_in_hand_is_finished_after_sigterm(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    answers: list[httpx.Response] = []
    with (
        serving(tmp_path / "log", {**environment, "FALLBACK_TIMEOUT_MS": "60000"}) as (
            process,
            client,
        ),
        psycopg.connect(environment["DATABASE_URL"]) as blocker,
    ):
        port = client.base_url.port
        client.get(PATH)
        client.close()
        blocker.execute("LOCK TABLE interaction_history IN ACCESS EXCLUSIVE MODE")
        url = f"http://127.0.0.1:{port}{PATH}"
        asking = threading.Thread(target=lambda: answers.append(httpx.get(url, timeout=20)))
        asking.start()
        eventually(lambda: _waits_for_a_lock(blocker), message="the query of the request")
        process.send_signal(signal.SIGTERM)
        eventually(lambda: _refused(port), message="no new connections")
        blocker.rollback()
        asking.join(timeout=20)
        assert process.wait(timeout=10) == 0
    assert [answer.status_code for answer in answers] == [200]


def _waits_for_a_lock(connection: psycopg.Connection) -> bool:
    found = connection.execute(
        "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'interaction_history'::regclass"
    )
    return found.fetchone() is not None


def _refused(port: int | None) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port or 0), timeout=5):
            return False
    except ConnectionRefusedError:
        return True


def test_metrics_of_several_processes_are_one_sum(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    with serving(tmp_path / "log", environment, workers=2) as (_, client):
        base_url = str(client.base_url).rstrip("/")
        for _ in range(20):
            # a connection of its own each time, so that both processes get some
            assert httpx.get(f"{base_url}{PATH}").status_code == 200
        wanted = f'interaction_summary_api_requests_total{{route="{PATH}",status="200"}} 20.0'
        for _ in range(6):
            assert wanted in httpx.get(f"{base_url}/metrics").text


def test_processes_whose_parent_was_killed_end_and_free_the_address(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    with serving(tmp_path / "log", environment, workers=2) as (process, client):
        process.kill()
        process.wait()

        def is_free() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", client.base_url.port)) != 0

        eventually(is_free, message="the port is free")


@pytest.mark.parametrize(
    ("host", "mode", "words"),
    [
        ("0.0.0.0", "open", "loopback only"),  # noqa: S104
        ("127.0.0.1", "keys", "AUTH_MODE=keys is not available"),
        ("127.0.0.1", "open", "cannot listen on 127.0.0.1"),
    ],
)
def test_a_refused_start_says_why(host: str, mode: str, words: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = subprocess.run(
            [sys.executable, "-c", _SERVE, host, str(port), "1"],
            env={**os.environ, "AUTH_MODE": mode},
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert ended.returncode == 1
    assert f"StartupRefused: {words}" in ended.stderr or words in ended.stderr.splitlines()[-1]
