"""Spans of the API: one per request, and one per read of a store within it.

Imported only where TRACES_ENABLED is set. See `store.tracing` for what spans may contain.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Final, TypeVar

from fastapi import FastAPI
from opentelemetry import propagate
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.reader import Sources
from store.records import (
    Catalog,
    CountedGroup,
    CountedTrend,
    CounterPage,
    CounterReader,
    Grouping,
    GroupPeriods,
    GroupQuestion,
    HistoryReader,
    Incomplete,
    Page,
    Question,
    Trend,
    TrendQuestion,
    Unchanged,
)
from store.tracing import Traces, span

Found = TypeVar("Found")

#: Paths that are polled by machines.
UNTRACED_PATHS: Final = frozenset({"/healthz", "/readyz", "/metrics"})
_METHODS: Final = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})


class TraceMiddleware:
    """ASGI middleware with one span per request; goes around `RequestMiddleware`.

    Of the request's headers it reads those of the trace context only (`traceparent`): a request
    continues the trace of its caller.
    """

    def __init__(self, app: ASGIApp, tracer: Tracer) -> None:
        self._app = app
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in UNTRACED_PATHS:
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        fields = propagate.get_global_textmap().fields
        context = propagate.extract({name: headers[name] for name in fields if name in headers})
        method = scope["method"] if scope["method"] in _METHODS else "_OTHER"
        attributes = {"http.request.method": method, "url.scheme": scope.get("scheme", "http")}
        with span(self._tracer, method, SpanKind.SERVER, attributes, context) as current:

            async def send_recorded(message: Message) -> None:
                if message["type"] == "http.response.start":
                    _describe(current, method, scope, message["status"])
                await send(message)

            await self._app(scope, receive, send_recorded)


def _describe(current: Span, method: str, scope: Scope, status: int) -> None:
    """Add what is known when the response starts."""
    current.set_attribute("http.response.status_code", status)
    # The template of a known route: a path is text of the client.
    route = getattr(scope.get("route"), "path", None)
    if route is not None:
        current.update_name(f"{method} {route}")
        current.set_attribute("http.route", route)
    state = scope.get("state", {})
    for name in ("request_id", "source"):
        if name in state:
            current.set_attribute(f"interaction_summary.{name}", state[name])
    if status >= 500:
        current.set_attribute("error.type", str(status))
        current.set_status(StatusCode.ERROR)


class TracedCounters:
    """The counters, with one span per read: the call of one script."""

    def __init__(self, counters: CounterReader, tracer: Tracer) -> None:
        self._counters = counters
        self._tracer = tracer

    async def read(self, question: Question) -> CounterPage | Unchanged | Incomplete:
        """Return the counters' answer. Raises StoreUnavailable."""
        return await self._traced(question.group_by, self._counters.read(question))

    async def read_group(self, question: GroupQuestion) -> CountedGroup | Incomplete:
        """Return the counters' answer. Raises StoreUnavailable."""
        return await self._traced(question.group_by, self._counters.read_group(question))

    async def read_trend(self, question: TrendQuestion) -> CountedTrend | Incomplete:
        """Return the counters' answer. Raises StoreUnavailable."""
        return await self._traced(question.group_by, self._counters.read_trend(question))

    async def _traced(self, group_by: Grouping, read: Awaitable[Found]) -> Found:
        attributes = {"db.system.name": "redis", "interaction_summary.group_by": group_by}
        with span(self._tracer, "read counters", SpanKind.CLIENT, attributes) as current:
            answer = await read
            if isinstance(answer, Incomplete):
                current.set_attribute("interaction_summary.fallback_reason", answer.reason)
            return answer


class TracedHistory:
    """History, with one span per read: the transaction of one query, and the wait for it."""

    def __init__(self, history: HistoryReader, tracer: Tracer) -> None:
        self._history = history
        self._tracer = tracer

    async def read(self, question: Question) -> Page:
        """Return the page of the question. Raises StoreUnavailable."""
        return await self._traced(question.group_by, self._history.read(question))

    async def read_group(self, question: GroupQuestion) -> GroupPeriods | None:
        """Return the group of the question. Raises StoreUnavailable."""
        return await self._traced(question.group_by, self._history.read_group(question))

    async def read_trend(self, question: TrendQuestion) -> Trend | None:
        """Return the days of the question. Raises StoreUnavailable."""
        return await self._traced(question.group_by, self._history.read_trend(question))

    async def _traced(self, group_by: Grouping, read: Awaitable[Found]) -> Found:
        attributes = {"db.system.name": "postgresql", "interaction_summary.group_by": group_by}
        with span(self._tracer, "read history", SpanKind.CLIENT, attributes):
            return await read


class ApiTraces(Traces):
    """Traces of one API process."""

    def __init__(self) -> None:
        super().__init__("interaction-summary-api")

    def traced(self, sources: Sources) -> Sources:
        """Return the sources, with a span per read.

        The span of a catalog belongs to the request that began to load it.
        """

        async def load_catalog(tenant: str) -> Catalog:
            attributes = {"db.system.name": "postgresql"}
            with span(self.tracer, "load catalog", SpanKind.CLIENT, attributes):
                return await sources.load_catalog(tenant)

        return Sources(
            TracedCounters(sources.counters, self.tracer),
            TracedHistory(sources.history, self.tracer),
            load_catalog,
        )

    def add_to(self, app: FastAPI) -> None:
        """Make a span per request: around all middleware that the app has."""
        app.add_middleware(TraceMiddleware, tracer=self.tracer)
