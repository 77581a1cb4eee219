"""Arithmetic of a rebuild since a day, against a plain count; and what is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.audit import GroupState, OfferSeen
from store.counters import Generation, Missing, Position, Shortfall
from store.offsets import Gap
from store.records import GROUPINGS, Event, Grouping
from store.windows import DAY_MS, EPOCH, TILE_DAYS, Calendar, date_of
from streams.rebuild.base import CopiedGroups, OpenOffers, base_of
from streams.rebuild.errors import RebuildError
from streams.rebuild.identities import SeenIdentities
from streams.rebuild.late import SinceSums, Takeover
from streams.rebuild.plan import Plan
from streams.rebuild.since import (
    TopicTimes,
    day_of,
    narrow,
    parse_since,
    why_no_day,
    why_not_from,
    why_not_read,
)
from streams.rebuild.sums import EventSums
from tests.support.deltas import counts_of
from tests.support.events import TODAY, make_event

UTC = Calendar("UTC")
OLDER = TODAY - TILE_DAYS
SINCE = TODAY - 1
TOPIC = "0b0c3a52-8b1e-4a53-9d1f-0d7a4a1f0c11"
OTHER = "5e9d6d47-3a4b-4bd2-8d9c-0f3b1d8a7c55"
_ID: Mapping[Grouping, str] = {
    "action": "offer",
    "treatment": "creative",
    "channel": "channel",
    "customer": "customer",
}

days = st.integers(OLDER - 5, TODAY + 1)
counted = st.lists(st.tuples(days, st.sampled_from("abc")))


@given(counted, st.integers(OLDER + 1, TODAY))
def test_the_base_is_the_count_of_the_days_before(
    events: list[tuple[int, str]], since_day: int
) -> None:
    group = GroupState(
        windows={"alltime": Counter(outcome for _, outcome in events)},
        tiles=Counter(event for event in events if event[0] > OLDER),
        ranks={},
        offers={},
    )
    expected = Counter((max(OLDER, day), o) for day, o in events if day < since_day)
    assert base_of(group, since_day, OLDER).counts == expected


def test_tiles_with_more_events_than_all_time_are_refused() -> None:
    group = GroupState({"alltime": {"a": 1}}, {(TODAY, "a"): 2}, {}, {})
    with pytest.raises(ValueError, match="the days of a have 1 events more than all time"):
        base_of(group, SINCE, OLDER)


def test_offers_with_a_later_day_are_open() -> None:
    seen = {
        OfferSeen("before"): SINCE - 3,
        OfferSeen("later"): SINCE,
        OfferSeen("both"): SINCE - 2,
        OfferSeen("both", TODAY + 1): TODAY + 1,
        OfferSeen("ahead", TODAY + 1): TODAY + 1,
    }
    base = base_of(GroupState({}, {}, {}, seen), SINCE, OLDER)
    assert base.offers == {"before": SINCE - 3, "both": SINCE - 2}
    assert base.open_offers == ["ahead", "later"]


@given(st.lists(st.tuples(st.sampled_from(GROUPINGS), st.text()), unique=True))
def test_copied_groups_keep_their_watermarks(groups: list[tuple[Grouping, str]]) -> None:
    copied, offers = CopiedGroups(), OpenOffers()
    for i, (grouping, id_) in enumerate(groups):
        assert copied.watermarks_of(grouping, id_) is None
        copied.add(grouping, [id_], {0: i // 3})
        offers.add(id_, grouping)
    for i, (grouping, id_) in enumerate(groups):
        assert copied.watermarks_of(grouping, id_) == {0: i // 3}
        assert (id_, grouping) in offers
        assert (f"{id_}x", grouping) not in offers or (grouping, f"{id_}x") in groups


#: A record: partition, index of its event. Some are copies. Events 0 to 5 are late.
records = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 9)), max_size=30)
EVENTS = [
    make_event(
        customer=f"C-{i % 2}",
        offer=f"off_{i % 3}",
        creative=None,
        occurred_ms=(SINCE - 3 if i < 6 else TODAY) * DAY_MS + i,
    )
    for i in range(10)
]


@given(records, st.randoms(use_true_random=False))
def test_each_event_counts_once_whenever_its_groups_were_copied(
    sent: Sequence[tuple[int, int]], chosen: Any
) -> None:
    """A copy has the late events of which it had passed any record; the sums have the others."""
    topic: dict[int, list[Event]] = {0: [], 1: []}
    for partition, index in sent:
        topic[partition].append(EVENTS[index])
    marks = [{0: 0, 1: 0}]
    for _ in range(8):
        moved = dict(marks[-1])
        for partition, events in topic.items():
            moved[partition] = chosen.randint(moved[partition], len(events))
        marks.append(moved)
    copied = CopiedGroups()
    total: Counter[Any] = Counter()
    groups = {(g, id_) for g in GROUPINGS for e in EVENTS if (id_ := getattr(e, _ID[g]))}
    for grouping, id_ in sorted(groups):
        at = chosen.choice(marks[1:-1])
        found = {e.event_id: e for p, end in at.items() for e in topic[p][:end]}
        mine = [e for e in found.values() if getattr(e, _ID[grouping]) == id_]
        if mine or chosen.random() < 0.5:  # a group may appear after the ids were listed
            copied.add(grouping, [id_], at)
            total.update((grouping, id_) for e in mine if UTC.day_of(e.occurred_ms) < SINCE)
    takeover = Takeover(SINCE, marks[1], marks[-2], copied, OpenOffers())
    seen, sums = SeenIdentities(2), EventSums(UTC, TODAY)
    since = SinceSums(takeover, UTC, TODAY, {0: 0, 1: 0}, seen, sums)
    positions = {0: 0, 1: 0}

    def read_to(ends: Mapping[int, int]) -> None:
        while left := [p for p, end in ends.items() if positions[p] < end]:
            partition = chosen.choice(left)
            offset = positions[partition]
            since.add(topic[partition][offset], partition, offset, TODAY)
            positions[partition] += 1

    read_to(takeover.last)
    deltas = list(since.decide())
    read_to({p: len(events) for p, events in topic.items()})
    for (grouping, id_, _, _), n in counts_of([*deltas, *sums.take()]).items():
        total[grouping, id_] += n
    distinct = {e.event_id: e for events in topic.values() for e in events}.values()
    expected = Counter((g, getattr(e, _ID[g])) for g in GROUPINGS for e in distinct)
    assert total == Counter({group: n for group, n in expected.items() if group[1] is not None})


def test_the_topic_has_days_of_offers_that_the_counters_lack() -> None:
    """A copied customer has only the very last day of an offer, and that is of a day to rebuild."""
    copied, offers = CopiedGroups(), OpenOffers()
    copied.add("customer", ["C-0", "C-1"], {0: 5})
    offers.add("C-0", "off_0")
    takeover = Takeover(SINCE, {0: 3}, {0: 5}, copied, offers)
    sums = EventSums(UTC, TODAY)
    since = SinceSums(takeover, UTC, TODAY, {0: 0}, SeenIdentities(2), sums)
    for offset, index in enumerate((0, 1, 2, 3)):  # off_0, off_1, off_2 below the first watermark
        since.add(EVENTS[index], 0, offset, TODAY)
    (decided,), (taken,) = since.decide(), sums.take()
    assert decided.customers == ["C-1", [], ["off_0", SINCE - 3]], "counted before it was copied"
    assert taken.customers == ["C-0", [], ["off_0", SINCE - 3]]
    assert taken.events == 0


def test_too_many_undecided_events_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.rebuild.late.UNDECIDED_MAX", 2)
    takeover = Takeover(SINCE, {}, {}, CopiedGroups(), OpenOffers())
    since = SinceSums(takeover, UTC, TODAY, {0: 0}, SeenIdentities(2), EventSums(UTC, TODAY))
    for i in range(2):
        since.add(EVENTS[i], 0, i, TODAY)
    with pytest.raises(RebuildError, match="tenant acme: more than 2 events of the days before"):
        since.add(EVENTS[2], 0, 2, TODAY)


@pytest.mark.parametrize(
    ("text", "since"),
    [
        ("2026-11-20", date(2026, 11, 20)),
        ("2026-11-20T08:00:00Z", 1_795_161_600_000),
        ("2026-11-20T08:00:00.250+02:00", 1_795_154_400_250),
    ],
)
def test_a_time_is_a_date_or_an_instant(text: str, since: object) -> None:
    assert parse_since(text) == since


@pytest.mark.parametrize("text", ["", "yesterday", "2026-13-01", "2026-11-20T08:00:00"])
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_since(text)


@given(st.sampled_from(("America/Havana", "Asia/Kolkata", "Pacific/Apia")), st.integers(0, 40_000))
def test_the_day_is_the_tenants(zone: str, hours: int) -> None:
    calendar = Calendar(zone)
    instant_ms = 3 * DAY_MS + hours * 3_600_000
    day = day_of(instant_ms, calendar)
    assert calendar.midnight_ms(day) <= instant_ms < calendar.midnight_ms(day + 1)
    assert day_of(date_of(day), calendar) == day == (date_of(day) - EPOCH).days


def test_days_without_tiles_are_refused() -> None:
    assert why_no_day(TODAY - 30, TODAY, TODAY) is None
    assert why_no_day(TODAY, TODAY, TODAY) is None
    assert "too long ago" in (why_no_day(TODAY - 31, TODAY, TODAY) or "")
    assert "too long ago" in (why_no_day(TODAY - 30, TODAY - 1, TODAY + 1) or "")
    assert "in the future: today is" in (why_no_day(TODAY + 1, TODAY, TODAY) or "")


def test_counters_that_lack_something_are_refused() -> None:
    active = Generation("acme", 3, TODAY, "UTC", complete=True)
    nothing = Missing([], [], unproven=False)

    def reason(active: Generation | None = active, missing: Missing = nothing) -> str:
        return why_not_from(active, missing, TOPIC, "UTC") or ""

    assert reason() == ""
    behind = [Shortfall((TOPIC, 0), 1, 2)]
    assert reason(missing=nothing._replace(behind=behind)) == "", "the topic has it"
    behind = [Shortfall((OTHER, 0), 1, 2)]
    assert "the topic before" in reason(missing=nothing._replace(behind=behind))
    assert "lacks offsets from 7 on" in reason(missing=nothing._replace(gaps=[Gap(TOPIC, 0, 7, 9)]))
    assert "all of history" in reason(missing=nothing._replace(unproven=True))
    assert "Redis has evicted" in reason(missing=nothing._replace(evicted=True))
    assert "time zone Asia/Tokyo, not of UTC" in reason(active._replace(timezone="Asia/Tokyo"))
    assert "there are no counters" in reason(None)


def test_what_the_counters_have_yet_to_count_must_be_in_the_topic() -> None:
    assert why_not_read(TOPIC, {0: 5, 1: 5}, {0: 5}) is None
    assert "offsets 4 to 4 of partition 1" in (why_not_read(TOPIC, {0: 5, 1: 5}, {1: 4}) or "")


def plan_of(lost: Sequence[Gap], *, whole_history: bool = False) -> Plan:
    return Plan(
        watermarks=[Position(TOPIC, 0, 50), Position(TOPIC, 1, 50), Position(OTHER, 0, 3)],
        topic_starts={0: 50, 1: 50},
        whole_history=whole_history,
        uses_history=True,
        lost=lost,
    )


def times_of(*older: int) -> TopicTimes:
    return TopicTimes(
        TOPIC,
        earliest={0: 10, 1: 10},
        older=older,
        identities_from={0: 30, 1: 10},
        day_from={0: 60, 1: 10},
    )


def test_the_topic_is_read_from_the_first_identity_or_the_first_uncounted_event() -> None:
    counted = {(TOPIC, 0): 40, (OTHER, 0): 9}
    plan, counted_from = narrow(plan_of([]), times_of(0), counted)
    assert plan.topic_starts == counted_from == {0: 30, 1: 10}
    assert plan.watermarks == [
        Position(TOPIC, 0, 30),
        Position(TOPIC, 1, 10),
        Position(OTHER, 0, 9),
    ]
    plan, counted_from = narrow(plan_of([], whole_history=True), times_of(0), counted)
    assert (plan.topic_starts, counted_from) == ({0: 30, 1: 10}, {0: 50, 1: 50})


def test_only_offsets_that_may_be_of_the_days_are_lost() -> None:
    lost = [Gap(TOPIC, 0, 0, 10), Gap(TOPIC, 1, 0, 10), Gap(OTHER, 0, 3, 9)]
    plan, _ = narrow(plan_of(lost), times_of(), {})
    assert plan.lost == lost, "nothing tells how old they are"
    assert plan.watermarks[2] == Position(OTHER, 0, 3)
    plan, _ = narrow(plan_of(lost), times_of(0), {(OTHER, 0): 9})
    assert plan.lost == [lost[1]]
    assert plan.watermarks[2] == Position(OTHER, 0, 9)
    plan, _ = narrow(plan_of([Gap(TOPIC, 0, 5, 70)]), times_of(0), {})
    assert plan.lost == [Gap(TOPIC, 0, 60, 70)]
