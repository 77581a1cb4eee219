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
    VisibleStatus,
)
from cli.status_problems import problems_of
from cli.status_tenants import (
    TenantFacts,
    gap_status,
    rebuild_status,
    running_status,
    tenant_status,
)
from store.clock import system_clock_ms
from store.counters import Incidents, PartitionProgress, TenantOverview
from store.offsets import offsets_in
from store.postgres.catalog import timezones
from store.postgres.gaps import HistoryGaps
from store.postgres.history import HistoryWriter, history_bytes
from store.postgres.pool import Pool, open_pool
from store.postgres.quarantine import Quarantine, QuarantineSummary
from store.records import StoreUnavailable
from store.redis.client import Client, open_client
from store.redis.counters import RedisCounters, open_counters
from store.redis.health import health_of
from store.redis.owners import PartitionOwners
from store.redis.reports import PROGRESS_OLD_MS, RedisReports
from store.settings import Settings
from streams.decode.timestamps import format_ms
from streams.freshness import RECENT_MS
from streams.kafka.topic_id import TopicDescription, check_brokers, describe_topic
from streams.kafka.topic_reader import Tail, read_tails
from streams.kafka.topic_size import TopicSize, topic_size

T = TypeVar("T")

#: A healthy broker answers in a fraction of this.
BROKER_TIMEOUT_S: Final = 10.0
STORE_TIMEOUT_S: Final = 5.0
HOUR_MS: Final = 3_600_000


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


class _Answers:
    """Answers of the stores, and why a store did not answer."""

    def __init__(self) -> None:
        self.errors: dict[str, str] = {}

    async def of(self, store: str, call: Awaitable[T]) -> T | None:
        """Return the answer; None if `store` is unavailable."""
        try:
            return await call
        except StoreUnavailable as error:
            self.errors.setdefault(store, str(error))
            return None


async def _gather(
    settings: Settings, client: Client, pool: Pool, now_ms: Callable[[], int]
) -> Status:
    counters = RedisCounters(client, settings.redis_prefix)
    reports, builds = counters.reports, counters.builds
    answers = _Answers()
    topic, dead_letters, overviews, audits, results, running = await asyncio.gather(
        answers.of("kafka", _describe(settings)),
        answers.of("kafka", _dead_letters(settings, now_ms())),
        answers.of("redis", counters.overview()),
        answers.of("redis", reports.audits()),
        answers.of("redis", builds.results()),
        answers.of("redis", builds.running(now_ms())),
    )
    incidents, health, timezone_of, history_size, history_gaps, quarantined = await asyncio.gather(
        answers.of("redis", reports.incidents()),
        answers.of("redis", health_of(client)),
        answers.of("postgres", timezones(pool)),
        answers.of("postgres", history_bytes(pool, timeout_s=STORE_TIMEOUT_S)),
        answers.of("postgres", HistoryGaps(pool, timeout_s=STORE_TIMEOUT_S).gaps()),
        answers.of("postgres", Quarantine(pool, timeout_s=STORE_TIMEOUT_S).summary()),
    )
    partitions: Sequence[PartitionStatus] = ()
    if topic is not None:
        owners = PartitionOwners(client, settings.redis_prefix)
        partitions = await _partitions(
            settings,
            topic,
            answers=answers,
            reports=reports,
            owners=owners,
            writer=HistoryWriter(pool),
            now_ms=now_ms,
        )
    facts = TenantFacts(
        timezones=timezone_of,
        running=running or {},
        results=results or {},
        audits=audits or {},
        keep_ms=settings.generation_keep_h * HOUR_MS,
    )
    newest = dead_letters.newest_ms if dead_letters else None
    report = Status(
        topic=settings.interactions_topic,
        topic_id=topic.topic_id if topic else None,
        lag=_sum(p.lag for p in partitions),
        history_lag=_sum(p.history_lag for p in partitions),
        waiting_ms=_longest(p.waiting_ms for p in partitions),
        visible=_worst([p.visible for p in partitions if p.visible is not None]),
        partitions=partitions,
        lost_offsets=incidents.lost_offsets if incidents else None,
        log_changes=_log_changes(incidents),
        tenants=[tenant_status(overview, facts) for overview in overviews or ()],
        sizes=Sizes(
            redis_bytes=health.used_bytes if health else None,
            history_bytes=history_size,
            redis_max_bytes=health.max_bytes if health else None,
            redis_policy=health.policy if health else None,
            redis_used_ratio=health.used_ratio if health else None,
            redis_evicts_counters=health.evicts_counters if health else None,
            redis_evicted_keys=health.evicted_keys if health else None,
            redis_unsaved_s=health.unsaved_s if health else None,
        ),
        errors=answers.errors,
        at=format_ms(now_ms()),
        rebuilds=[running_status(*each) for each in sorted(facts.running.items())],
        failed_rebuilds={
            tenant: rebuild_status(result)
            for tenant, result in sorted(facts.results.items())
            if result["phase"] != "done"
        },
        counter_gaps=None if overviews is None else _counter_gaps(overviews),
        history_gaps=None if history_gaps is None else [gap_status(gap) for gap in history_gaps],
        history_gap_offsets=None if history_gaps is None else offsets_in(history_gaps),
        dead_letters=dead_letters.offsets if dead_letters else None,
        newest_dead_letter_at=None if newest is None else format_ms(newest),
        quarantined=quarantined.total if quarantined else None,
        newest_quarantined_at=quarantined_at(quarantined),
    )
    report.attention = problems_of(report)
    return report


