"""Gathering of the `status` report from Kafka, the counters and Postgres.

Each store is asked separately, so that one that is unavailable does not hide the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final, TypeVar

from cli.status_document import (
    LogChangeStatus,
    PartitionStatus,
    Sizes,
    Status,
    TenantStatus,
    VisibleStatus,
)
from store.clock import system_clock_ms
from store.counters import Incidents, PartitionProgress, TenantOverview
from store.postgres.catalog import DEFAULT_TIMEZONE, timezones
from store.postgres.history import HistoryWriter, history_bytes
from store.postgres.pool import Pool, open_pool
from store.records import StoreUnavailable
from store.redis.client import Client, memory_bytes, open_client
from store.redis.counters import RedisCounters
from store.settings import Settings
from store.windows import PERIODS, date_of, window_of
from streams.decode.timestamps import format_ms
from streams.freshness import RECENT_MS
from streams.kafka.topic_id import TopicDescription, check_brokers, describe_topic
from streams.kafka.topic_reader import Tail, read_tails

T = TypeVar("T")

#: A healthy broker answers in a fraction of this.
BROKER_TIMEOUT_S: Final = 10.0
STORE_TIMEOUT_S: Final = 5.0


async def gather_status(
    settings: Settings, *, now_ms: Callable[[], int] = system_clock_ms
) -> Status:
    """Return the report of all stores.

    A store that is unavailable does not raise: it is named in `errors`, and its values are None.
    """
    async with (
        open_client(settings, timeout_s=STORE_TIMEOUT_S, retries=1) as client,
        open_pool(settings, max_size=2) as pool,
    ):
        return await _gather(settings, client, pool, now_ms)


async def _gather(
    settings: Settings, client: Client, pool: Pool, now_ms: Callable[[], int]
) -> Status:
    counters = RedisCounters(client, settings.redis_prefix)
    errors: dict[str, str] = {}

    async def answer_of(store: str, call: Awaitable[T]) -> T | None:
        try:
            return await call
        except StoreUnavailable as error:
            errors.setdefault(store, str(error))
            return None

    topic, progress, tenants, timezone_of, redis_size, history_size = await asyncio.gather(
        answer_of("kafka", _describe(settings)),
        answer_of("redis", counters.reports.progress()),
        answer_of("redis", counters.overview()),
        answer_of("postgres", timezones(pool)),
        answer_of("redis", memory_bytes(client)),
        answer_of("postgres", history_bytes(pool, timeout_s=STORE_TIMEOUT_S)),
    )
    incidents = await answer_of("redis", counters.reports.incidents())
    partitions: list[PartitionStatus] = []
    if topic is not None:
        reports = None if progress is None else _reports_of(topic, progress)
        counted = {p: r.next_offset for p, r in (reports or {}).items()}
        stored = await answer_of("postgres", HistoryWriter(pool).positions(topic.topic_id))
        tails = await answer_of("kafka", read_tails(settings, topic, counted))
        partitions = [
            _partition(p, tails, reports, stored, now_ms()) for p in range(topic.partitions)
        ]
    return Status(
        topic=settings.interactions_topic,
        topic_id=topic.topic_id if topic else None,
        lag=_sum(p.lag for p in partitions),
        history_lag=_sum(p.history_lag for p in partitions),
        waiting_ms=_longest(p.waiting_ms for p in partitions),
        visible=_worst([p.visible for p in partitions if p.visible is not None]),
        partitions=partitions,
        lost_offsets=incidents.lost_offsets if incidents else None,
        log_changes=_log_changes(incidents),
        tenants=[_tenant(overview, timezone_of) for overview in tenants or ()],
        sizes=Sizes(redis_bytes=redis_size, history_bytes=history_size),
        errors=errors,
    )


async def _describe(settings: Settings) -> TopicDescription:
    # Fails at once if no broker answers, while `describe_topic` keeps trying.
    await check_brokers(settings, timeout_s=BROKER_TIMEOUT_S)
    return await describe_topic(settings, settings.interactions_topic)


# --- partitions


def _reports_of(
    topic: TopicDescription, progress: Sequence[PartitionProgress]
) -> dict[int, PartitionProgress]:
    """Return the workers' last report on each partition of the topic, without older topic ids."""
    return {p.partition: p for p in progress if p.topic_id == topic.topic_id}


