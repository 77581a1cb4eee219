"""The state of everything at one glance, asked of Kafka, the counters and Postgres. Each part is
asked on its own, so that one that is away does not hide the others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError
from msgspec import Struct, field

from cli.console import described
from store.clock import system_clock_ms
from store.counters import PartitionProgress, TenantOverview
from store.postgres.catalog import DEFAULT_TIMEZONE, timezones
from store.postgres.history import HistoryWriter
from store.postgres.pool import Pool, make_pool, transaction
from store.records import StoreUnavailable
from store.redis.client import Client, make_client, redis_errors
from store.redis.counters import RedisCounters
from store.settings import Settings
from store.windows import PERIODS, date_of, window_of
from streams.decode.timestamps import format_ms
from streams.freshness import RECENT_MS
from streams.kafka.topic_id import TopicDescription, describe_topic

T = TypeVar("T")

#: Kafka answers a fetch in a fraction of this, or is in trouble.
ENDS_TIMEOUT_S: Final = 10.0
#: When all ends are known, the first record of each partition comes with one of the next answers,
#: or not at all: a log may end with what is no record.
LOOKS_AFTER_END: Final = 10
STORE_TIMEOUT_S: Final = 5.0

_HISTORY_BYTES: Final = """
SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint FROM pg_class
WHERE oid IN (SELECT inhrelid FROM pg_inherits
              WHERE inhparent = to_regclass('interaction_history'))
   OR oid = to_regclass('interaction_ids')
"""


class VisibleStatus(Struct, rename="camel"):
    """From arrival in Kafka until counted, of the events counted last: ms that half of them, 99% of
    them and all of them took at most."""

    p50_ms: int
    p99_ms: int
    max_ms: int


class PartitionStatus(Struct, rename="camel"):
    """Offsets are the next one to write, to count, to store in history. None = not known: Kafka or
    the store did not answer."""

    partition: int
    end: int | None
    counted: int | None
    lag: int | None
    """end - counted; 0 = all counted."""
    stored: int | None
    history_lag: int | None
    waiting_ms: int | None
    """For how long the oldest event that is not counted has been in Kafka; 0 = all counted."""
    visible: VisibleStatus | None
    """None = no event arrived and was counted in the last minute."""


class TenantStatus(Struct, rename="camel"):
    tenant: str
    generation: int
    complete: bool
    """Whether the counters hold all that history does; else history answers."""
    timezone: str
    """Of the counters: the zone that the tenant had when they began."""
    catalog_timezone: str | None
    """The zone that the tenant has now; where it is another, history answers until the counters are
    rebuilt. None = not known: Postgres did not answer."""
    day: str
    """The day that the windows end with."""
    rolled: str
    """The day up to which windows are rolled; before `day` while that goes on."""
    windows: Mapping[str, Mapping[str, str | None]]
    """Period -> {start, end}; alltime has neither."""
    groups: Mapping[str, int]
    """Grouping -> ids ever seen."""
    over: Mapping[str, int]
    """Grouping -> interactions of ids beyond the limit, which count as one: history answers."""


class Sizes(Struct, rename="camel"):
    redis_bytes: int | None
    history_bytes: int | None


class LogChangeStatus(Struct, rename="camel"):
    kind: str
    """recreated (somebody made the topic anew) or cut (it ended before what was counted)"""
    topic_id: str = field(name="log")
    at: str


class Status(Struct, rename="camel"):
    """What `status --json` prints."""

    topic: str
    topic_id: str | None = field(name="log")
    """The topic's id: a topic made anew has another."""
    lag: int | None
    history_lag: int | None
    waiting_ms: int | None
    """Of the partition that waits longest."""
    visible: VisibleStatus | None
    """The worst of any partition."""
    partitions: Sequence[PartitionStatus]
    lost_offsets: int | None
    """Offsets that retention took before they were counted. Where history has them,
    `rebuild --from history` counts them."""
    log_changes: Sequence[LogChangeStatus]
    tenants: Sequence[TenantStatus]
    sizes: Sizes
    errors: Mapping[str, str]
    """kafka, redis, postgres: why it did not answer. Empty = all did."""