async def _dead_letters(settings: Settings, now_ms: int) -> TopicSize:
    await check_brokers(settings, timeout_s=BROKER_TIMEOUT_S)
    return await topic_size(settings, settings.dead_letter_topic, now_ms=now_ms)


def quarantined_at(summary: QuarantineSummary | None) -> str | None:
    """Return when the newest quarantined record was stored; None if there is none, or unknown."""
    if summary is None or summary.newest_at is None:
        return None
    return format_ms(int(summary.newest_at.timestamp() * 1_000))


async def lag_of(settings: Settings) -> int | None:
    """Return the number of events that are not counted; None = unknown.

    Asks for nothing else, for callers that wait until all is counted. Raises StoreUnavailable.
    """
    async with open_counters(settings, timeout_s=STORE_TIMEOUT_S) as counters:
        topic = await _describe(settings)
        reports = _reports_of(topic, await counters.reports.progress())
        counted = {p: report.next_offset for p, report in reports.items()}
        tails = await read_tails(settings, topic, counted, now_ms=system_clock_ms())
    return _sum(_lag(tails[p].end, counted.get(p, 0)) for p in range(topic.partitions))


async def _describe(settings: Settings) -> TopicDescription:
    # Fails at once if no broker answers, while `describe_topic` keeps trying.
    await check_brokers(settings, timeout_s=BROKER_TIMEOUT_S)
    return await describe_topic(settings, settings.interactions_topic)


# --- partitions


async def _partitions(
    settings: Settings,
    topic: TopicDescription,
    *,
    answers: _Answers,
    reports: RedisReports,
    owners: PartitionOwners,
    writer: HistoryWriter,
    now_ms: Callable[[], int],
) -> list[PartitionStatus]:
    progress = await answers.of("redis", reports.progress())
    found = None if progress is None else _reports_of(topic, progress)
    counted = {p: r.next_offset for p, r in (found or {}).items()}
    owner_of, stored, tails = await asyncio.gather(
        answers.of("redis", owners.owners(topic.topic_id)),
        answers.of("postgres", writer.positions(topic.topic_id)),
        answers.of("kafka", read_tails(settings, topic, counted, now_ms=now_ms())),
    )
    at_ms = now_ms()
    return [
        _partition(
            p, tails=tails, reports=found, stored=stored, owner_of=owner_of or {}, now_ms=at_ms
        )
        for p in range(topic.partitions)
    ]


def _reports_of(
    topic: TopicDescription, progress: Sequence[PartitionProgress]
) -> dict[int, PartitionProgress]:
    """Return the workers' last report on each partition of the topic, without older topic ids."""
    return {p.partition: p for p in progress if p.topic_id == topic.topic_id}


def _partition(
    partition: int,
    *,
    tails: Mapping[int, Tail] | None,
    reports: Mapping[int, PartitionProgress] | None,
    stored: Mapping[int, int] | None,
    owner_of: Mapping[int, str],
    now_ms: int,
) -> PartitionStatus:
    """Return the status of one partition; a mapping of None means that its store is unavailable."""
    tail = None if tails is None else tails.get(partition)
    end = None if tail is None else tail.end
    report = None if reports is None else reports.get(partition)
    # A store that answers without this partition has counted or stored nothing of it.
    counted_to = None if reports is None else report.next_offset if report else 0
    stored_to = None if stored is None else stored.get(partition, 0)
    # The last report of a worker that has ended says nothing about the present.
    is_owned = report is not None and now_ms - report.at_ms <= PROGRESS_OLD_MS
    return PartitionStatus(
        partition=partition,
        end=end,
        counted=counted_to,
        lag=_lag(end, counted_to),
        stored=stored_to,
        history_lag=_lag(end, stored_to),
        waiting_ms=None if tail is None or counted_to is None else _waiting(tail, now_ms),
        visible=_visible(report, now_ms),
        owner=owner_of.get(partition, "") if is_owned else None,
        offsets_per_s=report.offsets_per_s if report and is_owned else None,
        reported_at=format_ms(report.at_ms) if report else None,
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


# --- incidents


def _log_changes(incidents: Incidents | None) -> list[LogChangeStatus]:
    changes = incidents.log_changes if incidents else ()
    return [LogChangeStatus(c.kind, c.topic_id, format_ms(c.at_ms)) for c in changes]


def _counter_gaps(overviews: Sequence[TenantOverview]) -> int:
    """Return the number of offsets that the active counters of any tenant lack."""
    return offsets_in(
        gap
        for overview in overviews
        for state in overview.generations
        if state.active
        for gap in state.missing.gaps
    )