def _partition(
    partition: int,
    tails: Mapping[int, Tail] | None,
    reports: Mapping[int, PartitionProgress] | None,
    stored: Mapping[int, int] | None,
    now_ms: int,
) -> PartitionStatus:
    """Return the status of one partition; a mapping of None means that its store is unavailable."""
    tail = None if tails is None else tails.get(partition)
    end = None if tail is None else tail.end
    report = None if reports is None else reports.get(partition)
    # A store that answers without this partition has counted or stored nothing of it.
    counted_to = None if reports is None else report.next_offset if report else 0
    stored_to = None if stored is None else stored.get(partition, 0)
    return PartitionStatus(
        partition=partition,
        end=end,
        counted=counted_to,
        lag=_lag(end, counted_to),
        stored=stored_to,
        history_lag=_lag(end, stored_to),
        waiting_ms=None if tail is None or counted_to is None else _waiting(tail, now_ms),
        visible=_visible(report, now_ms),
    )


def _lag(end: int | None, next_offset: int | None) -> int | None:
    return None if end is None or next_offset is None else max(0, end - next_offset)


def _waiting(tail: Tail, now_ms: int) -> int | None:
    if not tail.has_more:
        return 0
    return None if tail.arrived_ms is None else max(0, now_ms - tail.arrived_ms)


def _visible(report: PartitionProgress | None, now_ms: int) -> VisibleStatus | None:
    # The last report of a worker that has ended says nothing about the present.
    if report is None or report.visible is None or report.at_ms <= now_ms - RECENT_MS:
        return None
    return VisibleStatus(*report.visible)


# --- all partitions together


def _sum(lags: Iterable[int | None]) -> int | None:
    """Return the sum; None if there is nothing to add up or any value is unknown."""
    known = list(lags)
    return sum(lag for lag in known if lag is not None) if known and None not in known else None


def _longest(waits_ms: Iterable[int | None]) -> int | None:
    """Return the longest wait; None if there is none or any is unknown."""
    known = list(waits_ms)
    return None if None in known else max((ms for ms in known if ms is not None), default=None)


def _worst(visible: Sequence[VisibleStatus]) -> VisibleStatus | None:
    if not visible:
        return None
    return VisibleStatus(
        p50_ms=max(v.p50_ms for v in visible),
        p99_ms=max(v.p99_ms for v in visible),
        max_ms=max(v.max_ms for v in visible),
    )


# --- tenants and incidents


def _tenant(overview: TenantOverview, timezone_of: Mapping[str, str] | None) -> TenantStatus:
    windows: dict[str, dict[str, str | None]] = {}
    for period in PERIODS:
        start, end = window_of(period, overview.day)
        windows[period] = {
            "start": None if start is None else date_of(start).isoformat(),
            "end": None if end is None else date_of(end).isoformat(),
        }
    return TenantStatus(
        tenant=overview.tenant,
        generation=overview.generation,
        complete=overview.complete,
        timezone=overview.timezone,
        catalog_timezone=(
            None if timezone_of is None else timezone_of.get(overview.tenant, DEFAULT_TIMEZONE)
        ),
        day=date_of(overview.day).isoformat(),
        rolled=date_of(overview.rolled).isoformat(),
        windows=windows,
        groups={str(grouping): groups for grouping, groups in overview.groups.items()},
        over={str(grouping): interactions for grouping, interactions in overview.overflow.items()},
    )


def _log_changes(incidents: Incidents | None) -> list[LogChangeStatus]:
    changes = incidents.log_changes if incidents else ()
    return [LogChangeStatus(c.kind, c.topic_id, format_ms(c.at_ms)) for c in changes]
