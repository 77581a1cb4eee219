"""Outermost ASGI layer: request id, limits, log line and metrics of every request.

It also turns exceptions that no inner handler caught into a 500 response, and answers HEAD as GET.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from time import perf_counter
from typing import Any, Final

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.body import BODY_BYTES_MAX
from api.errors import error_response
from api.hosts import is_loopback_authority, is_loopback_origin
from api.routes import PATH
from store import metrics
from store.api_keys import hide_keys
from store.logs import get_logger

logger = get_logger("api")

REQUEST_ID_HEADER: Final = "X-Request-Id"
BODY_WAIT_S: Final = 5.0
#: Maximum number of concurrent requests; more would only wait for each other.
REQUESTS_MAX: Final = 1_000

_GROUP_PATH: Final = re.compile(rf"\A({PATH}/[^/]+/).*\Z", re.DOTALL)
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9_.:-]{1,128}", re.ASCII)


def request_id_of(scope: Scope) -> str:
    """Return the id that `RequestMiddleware` gave the request."""
    request_id: str = scope["state"]["request_id"]
    return request_id


class RequestMiddleware:
    """ASGI middleware with one log line and one count per request, whatever its outcome."""

    def __init__(
        self, app: ASGIApp, *, loopback_only: bool, body_paths: frozenset[tuple[str, str]]
    ) -> None:
        """Wrap `app`.

        `loopback_only`: answer only requests to a loopback name, from no other site.
        `body_paths`: method and path of the endpoints that read their body, with their own limit.
        """
        self._app = app
        self._loopback_only = loopback_only
        self._body_paths = body_paths
        self._concurrent = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        method = scope["method"]
        if method == "HEAD":
            # A copy: the server keeps its own, and sends no body for it.
            scope = {**scope, "method": "GET"}
        state = scope.setdefault("state", {})
        headers = Headers(scope=scope)
        given = headers.get(REQUEST_ID_HEADER, "")
        usable = _REQUEST_ID.fullmatch(given) and hide_keys(given) == given
        request_id = given if usable else secrets.token_hex(16)
        state["request_id"] = request_id
        recorder = _ResponseRecorder(request_id, state, send, no_body=method == "HEAD")
        self._concurrent += 1
        try:
            with structlog.contextvars.bound_contextvars(request_id=request_id):
                await self._respond(scope, headers, receive, recorder)
        finally:
            self._concurrent -= 1
            _record(scope, method, state, recorder)

    async def _respond(
        self, scope: Scope, headers: Headers, receive: Receive, recorder: _ResponseRecorder
    ) -> None:
        try:
            refusal = self._check_origin(headers, recorder.request_id)
            if refusal is None:
                refusal = await self._check_limits(scope, headers, receive, recorder.request_id)
            if refusal is not None:
                await refusal(scope, receive, recorder.send)
            else:
                await self._app(scope, receive, recorder.send)
        except Exception:
            logger.exception("request failed", method=scope["method"], path=_path(scope))
            if recorder.status:
                raise  # part of the response was sent: the server can only close the connection
            response = error_response(
                500,
                "internal error; the log has the details under this request id",
                recorder.request_id,
            )
            await response(scope, receive, recorder.send)

    def _check_origin(self, headers: Headers, request_id: str) -> Response | None:
        """Return an error response if another site may have sent the request, else None."""
        if not self._loopback_only:
            return None
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not is_loopback_authority(hosts[0]):
            return error_response(
                421,
                "with AUTH_MODE=open only requests to a loopback name are answered, such as "
                "127.0.0.1 or localhost in the header Host",
                request_id,
            )
        if not all(is_loopback_origin(origin) for origin in headers.getlist("origin")):
            return error_response(
                403, "with AUTH_MODE=open requests of pages of other sites are refused", request_id
            )
        return None

    async def _check_limits(
        self, scope: Scope, headers: Headers, receive: Receive, request_id: str
    ) -> Response | None:
        """Return an error response if the request is refused, else None."""
        if self._concurrent > REQUESTS_MAX:
            return error_response(
                503, "too many concurrent requests; try again", request_id, {"Retry-After": "1"}
            )
        if (scope["method"], scope["path"]) in self._body_paths:
            return None
        length = headers.get("content-length", "0")
        if length.isascii() and length.isdigit():
            fits = len(length) < 12 and int(length) <= BODY_BYTES_MAX
        else:
            fits = False
        if fits and "transfer-encoding" in headers:
            fits = await _fits(receive)
        if fits:
            return None
        return error_response(
            413, f"the body is over {BODY_BYTES_MAX} bytes", request_id, {"Connection": "close"}
        )


class _ResponseRecorder:
    """Send function of one response that adds headers and records the status."""

    def __init__(
        self, request_id: str, state: dict[str, Any], send: Send, *, no_body: bool
    ) -> None:
        """Add the request id and `state["response_headers"]`; send no body with `no_body`."""
        self.request_id = request_id
        self.status = 0
        self.start_s = perf_counter()
        self._state = state
        self._send = send
        self._no_body = no_body

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(raw=message["headers"])
            headers[REQUEST_ID_HEADER] = self.request_id
            headers["X-Content-Type-Options"] = "nosniff"
            headers.update(self._state.get("response_headers", {}))
        elif self._no_body and message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await self._send(message)


async def _fits(receive: Receive) -> bool:
    """Return whether a body of unknown length ends within BODY_BYTES_MAX and BODY_WAIT_S."""
    received_bytes = 0
    try:
        async with asyncio.timeout(BODY_WAIT_S):
            while received_bytes <= BODY_BYTES_MAX:
                message = await receive()
                received_bytes += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return received_bytes <= BODY_BYTES_MAX
    except TimeoutError:
        pass
    return False


def _path(scope: Scope) -> str:
    """Return the path for the log, without the id of a group: it may be that of a person."""
    return _GROUP_PATH.sub(r"\1{id}", scope["path"])


def _record(scope: Scope, method: str, state: dict[str, Any], recorder: _ResponseRecorder) -> None:
    seconds = perf_counter() - recorder.start_s
    status = recorder.status or 500
    # The template of a known route, so that unknown paths do not become label values.
    route = getattr(scope.get("route"), "path", "other")
    metrics.API_REQUESTS.labels(route, str(status)).inc()
    metrics.API_REQUEST_SECONDS.labels(route).observe(seconds)
    logger.info(
        "request",
        method=method,
        path=_path(scope),
        status=status,
        duration_ms=round(seconds * 1_000, 2),
        source=state.get("source"),
        tenant=state.get("tenant"),
        key_id=state.get("key_id"),
        request_id=recorder.request_id,
    )
