"""All Prometheus metrics of the program: name, type, labels, meaning and remedy.

No other module creates a metric. `METRICS` describes each one, and a test compares the
documentation with it. The help text that Prometheus shows is meaning + remedy.

To add one, define a module constant with `_counter`, `_gauge` or `_histogram`. Label values come
from small closed sets, never from users (a tenant id is not a label). Name them all: the series
then exist from the start.
"""

from __future__ import annotations

import collections
import os
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Final, Literal, NamedTuple, TypeAlias

from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from store.records import GROUPINGS

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

Part: TypeAlias = Literal["api", "worker"]
_OfProcesses: TypeAlias = Literal["livemostrecent", "livemax", "livesum"]
_NO_LABELS: Final[Mapping[str, tuple[str, ...]]] = {}
_PREFIX: Final = "interaction_summary_"
_API_PREFIX: Final = "interaction_summary_api_"


class Described(NamedTuple):
    """Description of a metric: its meaning, and what to do about a bad value."""

    type: Literal["counter", "gauge", "histogram"]
    values: Mapping[str, tuple[str, ...]]
    """Label -> its values; none where requests decide them."""
    meaning: str
    remedy: str

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self.values)


#: Metric name in Prometheus -> description.
METRICS: Final[dict[str, Described]] = {}


def _counter(
    name: str, meaning: str, remedy: str, labels: Mapping[str, tuple[str, ...]] = _NO_LABELS
) -> Counter:
    METRICS[name] = Described("counter", labels, meaning, remedy)
    counter = Counter(name, f"{meaning} {remedy}", tuple(labels))
    # A series that began with 1 would not have increased, as Prometheus sees it.
    for values in product(*labels.values()) if labels else ():
        counter.labels(*values)
    return counter


def _gauge(
    name: str, meaning: str, remedy: str, *, processes: _OfProcesses = "livemostrecent"
) -> Gauge:
    """Define a gauge.

    `processes`: how the values of several API processes become one. Only those of processes that
    live count (`forget_ended_processes`).
    """
    METRICS[name] = Described("gauge", _NO_LABELS, meaning, remedy)
    return Gauge(name, f"{meaning} {remedy}", multiprocess_mode=processes)


def _histogram(
    name: str,
    meaning: str,
    remedy: str,
    buckets: Sequence[float],
    labels: Mapping[str, tuple[str, ...]] = _NO_LABELS,
) -> BatchHistogram:
    METRICS[name] = Described("histogram", labels, meaning, remedy)
    return BatchHistogram(name, f"{meaning} {remedy}", tuple(labels), buckets=tuple(buckets))


class BatchHistogram(Histogram):
    """Histogram that takes the observations of a batch at once.

    Leans on `_sum`, `_buckets` and `_upper_bounds` of the library's class.
    """

    def observe_all(self, amounts: Iterable[float]) -> None:
        """Observe every amount; about 0.1 µs each, a fifth of what `observe` takes."""
        times = collections.Counter(amounts)
        self._sum.inc(sum(amount * n for amount, n in times.items()))
        in_bucket: collections.Counter[int] = collections.Counter()
        for amount, n in times.items():
            in_bucket[bisect_left(self._upper_bounds, amount)] += n
        for index, n in in_bucket.items():
            self._buckets[index].inc(n)


class _PartCollector(Collector):
    """The metrics of one kind of process, out of all that are defined here."""

    def __init__(self, source: Collector, part: Part) -> None:
        self._source = source
        self._part = part

    def collect(self) -> Iterator[Metric]:
        for metric in self._source.collect():
            part: Part = "api" if metric.name.startswith(_API_PREFIX) else "worker"
            if part == self._part or not metric.name.startswith(_PREFIX):
                yield metric


def exposition(part: Part) -> bytes:
    """Return the metrics of an API or a worker in Prometheus' text format.

    Those of the other part are left out: their zeros would look like an API that counts nothing.
    With several API processes the metrics are those of all of them.
    """
    source: Collector = REGISTRY
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        source = MultiProcessCollector(None)  # type: ignore[no-untyped-call]
    registry = CollectorRegistry()
    registry.register(_PartCollector(source, part))
    return generate_latest(registry)


