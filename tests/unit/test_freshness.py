"""How long events waited until they were counted: what the metric and `status` are told."""

from __future__ import annotations

from typing import Any

from prometheus_client import REGISTRY

from store.counters import Visible
from streams.freshness import RECENT_COMMITS, RECENT_MS, Freshness

NOW_MS = 1_800_000_000_000


def observed(reading: str, what: str, **labels: str) -> float:
    found: Any = REGISTRY.get_sample_value(
        f"interaction_summary_visible_seconds_{what}", {"reading": reading, **labels}
    )
    return float(found)


def begun() -> Freshness:
    freshness = Freshness()
    freshness.begin(NOW_MS)
    return freshness


def test_an_event_waits_from_its_arrival_until_it_is_counted() -> None:
    before = (
        observed("live", "count"),
        observed("live", "sum"),
        observed("live", "bucket", le="0.1"),
    )
    freshness = begun()
    freshness.note(0, [NOW_MS + 100, NOW_MS + 150], NOW_MS + 300)
    assert observed("live", "count") == before[0] + 2
    assert round(observed("live", "sum") - before[1], 6) == 0.35
    assert observed("live", "bucket", le="0.1") == before[2]
    freshness.note(0, [NOW_MS + 300], NOW_MS + 400)
    assert observed("live", "bucket", le="0.1") == before[2] + 1


def test_what_was_in_kafka_before_reading_began_is_kept_apart() -> None:
    """A day-old backlog, or a log read again, must not look like slow counting."""
    live, catch_up = observed("live", "count"), observed("catch_up", "count")
    freshness = begun()
    freshness.note(0, [NOW_MS - 86_400_000, NOW_MS - 1, NOW_MS], NOW_MS + 10)
    assert observed("live", "count") == live + 1
    assert observed("catch_up", "count") == catch_up + 2
    assert freshness.recent(0, NOW_MS + 10) == Visible(10, 10, 10)


def test_a_producer_whose_clock_is_ahead_is_no_negative_wait() -> None:
    freshness = begun()
    freshness.note(0, [NOW_MS + 5_000], NOW_MS + 10)
    assert freshness.recent(0, NOW_MS + 10) == Visible(0, 0, 0)


def test_of_the_last_events_half_99_percent_and_all() -> None:
    freshness = begun()
    freshness.note(0, [NOW_MS + 1_000 - wait_ms for wait_ms in range(1, 101)], NOW_MS + 1_000)
    assert freshness.recent(0, NOW_MS + 1_000) == Visible(50, 99, 100)
    assert freshness.recent(1, NOW_MS + 1_000) is None


def test_only_the_last_minute_is_recent() -> None:
    freshness = begun()
    freshness.note(0, [NOW_MS], NOW_MS + 500)
    freshness.note(0, [NOW_MS + 1_000], NOW_MS + 1_007)
    at_ms = NOW_MS + 500 + RECENT_MS
    assert freshness.recent(0, at_ms - 1) == Visible(7, 7, 500)
    assert freshness.recent(0, at_ms) == Visible(7, 7, 7)
    assert freshness.recent(0, at_ms + 1_000) is None


def test_what_is_remembered_is_bounded() -> None:
    freshness = begun()
    freshness.note(0, [NOW_MS], NOW_MS + 9)
    for _ in range(RECENT_COMMITS):
        freshness.note(0, [NOW_MS], NOW_MS + 2)
    assert freshness.recent(0, NOW_MS + 2) == Visible(2, 2, 2)


def test_reading_that_begins_again_forgets_what_was() -> None:
    freshness = begun()
    freshness.note(0, [NOW_MS], NOW_MS + 9)
    freshness.begin(NOW_MS + 10)
    assert freshness.recent(0, NOW_MS + 10) is None
    freshness.note(0, [NOW_MS + 5], NOW_MS + 20)
    assert freshness.recent(0, NOW_MS + 20) is None, "it was there before"
