"""When offsets that were still to be read are gone."""

from __future__ import annotations

import pytest

from streams.kafka.topic_scan import are_offsets_gone


@pytest.mark.parametrize(
    ("wanted", "reached", "earliest", "gone"),
    [
        pytest.param(10, 10, 0, False, id="read on without a gap"),
        pytest.param(10, 15, 0, False, id="gap of compaction or of a transaction"),
        pytest.param(10, 15, 10, False, id="such a gap at the very start of the partition"),
        pytest.param(10, 15, 15, True, id="retention deleted all of the gap"),
        pytest.param(10, 15, 12, True, id="retention deleted a part of the gap"),
        pytest.param(10, 10, 15, False, id="retention deleted what had just been read"),
        pytest.param(10, 15, 90, True, id="retention went on after the read"),
    ],
)
def test_are_offsets_gone(wanted: int, reached: int, earliest: int, gone: bool) -> None:
    assert are_offsets_gone(wanted, reached, earliest) is gone
