"""The watchdog of a worker."""

from __future__ import annotations

from streams.watchdog import Watchdog


def test_a_partition_that_stands_still_does_not_hide_behind_one_that_moves() -> None:
    watchdog = Watchdog(stall_s=10)
    ends = {0: 100, 1: 100}
    assert [watchdog.stalled(s, {0: s, 1: 7}, ends) for s in range(11)] == [[]] * 11
    assert watchdog.stalled(11, {0: 11, 1: 7}, ends) == [1]


def test_a_partition_in_which_nothing_waits_may_stand_still() -> None:
    watchdog = Watchdog(stall_s=10)
    for end in (7, 0, None):
        assert watchdog.stalled(0, {0: 7}, {0: end}) == []
        assert watchdog.stalled(60, {0: 7}, {0: end}) == []


def test_the_time_counts_from_the_last_move_and_from_the_first_event_that_waits() -> None:
    watchdog = Watchdog(stall_s=10)
    watchdog.stalled(0, {0: 7}, {0: 7})
    assert watchdog.stalled(60, {0: 7}, {0: 7}) == []
    assert watchdog.stalled(65, {0: 7}, {0: 9}) == []
    assert watchdog.stalled(70, {0: 8}, {0: 9}) == []
    assert watchdog.stalled(80, {0: 8}, {0: 9}) == []
    assert watchdog.stalled(81, {0: 8}, {0: 9}) == [0]


def test_a_partition_that_was_away_begins_anew() -> None:
    watchdog = Watchdog(stall_s=10)
    watchdog.stalled(0, {0: 7}, {0: 9})
    watchdog.stalled(5, {}, {})
    assert watchdog.stalled(12, {0: 7}, {0: 9}) == []