async def gather(settings: Settings, *, now_ms: Callable[[], int] = system_clock_ms) -> Status:
    """Asks all. Never raises for a store that is away: `errors` has it."""
    client = make_client(settings, timeout_s=STORE_TIMEOUT_S, retries=1)
    pool = make_pool(settings, max_size=2)
    try:
        await pool.open()
        return await _gather(settings, client, pool, now_ms)
    finally:
        await pool.close()
        await client.aclose()


async def _gather(
    settings: Settings, client: Client, pool: Pool, now_ms: Callable[[], int]
) -> Status:
    counters = RedisCounters(client, settings.redis_prefix)
    errors: dict[str, str] = {}

    async def asked(store: str, question: Awaitable[T]) -> T | None:
        try:
            return await question
        except StoreUnavailable as error:
            errors.setdefault(store, str(error))
            return None

    topic, progress, tenants, zones, redis_bytes, history_bytes = await asyncio.gather(
        asked("kafka", _describe(settings)),
        asked("redis", counters.reports.progress()),
        asked("redis", counters.overview()),
        asked("postgres", timezones(pool)),
        asked("redis", _redis_bytes(client)),
        asked("postgres", _history_bytes(pool)),
    )
    incidents = await asked("redis", counters.reports.incidents())
    partitions: list[PartitionStatus] = []
    if topic is not None:
        reports = None if progress is None else _reports(progress, topic)
        counted = {p: r.next_offset for p, r in (reports or {}).items()}
        stored = await asked("postgres", HistoryWriter(pool).positions(topic.topic_id))
        tails = await asked("kafka", _tails(settings, topic, counted))
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
        log_changes=[
            LogChangeStatus(c.kind, c.topic_id, format_ms(c.at_ms)) for c in incidents.log_changes
        ]
        if incidents
        else [],
        tenants=[_tenant(overview, zones) for overview in tenants or ()],
        sizes=Sizes(redis_bytes, history_bytes),
        errors=errors,
    )


def _reports(
    progress: Sequence[PartitionProgress], topic: TopicDescription
) -> dict[int, PartitionProgress]:
    return {p.partition: p for p in progress if p.topic_id == topic.topic_id}


def _partition(
    partition: int,
    tails: Mapping[int, Tail] | None,
    reports: Mapping[int, PartitionProgress] | None,
    stored: Mapping[int, int] | None,
    now_ms: int,
) -> PartitionStatus:
    tail = None if tails is None else tails.get(partition)
    end = None if tail is None else tail.end
    report = None if reports is None else reports.get(partition)
    # A store that answers, but not of this partition, has nothing of it yet.
    has = None if reports is None else report.next_offset if report else 0
    keeps = None if stored is None else stored.get(partition, 0)
    return PartitionStatus(
        partition,
        end,
        has,
        _behind(end, has),
        keeps,
        _behind(end, keeps),
        None if tail is None or has is None else _waiting(tail, now_ms),
        _visible(report, now_ms),
    )


def _waiting(tail: Tail, now_ms: int) -> int | None:
    if not tail.has_more:
        return 0
    return None if tail.arrived_ms is None else max(0, now_ms - tail.arrived_ms)


def _visible(report: PartitionProgress | None, now_ms: int) -> VisibleStatus | None:
    # What a worker that is gone said last is not how things are.
    if report is None or report.visible is None or report.at_ms <= now_ms - RECENT_MS:
        return None
    return VisibleStatus(*report.visible)


def _longest(waits_ms: Iterable[int | None]) -> int | None:
    known = list(waits_ms)
    return None if None in known else max((ms for ms in known if ms is not None), default=None)


def _worst(seen: Sequence[VisibleStatus]) -> VisibleStatus | None:
    if not seen:
        return None
    return VisibleStatus(
        max(v.p50_ms for v in seen), max(v.p99_ms for v in seen), max(v.max_ms for v in seen)
    )


def _behind(end: int | None, at: int | None) -> int | None:
    return None if end is None or at is None else max(0, end - at)


def _sum(lags: Any) -> int | None:
    known = list(lags)
    return None if not known or None in known else sum(known)


