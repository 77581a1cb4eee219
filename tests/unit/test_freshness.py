"""Time from an event's arrival to its count, in the metric and in the report of `status`."""

from __future__ import annotations

from typing import Any

from prometheus_client import REGISTRY

from store.counters import Visible
from streams.freshness import RECENT_COMMITS, RECENT_MS, Freshness

NOW_MS = 1_800_000_000_000


def sample(reading: str, suffix: str, **labels: str) -> float:
    found: Any = REGISTRY.get_sample_value(
        f"interaction_summary_visible_seconds_{suffix}", {"reading": reading, **labels}
    )
    return float(found)


def freshness_since_now() -> Freshness:
    freshness = Freshness()
    freshness.begin(NOW_MS)
    return freshness


def test_the_wait_of_an_event_is_from_its_arrival_to_its_count() -> None:
    before = (
        sample("live", "count"),
        sample("live", "sum"),
        sample("live", "bucket", le="0.1"),
    )
    freshness = freshness_since_now()
    freshness.note(0, [NOW_MS + 100, NOW_MS + 150], NOW_MS + 300)
    assert sample("live", "count") == before[0] + 2
    assert round(sample("live", "sum") - before[1], 6) == 0.35
    assert sample("live", "bucket", le="0.1") == before[2]
    freshness.note(0, [NOW_MS + 300], NOW_MS + 400)
    assert sample("live", "bucket", le="0.1") == before[2] + 1


def test_events_from_before_the_session_are_observed_as_catch_up() -> None:
    """A backlog of a day, or records read again, must not look like slow counting."""
    live, catch_up = sample("live", "count"), sample("catch_up", "count")
    freshness = freshness_since_now()
    freshness.note(0, [NOW_MS - 86_400_000, NOW_MS - 1, NOW_MS], NOW_MS + 10)
    assert sample("live", "count") == live + 1
    assert sample("catch_up", "count") == catch_up + 2
    assert freshness.recent(0, NOW_MS + 10) == Visible(10, 10, 10)


def test_a_producer_clock_that_is_ahead_gives_a_wait_of_0() -> None:
    freshness = freshness_since_now()
    freshness.note(0, [NOW_MS + 5_000], NOW_MS + 10)
    assert freshness.recent(0, NOW_MS + 10) == Visible(0, 0, 0)


def test_the_report_has_median_99th_percentile_and_maximum_of_the_last_events() -> None:
    freshness = freshness_since_now()
    freshness.note(0, [NOW_MS + 1_000 - wait_ms for wait_ms in range(1, 101)], NOW_MS + 1_000)
    assert freshness.recent(0, NOW_MS + 1_000) == Visible(50, 99, 100)
    assert freshness.recent(1, NOW_MS + 1_000) is None


def test_the_report_covers_the_last_minute_only() -> None:
    freshness = freshness_since_now()
    freshness.note(0, [NOW_MS], NOW_MS + 500)
    freshness.note(0, [NOW_MS + 1_000], NOW_MS + 1_007)
    at_ms = NOW_MS + 500 + RECENT_MS
    assert freshness.recent(0, at_ms - 1) == Visible(7, 7, 500)
    assert freshness.recent(0, at_ms) == Visible(7, 7, 7)
    assert freshness.recent(0, at_ms + 1_000) is None


def test_the_number_of_remembered_commits_is_bounded() -> None:
    freshness = freshness_since_now()
    freshness.note(0, [NOW_MS], NOW_MS + 9)
    for _ in range(RECENT_COMMITS):
        freshness.note(0, [NOW_MS], NOW_MS + 2)
    assert freshness.recent(0, NOW_MS + 2) == Visible(2, 2, 2)


def test_a_new_session_forgets_the_waits_of_the_last_one() -> None:
    freshness = freshness_since_now()
    freshness.note(0, [NOW_MS], NOW_MS + 9)
    freshness.begin(NOW_MS + 10)
    assert freshness.recent(0, NOW_MS + 10) is None
    freshness.note(0, [NOW_MS + 5], NOW_MS + 20)
    assert freshness.recent(0, NOW_MS + 20) is None, "it arrived before the session"
