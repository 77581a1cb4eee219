"""Wiring: builds the application from its parts, and the parts from the settings."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from functools import partial
from typing import Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from api import routes, system
from api.access import check_startup
from api.errors import ApiError, error_response
from api.guard import GuardedCounters
from api.lag import LagWatch
from api.middleware import RequestMiddleware, request_id_of
from api.reader import CatalogSource, SummaryReader
from store.catalog import CatalogCache
from store.clock import system_clock_ms
from store.postgres.catalog import load_catalog
from store.postgres.history import PostgresHistory
from store.postgres.pool import make_pool, ping
from store.records import CounterReader, HistoryReader
from store.redis.client import make_client
from store.redis.counters import RedisCounters
from store.redis.evictions import RedisEvictions
from store.settings import Settings

#: Connections in addition to those of the fallback: one for the catalog, one for `/readyz`.
CATALOG_CONNECTIONS: Final = 2
CLOSE_TIMEOUT_S: Final = 1.0


def create_app(
    settings: Settings,
    *,
    counters: CounterReader,
    history: HistoryReader,
    catalogs: CatalogSource,
    now_ms: Callable[[], int],
    lag: Callable[[], Awaitable[int | None]] | None = None,
    checks: Mapping[str, system.Check] | None = None,
    resources: AbstractAsyncContextManager[object] | None = None,
) -> FastAPI:
    """Return the application, built from parts that exist already.

    `now_ms`: clock that decides the current day of a tenant, in Unix milliseconds.
    `lag`: returns the number of events not yet counted; called in the background.
    `checks`: what `/readyz` checks, by store name.
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
                    watching.cancel()
                    with suppress(asyncio.CancelledError):
                        await watching

    app = FastAPI(
        title="Interaction Summary",
        summary="Exact rolling counts of customer interactions.",
        lifespan=lifespan,
        redirect_slashes=False,
    )
    reader = SummaryReader(settings, counters=counters, history=history, catalogs=catalogs)
    app.include_router(routes.router(reader, watch, now_ms))
    app.include_router(system.router(checks or {}))
    app.add_middleware(RequestMiddleware)
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
        message = error.detail
        if error.status_code == 404:
            message = "there is nothing at this path"
        elif error.status_code == 405:
            message = f"{request.method} is not allowed here"
        return error_response(
            error.status_code, message, request_id_of(request.scope), error.headers
        )

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
    unavailable. Raises StartupRefused if the settings do not allow it, and ValueError if the
    address of a store is invalid.
    """
    check_startup(settings, settings.api_host)
    redis = make_client(settings, timeout_s=settings.read_budget_ms / 1_000, retries=0)
    counters = RedisCounters(redis, settings.redis_prefix)
    guarded = GuardedCounters(counters, RedisEvictions(redis, settings.redis_prefix).refusal)
    pool = make_pool(
        settings,
        max_size=settings.fallback_concurrency + CATALOG_CONNECTIONS,
        statement_timeout_ms=settings.fallback_timeout_ms,
    )

    @asynccontextmanager
    async def connections() -> AsyncIterator[None]:
        await pool.open(wait=False)
        guarding = asyncio.create_task(guarded.run())
        try:
            yield
        finally:
            guarding.cancel()
            with suppress(asyncio.CancelledError):
                await guarding
            # Each with its own timeout: a close that hangs must not prevent the other.
            for close in (redis.aclose, pool.close):
                with suppress(Exception):
                    async with asyncio.timeout(CLOSE_TIMEOUT_S):
                        await close()

    return create_app(
        settings,
        counters=guarded,
        history=PostgresHistory(pool),
        catalogs=CatalogCache(
            partial(load_catalog, pool),
            refresh_s=settings.catalog_refresh_s,
            monotonic=time.monotonic,
        ),
        now_ms=now_ms,
        lag=lambda: counters.reports.lag(now_ms()),
        checks={"redis": counters.ping, "postgres": partial(ping, pool)},
        resources=connections(),
    )