def _tenant(of: TenantOverview, zones: Mapping[str, str] | None) -> TenantStatus:
    windows: dict[str, dict[str, str | None]] = {}
    for period in PERIODS:
        start, end = window_of(period, of.day)
        windows[period] = {
            "start": None if start is None else date_of(start).isoformat(),
            "end": None if end is None else date_of(end).isoformat(),
        }
    day, rolled = date_of(of.day).isoformat(), date_of(of.rolled).isoformat()
    return TenantStatus(
        of.tenant,
        of.generation,
        of.complete,
        of.timezone,
        None if zones is None else zones.get(of.tenant, DEFAULT_TIMEZONE),
        day,
        rolled,
        windows,
        {str(grouping): groups for grouping, groups in of.groups.items()},
        {str(grouping): interactions for grouping, interactions in of.overflow.items()},
    )


async def _describe(settings: Settings) -> TopicDescription:
    client = AIOKafkaClient(bootstrap_servers=settings.brokers)
    try:
        # Says at once that nobody is there, where `describe` goes on trying.
        async with asyncio.timeout(ENDS_TIMEOUT_S):
            await client.bootstrap()
    except (KafkaError, OSError, TimeoutError) as error:
        raise StoreUnavailable(f"Kafka: {described(error)}") from error
    finally:
        await client.close()
    return await describe_topic(settings, settings.interactions_topic)


class Tail(NamedTuple):
    """What one partition's log has from an offset on."""

    end: int
    """The next offset to be written."""
    has_more: bool
    """Whether there is anything from that offset on."""
    arrived_ms: int | None
    """When the first of it arrived; None = not known, as it did not come in time."""


async def _tails(
    settings: Settings, topic: TopicDescription, positions: Mapping[int, int]
) -> dict[int, Tail]:
    """Partition -> what is in it from its position on, from fetch answers: what the broker's own
    offset listing says is not right on every compatible broker. Raises StoreUnavailable."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.brokers,
        client_id="interaction-summary-status",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        fetch_max_wait_ms=100,
        max_partition_fetch_bytes=1,  # one batch at most: the end comes with any answer
    )
    partitions = [TopicPartition(settings.interactions_topic, p) for p in range(topic.partitions)]
    starts = {tp: positions.get(tp.partition, 0) for tp in partitions}
    try:
        async with asyncio.timeout(ENDS_TIMEOUT_S):
            await consumer.start()
            consumer.assign(partitions)
            for tp, start in starts.items():
                consumer.seek(tp, start)
            arrived: dict[Any, int] = {}
            looks_left = LOOKS_AFTER_END
            while True:
                for tp, records in (await consumer.getmany(timeout_ms=100)).items():
                    arrived.setdefault(tp, records[0].timestamp)
                ends = {tp: consumer.highwater(tp) for tp in partitions}
                if None in ends.values():
                    continue
                looks_left -= 1
                for tp in partitions:
                    if tp not in arrived and await consumer.position(tp) >= ends[tp] > starts[tp]:
                        ends[tp] = starts[tp]  # what is left are markers of transactions
                waiting = [tp for tp in partitions if ends[tp] > starts[tp]]
                if looks_left == 0 or all(tp in arrived for tp in waiting):
                    return {
                        tp.partition: Tail(ends[tp], tp in waiting, arrived.get(tp))
                        for tp in partitions
                    }
    except TimeoutError:
        raise StoreUnavailable(f"Kafka: no answer within {ENDS_TIMEOUT_S:g} s") from None
    except (KafkaError, OSError) as error:
        raise StoreUnavailable(f"Kafka: {described(error)}") from error
    finally:
        await consumer.stop()


async def _redis_bytes(client: Client) -> int:
    async with redis_errors():
        info: Any = await client.info("memory")
    # A cluster answers by node.
    nodes = [info] if "used_memory" in info else info.values()
    return sum(node["used_memory"] for node in nodes)


async def _history_bytes(pool: Pool) -> int:
    async with transaction(pool, read_only=True, timeout_s=STORE_TIMEOUT_S) as connection:
        row = await (await connection.execute(_HISTORY_BYTES)).fetchone()
    assert row is not None
    return int(row[0])
