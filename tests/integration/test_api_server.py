"""The reader as a process: it binds, serves, adds up its metrics, and stops in order."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import psycopg
import pytest

from api.body import BODIES_BYTES_MAX, CATALOG_BYTES_MAX
from api.protocol import PIPELINE_MAX
from store.metrics import METRICS
from tests.support.api_process import SERVE, serving
from tests.support.services.base import Services
from tests.support.waiting import eventually

PATH = "/api/v1/interaction-summary"


@pytest.fixture
def environment(redis_url: str, database_url: str) -> dict[str, str]:
    return {"REDIS_URL": redis_url, "DATABASE_URL": database_url, "READ_BUDGET_MS": "10000"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Return the port of an API whose stores do not answer."""
    nowhere = {
        "REDIS_URL": "redis://127.0.0.1:1/0",
        "DATABASE_URL": "postgresql://127.0.0.1:1/none",
    }
    with serving(tmp_path_factory.mktemp("api") / "log", nowhere) as (_, client):
        yield client.base_url.port or 0


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


def test_it_ends_in_time_while_postgres_does_not_answer(
    tmp_path: Path, environment: dict[str, str], services: Services
) -> None:
    with serving(tmp_path / "log", environment) as (process, client):
        assert client.get(PATH).status_code == 200
        services.postgres.pause()
        # The request is given up; the load of its catalog goes on, for the next one.
        assert client.get(PATH, headers={"X-Tenant-Id": "new"}).status_code == 503
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 0


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
            text = httpx.get(f"{base_url}/metrics").text
            assert wanted in text
            names = set(re.findall(r"^# TYPE (interaction_summary_\w+)", text, re.MULTILINE))
            assert {name for name in METRICS if "_api_" in name} <= names
            assert not {name for name in METRICS if "_api_" not in name} & names


