"""Watchdog: partitions that stand still while records wait."""

from __future__ import annotations

from streams.watchdog import Watchdog


def test_a_stalled_partition_is_reported_while_another_moves() -> None:
    watchdog = Watchdog(stall_s=10)
    ends = {0: 100, 1: 100}
    assert [watchdog.stalled(s, {0: s, 1: 7}, ends) for s in range(11)] == [[]] * 11
    assert watchdog.stalled(11, {0: 11, 1: 7}, ends) == [1]


def test_a_partition_without_lag_is_never_stalled() -> None:
    watchdog = Watchdog(stall_s=10)
    for end in (7, 0):
        assert watchdog.stalled(0, {0: 7}, {0: end}) == []
        assert watchdog.stalled(60, {0: 7}, {0: end}) == []


def test_a_partition_whose_end_stays_unknown_is_stalled() -> None:
    """A consumer without answers knows of no waiting records, however many there are."""
    watchdog = Watchdog(stall_s=10)
    assert watchdog.stalled(0, {0: 7}, {0: 7}) == []
    assert [watchdog.stalled(s, {0: 7}, {0: None}) for s in (1, 5, 10)] == [[]] * 3
    assert watchdog.stalled(11, {0: 7}, {}) == [0]


def test_the_stall_time_starts_at_the_last_move_or_at_the_first_waiting_event() -> None:
    watchdog = Watchdog(stall_s=10)
    watchdog.stalled(0, {0: 7}, {0: 7})
    assert watchdog.stalled(60, {0: 7}, {0: 7}) == []
    assert watchdog.stalled(65, {0: 7}, {0: 9}) == []
    assert watchdog.stalled(70, {0: 8}, {0: 9}) == []
    assert watchdog.stalled(80, {0: 8}, {0: 9}) == []
    assert watchdog.stalled(81, {0: 8}, {0: 9}) == [0]


def test_a_reassigned_partition_starts_with_no_stall_time() -> None:
    watchdog = Watchdog(stall_s=10)
    watchdog.stalled(0, {0: 7}, {0: 9})
    watchdog.stalled(5, {}, {})
    assert watchdog.stalled(12, {0: 7}, {0: 9}) == []
