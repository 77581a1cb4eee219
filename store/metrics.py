"""Every Prometheus metric of the program: its name, type, labels, meaning, and what to do about it.

Nothing else creates a metric, so that this module is the whole list: `METRICS` describes each one,
and the documentation is held against it. The help text that Prometheus shows is meaning + remedy.

To add one: a module constant made by `_counter`, `_gauge` or `_histogram`. Label values come from
small closed sets, never from users (a tenant id is not a label).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class Described(NamedTuple):
    """What a metric says, and what to do when it looks wrong."""

    type: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    meaning: str
    remedy: str


#: Metric name, as Prometheus shows it -> its description.
METRICS: Final[dict[str, Described]] = {}


def _counter(name: str, meaning: str, remedy: str, labels: Sequence[str] = ()) -> Counter:
    METRICS[name] = Described("counter", tuple(labels), meaning, remedy)
    return Counter(name, f"{meaning} {remedy}", labels)


def _gauge(name: str, meaning: str, remedy: str, labels: Sequence[str] = ()) -> Gauge:
    METRICS[name] = Described("gauge", tuple(labels), meaning, remedy)
    # Of several API processes the value set last speaks for all: they watch the same stores.
    return Gauge(name, f"{meaning} {remedy}", labels, multiprocess_mode="mostrecent")


def _histogram(
    name: str, meaning: str, remedy: str, buckets: Sequence[float], labels: Sequence[str] = ()
) -> Histogram:
    METRICS[name] = Described("histogram", tuple(labels), meaning, remedy)
    return Histogram(name, f"{meaning} {remedy}", labels, buckets=tuple(buckets))


def exposition() -> bytes:
    """All metrics in Prometheus' text format; of all processes when several serve together."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return generate_latest(REGISTRY)
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)


LATENCY_BUCKETS_S: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip

#: Up to an hour: a worker may have been away.
VISIBLE_BUCKETS_S: Final = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25, 0.35, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 600.0,
    3_600.0,
)  # fmt: skip

# --- API ------------------------------------------------------------------------------------------

API_REQUESTS: Final = _counter(
    "interaction_summary_api_requests_total",
    "HTTP requests answered, by route and status.",
    "Many 503: see the fallback metrics. Many 500: the log has the traceback under the request id.",
    ("route", "status"),
)
API_REQUEST_SECONDS: Final = _histogram(
    "interaction_summary_api_request_seconds",
    "Seconds from a request's head to the end of its answer, by route.",
    "Slow while history answers: repair the counters. Slow else: add API processes, look at Redis.",
    LATENCY_BUCKETS_S,
    ("route",),
)
API_ANSWERS: Final = _counter(
    "interaction_summary_api_answers_total",
    "Summaries answered, by source (materialized or history).",
    "History should be rare: the fallback reasons say why it answers.",
    ("source",),
)
API_FALLBACKS: Final = _counter(
    "interaction_summary_api_fallbacks_total",
    "Questions that the counters did not answer, by reason.",
    "timeout, unreachable, breaker_open, error: look at Redis. no_generation, not_complete, "
    "rolling, other_day, other_timezone: is a worker running? no_period, too_many_groups (both "
    "window=exact) are normal.",
    ("reason",),
)
API_FALLBACK_REFUSED: Final = _counter(
    "interaction_summary_api_fallback_refused_total",
    "Questions refused with 503, by reason: busy (FALLBACK_CONCURRENCY history queries already "
    "run), history (Postgres did not answer), catalog (no catalog could be read).",
    "busy: repair the counters, or raise FALLBACK_CONCURRENCY if Postgres has room. Else: look at "
    "Postgres.",
    ("reason",),
)
API_COUNTER_SECONDS: Final = _histogram(
    "interaction_summary_api_counter_read_seconds",
    "Seconds of one counter read that got an answer.",
    "Near READ_BUDGET_MS, reads begin to fall back: look at the load of Redis and of the API.",
    LATENCY_BUCKETS_S,
)
API_HISTORY_SECONDS: Final = _histogram(
    "interaction_summary_api_history_read_seconds",
    "Seconds of one history query that got an answer.",
    "Near FALLBACK_TIMEOUT_MS, queries begin to fail: look at the load of Postgres.",
    LATENCY_BUCKETS_S,
)
API_BREAKER_OPEN: Final = _gauge(
    "interaction_summary_api_breaker_open",
    "1 while reads of the counters are suspended by the circuit breaker, else 0.",
    "1: Redis is unreachable or slower than READ_BUDGET_MS.",
)
API_LAG: Final = _gauge(
    "interaction_summary_api_lag_events",
    "Events not yet counted, as the API saw it last; -1 = unknown.",
    "Growing: add workers, up to one per partition. -1: no worker runs, or Redis does not answer.",
)

