"""HTTP server of a worker for those who operate it: `/healthz`, `/readyz` and `/metrics`.

It has threads of its own, so that it also answers while the event loop does not.
"""

from __future__ import annotations

import asyncio
import socket
import socketserver
import threading
from collections.abc import Callable
from concurrent.futures import Future
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any, ClassVar, Final

import msgspec

from store import metrics
from streams.health import Health, WorkerState, liveness, not_alive, not_ready, readiness

#: How long the event loop may take to answer: it is blocked for up to 0.2 s now and then.
LOOP_TIMEOUT_S: Final = 2.0


class Endpoints:
    """The endpoints, served by threads between `start` and `close`."""

    CONNECTIONS_MAX: ClassVar[int] = 16

    def __init__(
        self, host: str, port: int, *, lag_max: int, loop_timeout_s: float = LOOP_TIMEOUT_S
    ) -> None:
        """Listen on `host` and `port`; 0 = any free port.

        `lag_max`: events that may wait while the worker is ready. Raises RuntimeError if the
        address is not available.
        """
        self._lag_max = lag_max
        self._loop_timeout_s = loop_timeout_s
        self._source: tuple[asyncio.AbstractEventLoop, Callable[[], WorkerState]] | None = None
        self._server = _Server(_listen(host, port), self, self.CONNECTIONS_MAX)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="endpoints", daemon=True
        )

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def attach(self, loop: asyncio.AbstractEventLoop, state: Callable[[], WorkerState]) -> None:
        """Ask `state`, on `loop`, from now on. Before, the worker is starting."""
        self._source = loop, state

    def health(self) -> Health:
        """Return whether the worker is alive."""
        if self._source is None:
            return Health(True, {"status": "ok"})
        state = self._state(*self._source)
        return not_alive(state) if isinstance(state, str) else liveness(state)

    def ready(self) -> Health:
        """Return whether the worker counts, and is not behind."""
        if self._source is None:
            return not_ready("the worker is starting")
        state = self._state(*self._source)
        if isinstance(state, str):
            return not_ready(state)
        return readiness(state, lag_max=self._lag_max)

    def _state(
        self, loop: asyncio.AbstractEventLoop, read: Callable[[], WorkerState]
    ) -> WorkerState | str:
        """Return the worker's state, or why it cannot be known."""
        answer: Future[WorkerState] = Future()

        def tell() -> None:
            try:
                answer.set_result(read())
            except Exception as error:
                answer.set_exception(error)

        try:
            loop.call_soon_threadsafe(tell)
        except RuntimeError:
            return "the event loop has ended"
        try:
            return answer.result(self._loop_timeout_s)
        except TimeoutError:
            return f"the event loop has not answered for {self._loop_timeout_s:g} s"
        except Exception as error:
            return f"{type(error).__name__}: {error}"


class _Server(socketserver.ThreadingTCPServer):
    """One thread per connection, for at most `connections_max`; others are closed at once."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, listener: socket.socket, endpoints: Endpoints, connections_max: int) -> None:
        super().__init__(("", 0), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.server_address = listener.getsockname()
        self.endpoints = endpoints
        self._free = threading.BoundedSemaphore(connections_max)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore a client that has closed its connection."""


class _Handler(BaseHTTPRequestHandler):
    """One request per connection."""

    server: _Server
    #: Seconds that a client may take to send its request.
    timeout = 5.0

    def do_GET(self) -> None:
        if self.path == "/metrics":
            self._respond(HTTPStatus.OK, metrics.CONTENT_TYPE, metrics.exposition("worker"))
        elif self.path == "/healthz":
            self._respond_health(self.server.endpoints.health())
        elif self.path == "/readyz":
            self._respond_health(self.server.endpoints.ready())
        else:
            self._respond_error(HTTPStatus.NOT_FOUND, "there is nothing at this path")

    do_HEAD = do_GET  # noqa: N815 - the name that the base class looks for

    def do_POST(self) -> None:
        self._respond_error(HTTPStatus.METHOD_NOT_ALLOWED, f"{self.command} is not allowed here")

    do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_POST  # noqa: N815

    def _respond_health(self, health: Health) -> None:
        status = HTTPStatus.OK if health.ok else HTTPStatus.SERVICE_UNAVAILABLE
        self._respond(status, "application/json", msgspec.json.encode(health.body))

    def _respond_error(self, status: HTTPStatus, message: str) -> None:
        self._respond(status, "application/json", msgspec.json.encode({"error": message}))

    def _respond(self, status: HTTPStatus, media_type: str, body: bytes) -> None:
        self.send_response_only(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing: probes ask every few seconds."""


def _listen(host: str, port: int) -> socket.socket:
    """Return a listening socket on the first address that `host` resolves to."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        return socket.create_server(address, family=family)
    except OSError as error:
        raise RuntimeError(
            f"cannot listen on {host}:{port} (WORKER_METRICS_HOST, WORKER_METRICS_PORT): {error}"
        ) from error
