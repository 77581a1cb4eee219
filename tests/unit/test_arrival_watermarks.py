"""Up to when everything that arrived has been read."""

from __future__ import annotations

from streams.arrival_watermarks import STEP_MS, ArrivalWatermarks


def test_with_nothing_waiting_all_is_read() -> None:
    arrivals = ArrivalWatermarks()
    arrivals.begin([0, 1])
    assert arrivals.update(1_000, {0: 7, 1: 0}, {0: 7, 1: 0}) == {0: 1_000, 1: 1_000}
    assert arrivals.update(1_500, {0: 7, 1: 0}, {0: 7, 1: None}) == {0: 1_500, 1: 1_000}


def test_behind_a_backlog_it_is_the_time_when_the_log_ended_there() -> None:
    arrivals = ArrivalWatermarks()
    arrivals.begin([0])
    assert arrivals.update(10_000, {0: 10}, {0: 100}) == {0: 0}
    assert arrivals.update(10_000 + STEP_MS, {0: 90}, {0: 150}) == {0: 0}
    assert arrivals.update(10_001 + STEP_MS, {0: 100}, {0: 151}) == {0: 10_000}
    assert arrivals.update(10_002 + STEP_MS, {0: 150}, {0: 152}) == {0: 10_000 + STEP_MS}


def test_what_was_known_does_not_hold_where_reading_begins_anew() -> None:
    arrivals = ArrivalWatermarks()
    arrivals.begin([0])
    assert arrivals.update(1_000, {0: 7}, {0: 7}) == {0: 1_000}
    arrivals.begin([0])
    assert arrivals.update(2_000, {0: 3}, {0: 7}) == {0: 0}