def forget_ended_processes(alive: Collection[int]) -> None:
    """Remove the gauges of API processes that are not `alive` (process ids); counters stay."""
    folder = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])
    pids = {int(path.stem.rpartition("_")[2]) for path in folder.glob("gauge_live*.db")}
    for pid in pids - set(alive):
        mark_process_dead(pid)  # type: ignore[no-untyped-call]


LATENCY_BUCKETS_S: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip

#: Up to an hour: a worker may have been stopped.
VISIBLE_BUCKETS_S: Final = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25, 0.35, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 600.0,
    3_600.0,
)  # fmt: skip

#: Why history answers, in the order of docs/operations.md.
FALLBACK_REASONS: Final = (
    "no_generation", "not_complete", "rolling", "other_day", "other_timezone", "evicting",
    "evicted", "lost_record", "capped", "not_ranked", "pending", "no_period", "too_many_groups",
    "timeout", "unreachable", "breaker_open", "error",
)  # fmt: skip

#: `streams.decode.rejection.Reason`.
DEAD_LETTER_REASONS: Final = (
    "malformed", "too_large", "bad_field", "bad_timestamp", "future_timestamp",
    "unregistered_type", "unregistered_tenant", "too_many_tenants", "unsendable", "unprocessable",
    "corrupt_batch",
)  # fmt: skip

# --- API ------------------------------------------------------------------------------------------

API_REQUESTS: Final = _counter(
    "interaction_summary_api_requests_total",
    "HTTP requests answered, by route and status.",
    "Many 503: see the fallback metrics. Many 500: the log has the traceback under the request id.",
    {"route": (), "status": ()},
)
API_REQUEST_SECONDS: Final = _histogram(
    "interaction_summary_api_request_seconds",
    "Seconds from the head of a request to the end of its response, by route.",
    "Slow while history answers: repair the counters. Otherwise: add API processes, check Redis.",
    LATENCY_BUCKETS_S,
    {"route": ()},
)
API_ANSWERS: Final = _counter(
    "interaction_summary_api_answers_total",
    "Summaries answered, by source (materialized or history).",
    "History should be rare: see the fallback reasons.",
    {"source": ("materialized", "history")},
)
API_FALLBACKS: Final = _counter(
    "interaction_summary_api_fallbacks_total",
    "Questions that the counters could not answer, by reason.",
    "timeout, unreachable, breaker_open, error: check Redis. no_generation, not_complete, "
    "rolling, other_day, other_timezone: is a worker running? evicting, evicted, lost_record: "
    "Redis has evicted counters, or may. not_ranked lasts until a worker has built the rank, "
    "pending until it has folded deltas. no_period, too_many_groups (window=exact, trends) are "
    "normal.",
    {"reason": FALLBACK_REASONS},
)
API_ANSWER_CACHE: Final = _counter(
    "interaction_summary_api_answer_cache_total",
    "Answers by what the cache had: kept (sent again, as nothing had changed), changed (made, in "
    "place of an older one), new (made, as none was kept), shared (that of an equal question at "
    "the same time).",
    "Mostly new although questions repeat: raise API_CACHE_MB. Mostly changed is normal under "
    "traffic.",
    {"result": ("kept", "changed", "new", "shared")},
)
API_ANSWER_CACHE_BYTES: Final = _gauge(
    "interaction_summary_api_answer_cache_bytes",
    "Bytes of the answers that are kept, of all processes.",
    "At API_CACHE_MB, the least recently used answers are dropped.",
    processes="livesum",
)
API_FALLBACK_REFUSED: Final = _counter(
    "interaction_summary_api_fallback_refused_total",
    "Questions refused with 503, by reason: busy (FALLBACK_CONCURRENCY history queries already "
    "run), history (Postgres did not answer), catalog (no catalog could be read).",
    "busy: repair the counters, or raise FALLBACK_CONCURRENCY if Postgres has spare capacity. "
    "Otherwise: check Postgres.",
    {"reason": ("busy", "history", "catalog")},
)
API_COUNTER_SECONDS: Final = _histogram(
    "interaction_summary_api_counter_read_seconds",
    "Seconds of one successful counter read.",
    "Near READ_BUDGET_MS, reads begin to fall back: check the load of Redis and of the API.",
    LATENCY_BUCKETS_S,
)
API_HISTORY_SECONDS: Final = _histogram(
    "interaction_summary_api_history_read_seconds",
    "Seconds of one successful history query.",
    "Near FALLBACK_TIMEOUT_MS, queries begin to fail: check the load of Postgres.",
    LATENCY_BUCKETS_S,
)
API_BREAKER_OPEN: Final = _gauge(
    "interaction_summary_api_breaker_open",
    "1 while reads of the counters are suspended by the circuit breaker, else 0.",
    "1: Redis is unreachable or slower than READ_BUDGET_MS.",
    processes="livemax",  # each process has a breaker of its own
)
API_KEYS_AGE: Final = _gauge(
    "interaction_summary_api_keys_age_seconds",
    "Seconds since the API keys were last compared with PostgreSQL, at the last attempt; 0 = it "
    "succeeded, -1 = none ever did.",
    "Above 5: revoked keys are still accepted. Check Postgres; beyond API_KEYS_STALE_MAX_S all "
    "requests are refused.",
    processes="livemax",
)
API_RATE_LIMIT_LOCAL: Final = _counter(
    "interaction_summary_api_rate_limit_local_total",
    "Requests whose rate limit was counted in the process, as Redis did not answer.",
    "Check Redis. Meanwhile a key may have its limit in each process.",
)
API_LAG: Final = _gauge(
    "interaction_summary_api_lag_events",
    "Events not yet counted, as last seen by the API; -1 = unknown.",
    "Growing: add workers, up to one per partition. -1: no worker is running, or Redis does not "
    "answer.",
)

