"""`/healthz`, `/readyz` and `/metrics`: the endpoints for operating the reader."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from api import openapi
from api.access import Access, optional_access
from api.errors import error_object
from api.lag import LagWatch
from api.middleware import request_id_of
from store import metrics
from store.logs import get_logger

logger = get_logger("api")

Check = Callable[[], Awaitable[object]]

CHECK_TIMEOUT_S: Final = 1.0
#: Requests within this time share one check: anybody may ask, and each check costs a connection.
CHECK_EVERY_S: Final = 0.5


class Readiness:
    """State of the stores and of the lag, checked on request."""

    def __init__(
        self,
        checks: Mapping[str, Check],
        lag: LagWatch | None,
        *,
        lag_events_max: int,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Check the stores with `checks`: store name -> a call that raises if it cannot answer.

        Not ready while more than `lag_events_max` events are not counted yet; 0 = no limit.
        """
        self._checks = checks
        self._lag = lag
        self._lag_events_max = lag_events_max
        self._monotonic = monotonic
        self._began_s = -CHECK_EVERY_S
        self._checking: asyncio.Task[dict[str, str]] | None = None

    async def state(self) -> tuple[bool, dict[str, Any]]:
        """Return whether the reader is ready, and the details."""
        now_s = self._monotonic()
        if self._checking is None or (
            self._checking.done() and now_s - self._began_s >= CHECK_EVERY_S
        ):
            self._began_s = now_s
            self._checking = asyncio.create_task(self._check_all(), name="readiness")
        stores = await asyncio.shield(self._checking)
        lag = self._lag.events if self._lag else None
        is_behind = bool(self._lag_events_max) and (lag or 0) > self._lag_events_max
        answered = list(stores.values()).count("ok")
        if stores and not answered:
            status = "down"
        elif is_behind:
            status = "behind"
        else:
            status = "ok" if answered == len(stores) else "degraded"
        return status in ("ok", "degraded"), {
            "status": status,
            "stores": stores,
            "lag": {"events": lag, "max": self._lag_events_max or None},
        }

    async def _check_all(self) -> dict[str, str]:
        results = await asyncio.gather(*(_result(*check) for check in self._checks.items()))
        return dict(zip(self._checks, results, strict=True))


def router(
    readiness: Readiness, describe_counters: Callable[[str], Awaitable[object]] | None
) -> APIRouter:
    """Return the endpoints.

    `describe_counters`: returns what `/readyz` shows of the counters of a tenant.
    """
    routes = APIRouter(tags=["system"])

    @routes.get("/healthz", summary="Liveness of the process", responses=openapi.HEALTH_RESPONSES)
    async def healthz() -> Response:
        return _json(200, {"status": "ok"})

    @routes.get(
        "/readyz",
        summary="Whether the reader can answer; with an API key also why not",
        responses=openapi.READINESS_RESPONSES,
        openapi_extra={"security": openapi.KEY_OPTIONAL},
    )
    async def readyz(
        request: Request, caller: Annotated[Access | None, Depends(optional_access)]
    ) -> Response:
        ready, details = await readiness.state()
        if caller is None:
            details = {"status": details["status"]}
        elif describe_counters is not None:
            details["counters"] = await describe_counters(caller.tenant)
        if ready:
            return _json(200, details)
        message = "not ready: no store answers, or the lag is over API_READY_LAG_MAX"
        return _json(503, {**error_object(503, message, request_id_of(request.scope)), **details})

    @routes.get("/metrics", summary="Prometheus metrics", responses=openapi.METRICS_RESPONSES)
    async def prometheus() -> Response:
        return Response(metrics.exposition("api"), headers={"Content-Type": metrics.CONTENT_TYPE})

    return routes


async def _result(store: str, check: Check) -> str:
    """Return `ok` or what is wrong; the cause, which may name addresses, is only logged."""
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            await check()
    except TimeoutError:
        return f"no answer within {CHECK_TIMEOUT_S:g} s"
    except Exception as error:
        logger.warning("store not ready", store=store, cause=str(error) or type(error).__name__)
        return "unavailable"
    return "ok"


def _json(status: int, body: object) -> Response:
    return Response(
        msgspec.json.encode(body),
        status_code=status,
        headers={"Cache-Control": "no-store"},
        media_type="application/json",
    )