@pytest.mark.long
def test_processes_that_take_long_to_start_are_not_replaced(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    """On a busy machine the interpreter alone may take seconds; here, one that waits is one."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, time\n"
        "if '--multiprocessing-fork' in sys.argv and 'tracker' not in ' '.join(sys.argv):\n"
        "    time.sleep(7)\n"
    )
    environment |= {"PYTHONPATH": str(tmp_path)}
    with serving(tmp_path / "log", environment, workers=2):
        assert "died" not in (tmp_path / "log").read_text()


def test_a_process_that_ended_leaves_its_counts_and_no_gauges(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    """Both processes have an open breaker when they are killed; their successors have none."""
    environment |= {
        "REDIS_URL": "redis://127.0.0.1:1/0",
        "BREAKER_FAILURES": "3",
        "BREAKER_OPEN_S": "3600",
    }
    with serving(tmp_path / "log", environment, workers=2) as (parent, client):
        base_url = str(client.base_url).rstrip("/")
        asked = 0

        def both_open() -> bool:
            nonlocal asked
            assert httpx.get(f"{base_url}{PATH}").status_code == 200
            asked += 1
            return fallbacks_total(base_url, "unreachable") == 2 * 3

        eventually(both_open, message="both processes have opened their breaker")
        assert metric(base_url, "interaction_summary_api_breaker_open") == 1
        ended = api_processes(parent.pid)
        assert len(ended) == 2
        for pid in ended:
            os.kill(pid, signal.SIGKILL)

        def breaker_closed() -> bool:
            assert not ended & api_processes(parent.pid)
            return metric(base_url, "interaction_summary_api_breaker_open") == 0

        eventually(breaker_closed, message="no gauge of the ended processes")
        assert metric(base_url, "interaction_summary_api_lag_events") == -1
        for name in ("requests_total", "request_seconds_count"):
            status = ',status="200"' if name == "requests_total" else ""
            counted = f'interaction_summary_api_{name}{{route="{PATH}"{status}}}'
            assert metric(base_url, counted) == asked


def fallbacks_total(base_url: str, reason: str) -> float | None:
    return metric(base_url, f'interaction_summary_api_fallbacks_total{{reason="{reason}"}}')


def metric(base_url: str, series: str) -> float | None:
    """Return the value of a series in /metrics; None if there is none, or no process answers."""
    try:
        text = httpx.get(f"{base_url}/metrics").text
    except httpx.TransportError:
        return None
    values = [line.split()[-1] for line in text.splitlines() if line.startswith(f"{series} ")]
    assert len(values) <= 1, values
    return float(values[0]) if values else None


def api_processes(parent: int) -> set[int]:
    """Return the processes that `parent` has started to serve the API."""
    return {
        int(folder.name)
        for folder in Path("/proc").iterdir()
        if folder.name.isdigit() and _serves(folder, parent)
    }


def _serves(folder: Path, parent: int) -> bool:
    try:
        stat = (folder / "stat").read_text()
        command = (folder / "cmdline").read_bytes()
    except OSError:  # it has ended
        return False
    return int(stat.rpartition(")")[2].split()[1]) == parent and b"spawn_main" in command


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
        ("127.0.0.1", "keys", "AUTH_MODE=keys needs API_KEY_PEPPER"),
        ("127.0.0.1", "open", "cannot listen on 127.0.0.1"),
    ],
)
def test_a_refused_start_says_why(host: str, mode: str, words: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = subprocess.run(
            [sys.executable, "-c", SERVE, host, str(port), "1"],
            env={**os.environ, "AUTH_MODE": mode},
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert ended.returncode == 1
    assert f"StartupRefused: {words}" in ended.stderr or words in ended.stderr.splitlines()[-1]


# --- bytes that are no request


def exchange(port: int | None, sent: bytes, *, timeout_s: float = 20) -> bytes:
    """Send bytes on a new connection, and return all that the server sends until it closes it."""
    received = b""
    with socket.create_connection(("127.0.0.1", port or 0), timeout=timeout_s) as connection:
        with suppress(ConnectionError):  # refused before all was sent
            connection.sendall(sent)
        with suppress(ConnectionResetError):  # bytes after a refused head are not read
            while more := connection.recv(65_536):
                received += more
    return received


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (b"hello\r\n\r\n", 400, "BAD_REQUEST"),
        (b"GET / HTTP/1.1\r\nbroken header\r\n\r\n", 400, "BAD_REQUEST"),
        (b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n", 400, "BAD_REQUEST"),
        (b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n", 400, "BAD_REQUEST"),
        (b"CONNECT x:1 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400, "BAD_REQUEST"),
        (b"\x16\x03\x01\x02\x00\x01\x00", 400, "BAD_REQUEST"),  # TLS
        (b"GET / HTTP/1.1\r\nContent-Length: 1, 2\r\n\r\n", 400, "BAD_REQUEST"),
        (b"GET /?" + b"x" * 40_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 431, "HEADERS_TOO_LARGE"),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 40_000 + b"\r\n\r\n", 431, "HEADERS_TOO_LARGE"),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000 + b"\r\n", 431, "HEADERS_TOO_LARGE"),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 3_000_000, 431, "HEADERS_TOO_LARGE"),
    ],
)  # fmt: skip
def test_bytes_that_are_no_request_get_the_one_shape_of_errors(
    server: int, sent: bytes, status: int, code: str
) -> None:
    received = exchange(server, sent)
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), received[:200]
    assert received.count(b"HTTP/1.1 %d " % status) == 1
    assert b"content-type: application/json" in head
    error = json.loads(body)["error"]
    assert (error["code"], error["status"]) == (code, status)
    assert error["requestId"].encode() in head


def test_a_request_in_pieces_and_several_on_one_connection_are_answered(server: int) -> None:
    request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 20_000 + b"\r\n\r\n"
    last = b"HEAD /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    received = exchange(server, request * 5 + last)
    assert received.count(b"HTTP/1.1 200 OK") == 6
    assert received.count(b'{"status":"ok"}') == 5
    with socket.create_connection(("127.0.0.1", server), timeout=20) as connection:
        for start in range(0, len(request), 700):
            connection.sendall(request[start : start + 700])
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200 OK")


def test_requests_that_wait_on_one_connection_are_bounded(server: int) -> None:
    """One client could queue half a million in seconds, and take a gigabyte for them."""
    request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 17 + b"\r\n\r\n"
    assert len(request) == 64  # a read of the server ends between two of them
    last = request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    received = exchange(server, request * 4_095 + last)
    assert received.count(b"HTTP/1.1 200 OK") < 4_096
    received = exchange(server, request * (PIPELINE_MAX - 1) + last)
    assert received.count(b"HTTP/1.1 200 OK") == PIPELINE_MAX


def test_bodies_that_do_not_end_fill_a_bounded_memory(server: int) -> None:
    """Each is below the limit of one body; a thousand would be 16 GB."""
    head = (
        b"POST /api/v1/catalog HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n"
    )
    connections = []
    with ExitStack() as open_connections:
        for _ in range(BODIES_BYTES_MAX // CATALOG_BYTES_MAX + 1):
            connection = socket.create_connection(("127.0.0.1", server), timeout=20)
            connections.append(open_connections.enter_context(connection))
            connection.sendall(head % CATALOG_BYTES_MAX)
            with suppress(ConnectionError):
                connection.sendall(b" " * (CATALOG_BYTES_MAX - 1))
        answered, _, _ = select.select(connections, [], [], 20)
        assert answered, "no body was refused"
        received = answered[0].recv(65_536)
        assert received.startswith(b"HTTP/1.1 503 "), received[:200]
        assert b"retry-after" in received.lower()

    def is_read_again() -> bool:
        closing = (head % 1).replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
        answer = exchange(server, closing + b"{")
        return answer.startswith(b"HTTP/1.1 400 ")

    eventually(is_read_again, message="the memory is free again")


def test_a_head_that_begins_after_other_requests_is_not_taken_for_a_large_one(server: int) -> None:
    first = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60000\r\n\r\n"
    first += b"x" * 60_000
    last = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server), timeout=20) as connection:
        connection.sendall(first + last[:20])
        assert _response(connection).startswith(b"HTTP/1.1 200 OK")
        connection.sendall(last[20:])
        assert _response(connection).startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize(
    "body",
    [
        b"Content-Length: %d\r\n\r\n%b",
        b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n",
    ],
)
def test_the_body_of_a_request_for_an_upgrade_is_no_request(server: int, body: bytes) -> None:
    """The server does not upgrade, and its parser takes what follows the head for no body."""
    head = (
        b"POST /api/v1/catalog HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Connection: Upgrade\r\nUpgrade: h2c\r\n"
    )
    smuggled = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    own, _, content = (body % (len(smuggled), smuggled)).partition(b"\r\n\r\n")
    received = b""
    with socket.create_connection(("127.0.0.1", server), timeout=20) as connection:
        connection.sendall(head + own + b"\r\n\r\n")
        received += connection.recv(65_536)  # the answer to the head, before the body is sent
        with suppress(ConnectionError):
            connection.sendall(content)
            while more := connection.recv(65_536):
                received += more
    assert b'{"status":"ok"}' not in received
    assert received.startswith(b"HTTP/1.1 400 "), received[:200]
    assert b"Upgrade" in received


def test_a_request_for_an_upgrade_without_a_body_is_answered_in_http_1(server: int) -> None:
    """Java's client asks for HTTP/2 in this way, and uses the connection for the next request."""
    wish = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server), timeout=20) as connection:
        for _ in range(2):
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + wish)
            assert _response(connection).startswith(b"HTTP/1.1 200 OK")


def _response(connection: socket.socket) -> bytes:
    """Return one response of `/healthz`, which may come in several parts."""
    received = b""
    while not received.endswith(b'{"status":"ok"}'):
        more = connection.recv(65_536)
        assert more, received
        received += more
    return received


def test_a_slow_head_is_not_waited_for(tmp_path: Path, environment: dict[str, str]) -> None:
    """A connection without a whole head is closed; one that rests between requests is not."""
    quick = {**environment, "TEST_HEAD_TIMEOUT_S": "0.5"}
    head = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
    with serving(tmp_path / "log", quick) as (_, client):
        port = client.base_url.port
        assert exchange(port, b"") == b""
        assert exchange(port, head) == b""
        with socket.create_connection(("127.0.0.1", port or 0), timeout=20) as connection:
            connection.sendall(head + b"\r\n")
            assert _response(connection).startswith(b"HTTP/1.1 200 OK")
            # It rests while another connection is closed for its slow head, and is used again.
            assert exchange(port, head) == b""
            connection.sendall(head + b"\r\n")
            assert _response(connection).startswith(b"HTTP/1.1 200 OK")
            # The head of a second request on the same connection must not be slow either.
            connection.sendall(head)
            assert connection.recv(65_536) == b""