# --- worker ---------------------------------------------------------------------------------------

COUNTED: Final = _counter(
    "interaction_summary_counted_total",
    "Events counted by this worker, without duplicates.",
    "Flat while lag grows: see the retries and the log.",
)
VISIBLE: Final = _histogram(
    "interaction_summary_visible_seconds",
    "Seconds from an event's arrival in Kafka (the time stamp of its record) until it is counted "
    "and visible; one observation per counted event. reading=live: the event arrived while this "
    "worker had the partition. reading=catch_up: it arrived earlier and waited for a worker, or it "
    "is read again.",
    "live over 0.25 s: see docs/performance.md. catch_up includes the time that no worker ran. "
    "Implausible values: producers' clocks are wrong, or they set the record's time stamp to the "
    "event's time.",
    VISIBLE_BUCKETS_S,
    {"reading": ("live", "catch_up")},
)
VISIBLE_LIVE: Final = VISIBLE.labels("live")
VISIBLE_CATCH_UP: Final = VISIBLE.labels("catch_up")
DUPLICATES: Final = _counter(
    "interaction_summary_duplicates_total",
    "Events whose identity was already counted within the dedup horizon.",
    "A few are normal: producers deliver at least once. Many: check the producer's retries.",
)
DEAD_LETTERS: Final = _counter(
    "interaction_summary_dead_letters_total",
    "Events sent to the dead-letter topic, or quarantined, by reason.",
    "`interaction-summary dlq list` shows them; fix the producer or the catalog, then redrive.",
    {"reason": DEAD_LETTER_REASONS},
)
QUARANTINED: Final = _counter(
    "interaction_summary_quarantined_total",
    "Records that were quarantined in PostgreSQL, by reason: the dead-letter topic does not take "
    "them, not even as stubs.",
    "Any: `interaction-summary dlq list` shows them, and why they were not sent.",
    {"reason": DEAD_LETTER_REASONS},
)
DEAD_LETTER_ALARM: Final = _gauge(
    "interaction_summary_dead_letter_alarm",
    "1 while more than DEAD_LETTER_ALARM_RATIO of the last events are dead letters, else 0.",
    "1: a producer or the catalog is broken; `interaction-summary dlq list` shows how.",
)
OVER_LIMIT: Final = _counter(
    "interaction_summary_over_limit_total",
    "Interactions of groups beyond KEYS_PER_GROUPING_MAX, counted as one group, by grouping. "
    "`customer_offers`: offers beyond OFFERS_PER_CUSTOMER_MAX, which are not remembered.",
    "History answers for that grouping (for customers), exactly but slowly: raise the limit and "
    "rebuild, or find the producer of so many ids.",
    {"grouping": (*GROUPINGS, "customer_offers")},
)
SKIPPED: Final = _counter(
    "interaction_summary_skipped_total",
    "Events of a type other than interaction.recorded.v1, ignored.",
    "Normal if the topic has other types too.",
)
REFUSED: Final = _counter(
    "interaction_summary_commits_refused_total",
    "Commits that Redis refused; the worker adopted the stored values and continued.",
    "A few come with each rebalance and midnight. Many: two workers fight over a partition.",
)
REWINDS: Final = _counter(
    "interaction_summary_seeks_back_total",
    "Rewinds: a store had less than this worker had read, so the topic was read again.",
    "Redis or Postgres lost data: check its persistence and its failovers.",
)
RETRIES: Final = _counter(
    "interaction_summary_retries_total",
    "Failed calls to a store that were retried, by store.",
    "Check that store.",
    {"store": ("kafka", "counters", "history", "catalog", "quarantine")},
)
STORED: Final = _counter(
    "interaction_summary_history_rows_total",
    "Events written to history, without duplicates.",
    "Flat while events are counted: check Postgres.",
)
HISTORY_BUFFER: Final = _gauge(
    "interaction_summary_history_buffer_events",
    "Events counted but not yet in history.",
    "At HISTORY_BUFFER_EVENTS, counting waits: check Postgres.",
)
WORKER_LAG: Final = _gauge(
    "interaction_summary_worker_lag_events",
    "Events of this worker's partitions that are not counted yet.",
    "Growing: add workers, up to one per partition.",
)
ROLLED: Final = _counter(
    "interaction_summary_rolled_records_total",
    "Records rolled into a new day.",
    "Rises after each tenant's midnight. Flat then: no worker is running.",
)
REBUILDS_RUNNING: Final = _gauge(
    "interaction_summary_rebuilds_running",
    "Rebuilds that run now, as this worker sees them.",
    "Above 0 for long: `interaction-summary status` shows their progress.",
)
REBUILD_EVENTS_LEFT: Final = _gauge(
    "interaction_summary_rebuild_events_left",
    "Events that the running rebuilds still have to read in their present phase.",
    "Not falling: the rebuild waits for a store, or `--rate` is low.",
)
LOST_OFFSETS: Final = _counter(
    "interaction_summary_lost_offsets_total",
    "Offsets that retention deleted before a store had them, by store: counters or history.",
    "counters: `interaction-summary rebuild --from history`, if history has them. history: the "
    "counters are the only copy of these events; do not rebuild them from history. In both cases: "
    "give the topic a longer retention.",
    {"store": ("counters", "history")},
)
LOG_CHANGES: Final = _counter(
    "interaction_summary_log_changes_total",
    "Times that the topic was recreated (a new topic id) or truncated (cut: it ends before the "
    "watermark).",
    "recreated: the topic was deleted and created again. cut: Kafka lost data; check its "
    "replication.",
    {"kind": ("recreated", "cut")},
)
REDIS_EVICTS: Final = _gauge(
    "interaction_summary_redis_evicts_counters",
    "1 while Redis may evict counters (maxmemory is set, and maxmemory-policy is allkeys-*), else "
    "0.",
    "1: set maxmemory-policy to noeviction. History answers until then.",
)
REDIS_EVICTED_KEYS: Final = _gauge(
    "interaction_summary_redis_evicted_keys",
    "Keys that Redis has evicted since it started, of all nodes; -1 = unknown.",
    "Over 0: `interaction-summary status` says whether counters must be rebuilt.",
)
REDIS_USED_RATIO: Final = _gauge(
    "interaction_summary_redis_used_ratio",
    "Share of maxmemory that the fullest node of Redis uses; 0 = unlimited or unknown.",
    "Over 0.9: raise maxmemory. At 1 nothing is counted.",
)
REDIS_UNSAVED_SECONDS: Final = _gauge(
    "interaction_summary_redis_unsaved_seconds",
    "Seconds whose counts a restart of Redis would lose, as it has no append-only file: since its "
    "last snapshot, or its start. 0 = none; -1 = unknown.",
    "Over 3600: set appendonly to yes.",
)
AUDITS: Final = _counter(
    "interaction_summary_audits_total",
    "Periodic audits of a tenant by this worker, by result: clean, drift, or skipped (the counters "
    "or history could not be compared).",
    "drift: run `interaction-summary audit`. Only skipped: its notes say why.",
    {"result": ("clean", "drift", "skipped")},
)
AUDIT_DRIFT_CELLS: Final = _gauge(
    "interaction_summary_audit_drift_cells",
    "Numbers in which counters and history differed, summed over the last audit of each tenant, "
    "periodic or by command.",
    "Over 0: `interaction-summary audit` names them, with --repair it corrects them.",
)
