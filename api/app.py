"""Wiring: the application from its parts, and the parts from the settings."""

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

from api import routes as summary
from api import system
from api.access import check_startup
from api.errors import ApiError, error_response
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
from store.settings import Settings

#: Connections beyond those of the fallback: for the catalog and for `/readyz`.
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
    """The application, from parts that exist already.

    `lag` is asked in the background; `checks` are what `/readyz` looks at; `resources` is entered
    at start and left at the end.
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
    app.include_router(summary.router(reader, watch, now_ms))
    app.include_router(system.router(checks or {}))
    app.add_middleware(RequestMiddleware)
    _handle_errors(app)
    return app


def _handle_errors(app: FastAPI) -> None:
    """Give the errors that FastAPI and Starlette raise our shape."""

    async def ours(request: Request, error: Exception) -> Response:
        if not isinstance(error, ApiError):
            raise error
        return error_response(
            error.status, error.message, request_id_of(request.scope), error.headers
        )

    async def theirs(request: Request, error: Exception) -> Response:
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

    async def invalid(request: Request, error: Exception) -> Response:
        if not isinstance(error, RequestValidationError):
            raise error
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return error_response(400, f"{where}: {first['msg']}", request_id_of(request.scope))

    app.add_exception_handler(ApiError, ours)
    app.add_exception_handler(HTTPException, theirs)
    app.add_exception_handler(RequestValidationError, invalid)


def build(settings: Settings, *, now_ms: Callable[[], int] = system_clock_ms) -> FastAPI:
    """The application with its real stores. Nothing is connected before it starts, and it starts
    whether or not they answer. Raises StartupRefused where the settings do not allow it, and
    ValueError for an address of a store that is none."""
    check_startup(settings, settings.api_host)
    redis = make_client(settings, timeout_s=settings.read_budget_ms / 1_000, retries=0)
    counters = RedisCounters(redis, settings.redis_prefix)
    pool = make_pool(
        settings,
        max_size=settings.fallback_concurrency + CATALOG_CONNECTIONS,
        statement_timeout_ms=settings.fallback_timeout_ms,
    )

    @asynccontextmanager
    async def connections() -> AsyncIterator[None]:
        await pool.open(wait=False)
        try:
            yield
        finally:
            # In turn and each on its own: one that hangs must not keep the other open.
            for close in (redis.aclose, pool.close):
                with suppress(Exception):
                    async with asyncio.timeout(CLOSE_TIMEOUT_S):
                        await close()

    return create_app(
        settings,
        counters=counters,
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