# --- worker ---------------------------------------------------------------------------------------

COUNTED: Final = _counter(
    "interaction_summary_counted_total",
    "Events counted by this worker, duplicates left out.",
    "Flat while lag grows: see the retries and the log.",
)
VISIBLE: Final = _histogram(
    "interaction_summary_visible_seconds",
    "Seconds from an event's arrival in Kafka (its record's time stamp) until it was counted, and "
    "so visible; one observation for each event counted. reading=live: it arrived while this "
    "worker had the partition. reading=catch_up: it was there before, and waited for a worker, or "
    "is read again.",
    "live over 0.25 s: see docs/performance.md. catch_up is large after a pause: that is the "
    "pause. Absurd: producers' clocks are wrong, or they write the event's time into the record.",
    VISIBLE_BUCKETS_S,
    ("reading",),
)
VISIBLE_LIVE: Final = VISIBLE.labels("live")
VISIBLE_CATCH_UP: Final = VISIBLE.labels("catch_up")
DUPLICATES: Final = _counter(
    "interaction_summary_duplicates_total",
    "Events whose identity was counted already, within the dedup horizon.",
    "A few are normal: producers deliver at least once. Many: look at the producer's retries.",
)
DEAD_LETTERS: Final = _counter(
    "interaction_summary_dead_letters_total",
    "Events sent to the dead-letter topic, by reason.",
    "`interaction-summary dlq list` shows them; mend the producer or the catalog, then redrive.",
    ("reason",),
)
DEAD_LETTER_ALARM: Final = _gauge(
    "interaction_summary_dead_letter_alarm",
    "1 while more than DEAD_LETTER_ALARM_RATIO of the last events are dead letters, else 0.",
    "1: a producer or the catalog is broken; `interaction-summary dlq list` shows how.",
)
OVER_LIMIT: Final = _counter(
    "interaction_summary_over_limit_total",
    "Interactions of groups beyond KEYS_PER_GROUPING_MAX, counted as one group, by grouping.",
    "History answers for that grouping, exactly but slowly: raise the limit and rebuild, or find "
    "out who makes up so many ids.",
    ("grouping",),
)
SKIPPED: Final = _counter(
    "interaction_summary_skipped_total",
    "Events of another type than interaction.recorded.v1, left alone.",
    "Normal where the topic carries other types too.",
)
REFUSED: Final = _counter(
    "interaction_summary_commits_refused_total",
    "Commits that the fence refused; the worker took the store's values and went on.",
    "A few come with each rebalance and midnight. Many: two workers fight over a partition.",
)
REWINDS: Final = _counter(
    "interaction_summary_seeks_back_total",
    "Times that a store had less than was read, so that the log was read again.",
    "Redis or Postgres lost data: look at its persistence and its failovers.",
)
RETRIES: Final = _counter(
    "interaction_summary_retries_total",
    "Calls to a store that failed and were tried again, by store.",
    "Look at that store.",
    ("store",),
)
STORED: Final = _counter(
    "interaction_summary_history_rows_total",
    "Events written to history, duplicates left out.",
    "Flat while events are counted: look at Postgres.",
)
HISTORY_BUFFER: Final = _gauge(
    "interaction_summary_history_buffer_events",
    "Events counted but not yet in history.",
    "At HISTORY_BUFFER_EVENTS, counting waits: look at Postgres.",
)
WORKER_LAG: Final = _gauge(
    "interaction_summary_worker_lag_events",
    "Events of this worker's partitions that are not counted yet.",
    "Growing: add workers, up to one per partition.",
)
ROLLED: Final = _counter(
    "interaction_summary_rolled_records_total",
    "Records rolled into a new day.",
    "Rises after each tenant's midnight. Flat then: no worker runs.",
)
LOST_OFFSETS: Final = _counter(
    "interaction_summary_lost_offsets_total",
    "Offsets that retention took away before they were counted.",
    "`interaction-summary rebuild --from history`, and give the topic a longer retention.",
)
LOG_CHANGES: Final = _counter(
    "interaction_summary_log_changes_total",
    "Times that the topic was a new log (recreated) or ended before what was counted (cut).",
    "recreated: somebody deleted the topic. cut: Kafka lost data; look at its replication.",
    ("kind",),
)
