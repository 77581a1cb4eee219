"""`/healthz`, `/readyz` and `/metrics`: the endpoints for operating the reader."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import msgspec
from fastapi import APIRouter
from starlette.responses import Response

from store import metrics

Check = Callable[[], Awaitable[object]]

CHECK_TIMEOUT_S: Final = 1.0


def router(checks: Mapping[str, Check]) -> APIRouter:
    """Return the endpoints.

    `checks`: store name -> a call that raises if the store cannot answer.
    """
    routes = APIRouter(tags=["system"])

    @routes.get("/healthz", summary="Liveness of the process")
    async def healthz() -> Response:
        return _json(200, {"status": "ok"})

    @routes.get(
        "/readyz",
        summary="Availability of the stores",
        responses={503: {"description": "No store answers."}},
    )
    async def readyz() -> Response:
        results = await asyncio.gather(*(_result(check) for check in checks.values()))
        ready = "ok" in results or not results
        status = "ok" if all(r == "ok" for r in results) else "degraded" if ready else "down"
        return _json(
            200 if ready else 503,
            {"status": status, "stores": dict(zip(checks, results, strict=True))},
        )

    @routes.get("/metrics", summary="Prometheus metrics")
    async def prometheus() -> Response:
        return Response(metrics.exposition(), headers={"Content-Type": metrics.CONTENT_TYPE})

    return routes


async def _result(check: Check) -> str:
    """Return `ok`, or `error: ` and the cause in one line."""
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            await check()
    except TimeoutError:
        return f"error: no answer within {CHECK_TIMEOUT_S:g} s"
    except Exception as error:
        lines = str(error).splitlines()
        return f"error: {lines[0][:200] if lines else type(error).__name__}"
    return "ok"


def _json(status: int, body: object) -> Response:
    return Response(
        msgspec.json.encode(body),
        status_code=status,
        headers={"Cache-Control": "no-store"},
        media_type="application/json",
    )
