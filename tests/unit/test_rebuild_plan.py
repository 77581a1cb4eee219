"""Plan of a rebuild: each offset has one source, and what has none is named."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from store.counters import Source
from store.offsets import Gap, describe, without
from streams.rebuild.plan import From, HistoryView, Plan, TopicView, make_plan

NOW, OLD = "topic-now", "topic-before"


def plan(
    source: From,
    *,
    earliest: Mapping[int, int] | None = None,
    stored: Mapping[Source, int] | None = None,
    gaps: tuple[Gap, ...] = (),
    reach: Mapping[Source, int] | None = None,
) -> Plan:
    topic = None if earliest is None else TopicView(NOW, earliest)
    return make_plan(source, topic, HistoryView(stored or {}, gaps), reach or {})


def starts(made: Plan) -> dict[Source, int]:
    return {(p.topic_id, p.partition): p.offset for p in made.watermarks}


ALL: tuple[From, ...] = ("topic", "history", "auto")


@pytest.mark.parametrize("source", ALL)
def test_nothing_is_lost_where_both_hold_everything(source: From) -> None:
    made = plan(
        source, earliest={0: 0, 1: 0}, stored={(NOW, 0): 90}, reach={(NOW, 0): 95, (NOW, 1): 5}
    )
    assert made.lost == []
    start = 90 if source == "history" else 0
    assert made.topic_starts == {0: start, 1: 0}
    assert starts(made) == {(NOW, 0): start, (NOW, 1): 0}


def test_auto_takes_from_history_what_retention_deleted() -> None:
    made = plan("auto", earliest={0: 40}, stored={(NOW, 0): 90}, reach={(NOW, 0): 95})
    assert (made.topic_starts, made.lost, made.whole_history) == ({0: 40}, [], False)


def test_the_topic_alone_loses_what_retention_deleted() -> None:
    made = plan("topic", earliest={0: 40}, stored={(NOW, 0): 90}, reach={(NOW, 0): 95})
    assert (made.topic_starts, made.uses_history) == ({0: 40}, False)
    assert made.lost == [Gap(NOW, 0, 0, 40)]


@pytest.mark.parametrize("source", ["history", "auto"])
def test_offsets_that_retention_deleted_before_history_had_them_are_lost(source: From) -> None:
    made = plan(source, earliest={0: 70}, stored={(NOW, 0): 50}, reach={(NOW, 0): 95})
    assert (made.topic_starts, made.lost) == ({0: 70}, [Gap(NOW, 0, 50, 70)])


def test_what_nobody_has_counted_or_stored_is_not_lost() -> None:
    """A tenant whose counters and history begin where the topic does now."""
    for source in ALL:
        assert plan(source, earliest={0: 70}).lost == []
        assert plan(source, earliest={0: 70}, reach={(NOW, 1): 5}).topic_starts == {0: 70}


def test_another_topic_id_is_only_in_history() -> None:
    stored = {(OLD, 0): 50, (NOW, 0): 10}
    reach = {(OLD, 0): 50, (NOW, 0): 10}
    for source in ("history", "auto"):
        assert plan(source, earliest={0: 0}, stored=stored, reach=reach).lost == []
    made = plan("topic", earliest={0: 0}, stored=stored, reach=reach)
    assert made.lost == [Gap(OLD, 0, 0, 50)]
    behind = plan("auto", earliest={0: 0}, stored=stored, reach={(OLD, 0): 60})
    assert behind.lost == [Gap(OLD, 0, 50, 60)]
    assert starts(behind)[OLD, 0] == 50


def test_a_gap_of_history_is_lost_unless_the_topic_has_it() -> None:
    gaps = (Gap(NOW, 0, 20, 30),)
    stored, reach = {(NOW, 0): 90}, {(NOW, 0): 90}
    made = plan("history", earliest={0: 25}, stored=stored, gaps=gaps, reach=reach)
    assert made.lost == [Gap(NOW, 0, 20, 30)]
    made = plan("auto", earliest={0: 25}, stored=stored, gaps=gaps, reach=reach)
    assert made.lost == [Gap(NOW, 0, 20, 25)]
    made = plan("auto", earliest={0: 25}, stored=stored, gaps=gaps, reach={(NOW, 0): 22})
    assert made.lost == [Gap(NOW, 0, 20, 22)]


def test_without_kafka_history_is_taken_as_it_is() -> None:
    made = plan("history", stored={(NOW, 0): 50}, reach={(NOW, 0): 90})
    assert (made.lost, made.topic_starts) == ([], {}), "the worker reads on from there"


def test_ranges_that_are_known_are_taken_out() -> None:
    key = (NOW, 0)
    given = [Gap(*key, 10, 20), Gap(NOW, 1, 10, 20)]
    assert without(given, [Gap(*key, 12, 15)]) == [
        Gap(*key, 10, 12),
        Gap(*key, 15, 20),
        Gap(NOW, 1, 10, 20),
    ]
    assert without(given, [Gap(*key, 0, 99), Gap(NOW, 1, 19, 99)]) == [Gap(NOW, 1, 10, 19)]


def test_a_description_has_the_number_and_the_first_ranges() -> None:
    ranges = [Gap(NOW, p, 1_000, 2_500) for p in range(4)]
    assert describe(ranges) == (
        "6,000 offsets (offsets 1,000 to 2,499 of partition 0 (topic-now); offsets 1,000 to 2,499 "
        "of partition 1 (topic-now); offsets 1,000 to 2,499 of partition 2 (topic-now); …)"
    )
