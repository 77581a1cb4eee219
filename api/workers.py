"""`GET /api/v1/workers`: the workers that count, as they report themselves in Redis.

Workers count the events of all tenants, so these figures are those of the whole topic.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, Literal

import msgspec
from fastapi import APIRouter, Request
from msgspec import Struct
from starlette.responses import Response

from api import openapi
from api.access import Admin
from api.errors import bad_request, unavailable
from store.counters import PartitionProgress, Visible
from store.logs import get_logger
from store.records import StoreUnavailable
from store.redis.owners import PartitionOwners
from store.redis.reports import PROGRESS_OLD_MS, RedisReports

logger = get_logger("api")

PATH: Final = "/api/v1/workers"

#: Returns the last report on each partition of the current topic, and partition -> worker.
Reports = Callable[[], Awaitable[tuple[Sequence[PartitionProgress], Mapping[int, str]]]]


class Percentiles(Struct, rename="camel"):
    """Time from arrival in Kafka until counted, of the last events, in ms."""

    p50_ms: int
    p99_ms: int
    max_ms: int


class WorkerState(Struct, rename="camel"):
    """What one worker reported last, over its partitions."""

    worker: str
    """`<host>:<process id>`; empty = not known."""
    state: Literal["reporting", "silent"]
    """`silent`: no report within the last 10 s; its figures are unknown."""
    partitions: Sequence[int]
    offsets_per_s: float | None
    """Rate of counting in the last 10 s."""
    lag: int | None
    """Events that are not counted."""
    reported_at: str
    """Time of the oldest of the last reports on its partitions; RFC 3339, UTC."""


class WorkersState(Struct, rename="camel"):
    """Body of the response; None = unknown."""

    at: str
    """Time of the answer; RFC 3339, UTC."""
    offsets_per_s: float | None
    """Sum over the workers that report; None = none does."""
    lag: int | None
    """Events that are not counted; None = a partition has no recent report."""
    visible: Percentiles | None
    """Worst value of any partition, for each percentile; None = no event arrived lately."""
    workers: Sequence[WorkerState]


def describe(
    progress: Sequence[PartitionProgress], owners: Mapping[int, str], now_ms: int
) -> WorkersState:
    """Return the state of the workers from their reports, by worker name.

    `progress`: the last report on each partition of one topic id. `owners`: partition -> worker.
    """
    grouped: dict[tuple[str, bool], list[PartitionProgress]] = {}
    for report in progress:
        is_recent = now_ms - report.at_ms <= PROGRESS_OLD_MS
        key = (owners.get(report.partition, ""), is_recent)
        grouped.setdefault(key, []).append(report)
    recent = [p for (_, is_recent), of_worker in grouped.items() if is_recent for p in of_worker]
    visible = [p.visible for p in recent if p.visible is not None]
    return WorkersState(
        at=_time(now_ms),
        offsets_per_s=_rate(recent),
        lag=_lag(recent) if recent and len(recent) == len(progress) else None,
        visible=_worst(visible) if visible else None,
        workers=[
            WorkerState(
                worker=worker,
                state="reporting" if is_recent else "silent",
                partitions=sorted(p.partition for p in of_worker),
                offsets_per_s=_rate(of_worker) if is_recent else None,
                lag=_lag(of_worker) if is_recent else None,
                reported_at=_time(min(p.at_ms for p in of_worker)),
            )
            for (worker, is_recent), of_worker in sorted(grouped.items())
        ],
    )


def _rate(progress: Sequence[PartitionProgress]) -> float | None:
    rates = [p.offsets_per_s for p in progress if p.offsets_per_s is not None]
    return round(sum(rates), 1) if rates else None


def _lag(progress: Sequence[PartitionProgress]) -> int | None:
    """Return the sum; None if the end of a partition is unknown."""
    if any(p.end_offset is None for p in progress):
        return None
    return sum(max(0, (p.end_offset or 0) - p.next_offset) for p in progress)


def _worst(visible: Sequence[Visible]) -> Percentiles:
    return Percentiles(
        p50_ms=max(v.p50_ms for v in visible),
        p99_ms=max(v.p99_ms for v in visible),
        max_ms=max(v.max_ms for v in visible),
    )


def _time(at_ms: int) -> str:
    moment = datetime.fromtimestamp(at_ms / 1_000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def reports_from(reports: RedisReports, owners: PartitionOwners) -> Reports:
    """Return the call that reads both from Redis, for the topic id that is reported now."""

    async def read() -> tuple[Sequence[PartitionProgress], Mapping[int, str]]:
        progress = await reports.progress()
        if not progress:
            return (), {}
        topic_id = max(progress, key=lambda p: p.at_ms).topic_id
        return [p for p in progress if p.topic_id == topic_id], await owners.owners(topic_id)

    return read


def router(reports: Reports, now_ms: Callable[[], int]) -> APIRouter:
    """Return the endpoint."""
    routes = APIRouter()

    @routes.get(
        PATH,
        summary="Workers that count, of all tenants",
        tags=["system"],
        response_class=Response,
        responses=openapi.WORKERS_RESPONSES,
    )
    async def workers(request: Request, caller: Admin) -> Response:
        if request.scope["query_string"]:
            raise bad_request("this endpoint has no query parameters")
        try:
            progress, owners = await reports()
        except StoreUnavailable as error:
            logger.warning("reports of the workers unavailable", cause=str(error))
            raise unavailable("Redis cannot answer now; try again", retry_after_s=2) from error
        body = msgspec.json.encode(describe(progress, owners, now_ms()))
        return Response(body, headers={"Cache-Control": "no-store"}, media_type="application/json")

    return routes
