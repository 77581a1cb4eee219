"""Wiring: builds the application from its parts, and the parts from the settings."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.telemetry import TelemetryConfig
from limits.aio.storage import MemoryStorage
from starlette.exceptions import HTTPException
from starlette.responses import Response

from api import admin, docs_page, group_routes, openapi, page_routes, routes, system, workers
from api.access import Gate, KeyGate, OpenGate, check_startup
from api.admin import Administration
from api.asked_ranks import AskedRanks
from api.errors import ApiError, error_response
from api.group_reader import GroupReader
from api.guard import GuardedCounters
from api.key_checker import LOAD_TIMEOUT_S, KeyChecker
from api.lag import LagWatch
from api.middleware import RequestMiddleware, request_id_of
from api.rate_limit import TIMEOUT_S as RATE_LIMIT_TIMEOUT_S
from api.rate_limit import RateLimiter
from api.reader import CatalogSource, Sources, SummaryReader
from store.api_keys import ApiKey
from store.catalog import CatalogCache
from store.clock import system_clock_ms
from store.postgres.api_keys import load_active_keys, rehash_key
from store.postgres.catalog import load_catalog
from store.postgres.history import PostgresHistory
from store.postgres.pool import Pool, bounded, make_pool, ping
from store.records import CounterReader, HistoryReader, StoreUnavailable
from store.redis.client import make_client
from store.redis.counters import RedisCounters
from store.redis.evictions import RedisEvictions
from store.redis.owners import PartitionOwners
from store.redis.rate_counts import make_rate_counts
from store.settings import Settings

if TYPE_CHECKING:
    from api.tracing import ApiTraces

#: Connections in addition to those of the fallback: one for the catalog, one for `/readyz`.
CATALOG_CONNECTIONS: Final = 2
#: One loads the keys. One that stopped answering is given up, but takes up to 10 s to be closed:
#: until then the next attempts need others.
KEY_CONNECTIONS: Final = 4
CLOSE_TIMEOUT_S: Final = 1.0
#: FastAPI's own spans have the URL's query, and other variables turn them on. Ours: `api.tracing`.
NO_TELEMETRY: Final[TelemetryConfig] = {
    "tracing": False,
    "metrics": False,
    "logs": False,
    "auto_configure": False,
}


def create_app(
    settings: Settings,
    *,
    counters: CounterReader,
    history: HistoryReader,
    catalogs: CatalogSource,
    now_ms: Callable[[], int],
    gate: Gate | None = None,
    administration: Administration | None = None,
    lag: Callable[[], Awaitable[int | None]] | None = None,
    checks: Mapping[str, system.Check] | None = None,
    describe_counters: Callable[[str], Awaitable[object]] | None = None,
    worker_reports: workers.Reports | None = None,
    resources: AbstractAsyncContextManager[object] | None = None,
) -> FastAPI:
    """Return the application, built from parts that exist already.

    `now_ms`: clock that decides the current day of a tenant, in Unix milliseconds.
    `gate`: decides about the access of a request; None: AUTH_MODE=open.
    `administration`: what changes keys and catalogs; None: those endpoints are left out.
    `lag`: returns the number of events not yet counted; called in the background.
    `checks`: what `/readyz` checks, by store name.
    `describe_counters`: what `/readyz` shows of the counters of a tenant.
    `worker_reports`: returns the last reports of the workers; None: that endpoint is left out.
    `resources`: entered when the application starts, and exited when it stops.
    """
    watch = LagWatch(lag) if lag else None

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with resources or nullcontext():
            watching = asyncio.create_task(watch.run()) if watch else None
            try:
                yield
            finally:
                if watching:
                    await _cancel(watching)

    app = FastAPI(
        title="Interaction Summary",
        version=version("interaction-summary"),
        summary="Exact rolling counts of customer interactions.",
        lifespan=lifespan,
        redirect_slashes=False,
        docs_url=None,  # FastAPI's pages load their scripts from another host
        redoc_url=None,
        telemetry=NO_TELEMETRY,
    )
    app.state.gate = gate or OpenGate()
    reader = SummaryReader(settings, counters=counters, history=history, catalogs=catalogs)
    readiness = system.Readiness(checks or {}, watch, lag_events_max=settings.api_ready_lag_max)
    cache_bytes_max = settings.api_cache_mb * 1_048_576
    app.include_router(routes.router(reader, watch, now_ms, cache_bytes_max=cache_bytes_max))
    groups = GroupReader(reader, counters=counters, history=history)
    app.include_router(group_routes.router(groups, watch, now_ms))
    if administration is not None:
        app.include_router(admin.router(administration))
    app.include_router(system.router(readiness, describe_counters))
    if worker_reports is not None:
        app.include_router(workers.router(worker_reports, now_ms))
    app.include_router(docs_page.router(app.title))
    app.include_router(page_routes.router())
    openapi.install(app, (admin.NewKey, workers.WorkersState))
    app.add_middleware(
        RequestMiddleware,
        loopback_only=settings.auth_mode == "open",
        body_paths=admin.BODY_PATHS if administration is not None else frozenset(),
    )
    _handle_errors(app)
    return app


def _handle_errors(app: FastAPI) -> None:
    """Give all errors the shape of `errors`, those of FastAPI and Starlette included."""

    async def api_error(request: Request, error: Exception) -> Response:
        if not isinstance(error, ApiError):
            raise error
        return error_response(
            error.status, error.message, request_id_of(request.scope), error.headers
        )

    async def http_error(request: Request, error: Exception) -> Response:
        if not isinstance(error, HTTPException):
            raise error
        message, headers = error.detail, error.headers
        if error.status_code == 404:
            message = "there is nothing at this path"
        elif error.status_code == 405:
            message = f"{request.method} is not allowed here"
            headers = {"Allow": openapi.allowed_methods(app, request.url.path)}
        return error_response(error.status_code, message, request_id_of(request.scope), headers)

    async def validation_error(request: Request, error: Exception) -> Response:
        if not isinstance(error, RequestValidationError):
            raise error
        first = error.errors()[0]
        location = ".".join(str(part) for part in first["loc"])
        return error_response(400, f"{location}: {first['msg']}", request_id_of(request.scope))

    app.add_exception_handler(ApiError, api_error)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(RequestValidationError, validation_error)


def build(settings: Settings, *, now_ms: Callable[[], int] = system_clock_ms) -> FastAPI:
    """Return the application with Redis and PostgreSQL as its stores.

    Connections are opened when the application starts, and it starts even if a store is
    unavailable. Raises StartupRefused or TracesRefused if the settings do not allow it, and
    ValueError if the address of a store is invalid.
    """
    check_startup(settings, settings.api_host)
    redis = make_client(settings, timeout_s=settings.read_budget_ms / 1_000, retries=0)
    counters = RedisCounters(redis, settings.redis_prefix)
    pool = make_pool(
        settings,
        max_size=settings.fallback_concurrency + CATALOG_CONNECTIONS + admin.CONNECTIONS,
        statement_timeout_ms=settings.fallback_timeout_ms,
    )
    access = _KeyAccess(settings, pool) if settings.auth_mode == "keys" else None
    sources = Sources(counters, PostgresHistory(pool), partial(load_catalog, pool))
    traces: ApiTraces | None = None
    if settings.traces_enabled:
        from api.tracing import ApiTraces

        traces = ApiTraces()
        sources = traces.traced(sources)
    guarded = GuardedCounters(
        sources.counters, RedisEvictions(redis, settings.redis_prefix).refusal
    )
    asked = AskedRanks(guarded, counters.ranks, now_ms=now_ms, monotonic_s=time.monotonic)

    catalogs = CatalogCache(
        sources.load_catalog,
        refresh_s=settings.catalog_refresh_s,
        monotonic=time.monotonic,
    )

    @asynccontextmanager
    async def connections() -> AsyncIterator[None]:
        await pool.open(wait=False)
        guarding = asyncio.create_task(guarded.run())
        try:
            async with access.running() if access else nullcontext():
                yield
        finally:
            await _cancel(guarding)
            # The end of the event loop cancels them a second time, which closes their connections.
            catalogs.close()
            closes: list[Callable[[], Awaitable[object]]] = [redis.aclose, pool.close]
            if traces:
                closes.append(partial(asyncio.to_thread, traces.stop))
            await _close(*closes)

    async def describe_counters(tenant: str) -> object:
        try:
            async with asyncio.timeout(system.CHECK_TIMEOUT_S):
                generation = await counters.generation(tenant)
        except (StoreUnavailable, TimeoutError):
            return None
        if generation is None:
            return {"generation": None, "complete": False}
        return {"generation": generation.number, "complete": generation.complete}

    app = create_app(
        settings,
        counters=asked,
        history=sources.history,
        catalogs=catalogs,
        now_ms=now_ms,
        gate=access.gate if access else OpenGate(),
        administration=Administration(settings, pool, counters),
        lag=lambda: counters.reports.lag(now_ms()),
        checks={"redis": counters.ping, "postgres": partial(ping, pool)},
        describe_counters=describe_counters,
        worker_reports=workers.reports_from(
            counters.reports, PartitionOwners(redis, settings.redis_prefix)
        ),
        resources=connections(),
    )
    if traces:
        traces.add_to(app)
    return app


class _KeyAccess:
    """The parts of AUTH_MODE=keys, with connections of their own for the load of the keys.

    Summaries and changes that wait for PostgreSQL must not delay the notice of a revoked key.
    """

    def __init__(self, settings: Settings, shared: Pool) -> None:
        """Write hashes on connections of the `shared` pool."""
        self._pool = make_pool(settings, max_size=KEY_CONNECTIONS)
        counts, self._close_counts = make_rate_counts(settings, timeout_s=RATE_LIMIT_TIMEOUT_S)
        self._checker = KeyChecker(
            _StoredKeys(self._pool, shared, settings.api_key_pepper),
            pepper=settings.api_key_pepper,
            previous_pepper=settings.api_key_pepper_previous,
            stale_max_s=settings.api_keys_stale_max_s,
            monotonic=time.monotonic,
        )
        limiter = RateLimiter(counts, MemoryStorage(), now_s=time.time, monotonic=time.monotonic)
        self.gate = KeyGate(
            self._checker, limiter, default_limit_per_minute=settings.rate_limit_per_minute
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Load the keys, and keep them up to date until the end of the block."""
        await self._pool.open(wait=False)
        await self._checker.refresh()
        refreshing = asyncio.create_task(self._checker.run())
        try:
            yield
        finally:
            await _cancel(refreshing)
            await _close(self._close_counts, self._pool.close)


class _StoredKeys:
    """The keys in PostgreSQL, as `KeyChecker` needs them."""

    def __init__(self, reads: Pool, writes: Pool, pepper: str) -> None:
        self._reads = reads
        self._writes = writes
        self._pepper = pepper

    async def load(self, known_version: int) -> tuple[int, tuple[ApiKey, ...]] | None:
        return await bounded(load_active_keys(self._reads, known_version), LOAD_TIMEOUT_S)

    async def rehash(self, stored: ApiKey, key: str) -> None:
        await rehash_key(self._writes, stored, key, self._pepper)


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def _close(*closes: Callable[[], Awaitable[object]]) -> None:
    """Call all at once. One that fails or hangs must not prevent the others."""

    async def attempt(close: Callable[[], Awaitable[object]]) -> None:
        with suppress(Exception):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await close()

    await asyncio.gather(*map(attempt, closes))
