"""The outermost layer of the API, around every request: its id, limits, log line and metrics, and
the last resort for errors that nothing inside has turned into a response."""

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

from api.errors import error_response
from store import metrics
from store.logs import get_logger

logger = get_logger("api")

REQUEST_ID_HEADER: Final = "X-Request-Id"
#: No endpoint takes a body; this much is read and thrown away, so that a stray one does no harm.
BODY_BYTES_MAX: Final = 65_536
BODY_WAIT_S: Final = 5.0
#: Requests in the house at once; more wait for nothing but each other.
REQUESTS_MAX: Final = 1_000

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9_.:-]{1,128}", re.ASCII)


def request_id_of(scope: Scope) -> str:
    """The id that `RequestMiddleware` gave the request."""
    request_id: str = scope["state"]["request_id"]
    return request_id


class RequestMiddleware:
    """ASGI middleware. One log line and one count per request, whatever becomes of it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        headers = Headers(scope=scope)
        given = headers.get(REQUEST_ID_HEADER, "")
        request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(16)
        state["request_id"] = request_id
        exchange = _ResponseRecorder(request_id, send)
        self._inside += 1
        try:
            with structlog.contextvars.bound_contextvars(request_id=request_id):
                await self._guarded(scope, headers, receive, exchange)
        finally:
            self._inside -= 1
            _record(scope, state, exchange)

    async def _guarded(
        self, scope: Scope, headers: Headers, receive: Receive, exchange: _ResponseRecorder
    ) -> None:
        try:
            refusal = await self._refusal(headers, receive, exchange.request_id)
            if refusal is not None:
                await refusal(scope, receive, exchange.send)
            else:
                await self._app(scope, receive, exchange.send)
        except Exception:
            logger.exception("request failed", method=scope["method"], path=scope["path"])
            if exchange.status:
                raise  # half an answer is out: the server can only cut the connection
            response = error_response(
                500, "internal error; the log has more under this request id", exchange.request_id
            )
            await response(scope, receive, exchange.send)

    async def _refusal(
        self, headers: Headers, receive: Receive, request_id: str
    ) -> Response | None:
        """The answer for a request that is turned away at the door; None: come in."""
        if self._inside > REQUESTS_MAX:
            return error_response(
                503, "too many requests at once; try again", request_id, {"Retry-After": "1"}
            )
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
    """Passes the messages of one response on, and notes what they were."""

    def __init__(self, request_id: str, send: Send) -> None:
        self.request_id = request_id
        self.status = 0
        self.start_s = perf_counter()
        self._send = send

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            MutableHeaders(raw=message["headers"])[REQUEST_ID_HEADER] = self.request_id
        await self._send(message)


async def _fits(receive: Receive) -> bool:
    """Whether a body of unknown length ends within BODY_BYTES_MAX and BODY_WAIT_S."""
    got_bytes = 0
    try:
        async with asyncio.timeout(BODY_WAIT_S):
            while got_bytes <= BODY_BYTES_MAX:
                message = await receive()
                got_bytes += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return got_bytes <= BODY_BYTES_MAX
    except TimeoutError:
        pass
    return False


def _record(scope: Scope, state: dict[str, Any], exchange: _ResponseRecorder) -> None:
    seconds = perf_counter() - exchange.start_s
    status = exchange.status or 500
    # The template of a known route, so that invented paths do not become metrics.
    route = getattr(scope.get("route"), "path", "other")
    metrics.API_REQUESTS.labels(route, str(status)).inc()
    metrics.API_REQUEST_SECONDS.labels(route).observe(seconds)
    logger.info(
        "request",
        method=scope["method"],
        path=scope["path"],
        status=status,
        duration_ms=round(seconds * 1_000, 2),
        source=state.get("source"),
        tenant=state.get("tenant"),
        request_id=exchange.request_id,
    )
