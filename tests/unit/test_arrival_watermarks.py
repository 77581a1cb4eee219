"""Arrival-time watermarks: every record that arrived before one has been counted."""

from __future__ import annotations

from streams.arrival_watermarks import STEP_MS, ArrivalWatermarks


def test_without_a_backlog_the_watermark_is_now() -> None:
    watermarks = ArrivalWatermarks()
    watermarks.begin([0, 1])
    assert watermarks.update(1_000, {0: 7, 1: 0}, {0: 7, 1: 0}) == {0: 1_000, 1: 1_000}
    assert watermarks.update(1_500, {0: 7, 1: 0}, {0: 7, 1: None}) == {0: 1_500, 1: 1_000}


def test_with_a_backlog_the_watermark_is_the_time_when_the_counted_offset_was_the_end() -> None:
    watermarks = ArrivalWatermarks()
    watermarks.begin([0])
    assert watermarks.update(10_000, {0: 10}, {0: 100}) == {0: 0}
    assert watermarks.update(10_000 + STEP_MS, {0: 90}, {0: 150}) == {0: 0}
    assert watermarks.update(10_001 + STEP_MS, {0: 100}, {0: 151}) == {0: 10_000}
    assert watermarks.update(10_002 + STEP_MS, {0: 150}, {0: 152}) == {0: 10_000 + STEP_MS}


def test_a_new_read_session_forgets_the_watermarks() -> None:
    watermarks = ArrivalWatermarks()
    watermarks.begin([0])
    assert watermarks.update(1_000, {0: 7}, {0: 7}) == {0: 1_000}
    watermarks.begin([0])
    assert watermarks.update(2_000, {0: 3}, {0: 7}) == {0: 0}


def test_suspended_watermarks_are_unknown_until_a_read_session_begins() -> None:
    """A rewind was requested: records below the positions will be read again."""
    watermarks = ArrivalWatermarks()
    watermarks.begin([0])
    assert watermarks.update(1_000, {0: 7}, {0: 7}) == {0: 1_000}
    watermarks.suspend()
    assert watermarks.update(2_000, {0: 7}, {0: 7}) == {0: 0}
    assert watermarks.update(2_500, {0: 7}, {0: 7}) == {0: 0}
    watermarks.begin([0])
    assert watermarks.update(3_000, {0: 7}, {0: 7}) == {0: 3_000}
