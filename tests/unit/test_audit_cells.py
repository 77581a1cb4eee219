"""Arithmetic of an audit, against a plain count of the same events.

`counted` makes the state of a group's record as the counters would have it, from a list of events;
the rows of history are made from the same list.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from store.audit import AuditNote, Correction, GroupState, HistoryRow, OfferSeen
from store.windows import PERIODS, Period, date_of
from streams.audit.auditor import TenantAudit
from streams.audit.cells import TOTAL, UNIQUE, Cell, compare, correction, expected, same_differences

TODAY = 20_000
FIRST_TILE = TODAY - 30
DAYS = {"daily": 1, "weekly": 7, "monthly": 31}


class Seen(NamedTuple):
    """An event of one customer."""

    day: int
    offer: str
    outcome: str
    partition: int
    offset: int


events = st.lists(
    st.builds(
        Seen,
        day=st.sampled_from([TODAY - 400, TODAY - 31, *range(TODAY - 31, TODAY + 2)]),
        offer=st.sampled_from("abc"),
        outcome=st.sampled_from(["click", "impression"]),
        partition=st.integers(0, 1),
        offset=st.integers(0, 20),
    ),
    max_size=25,
    unique_by=lambda e: (e.partition, e.offset),
)
watermarks = st.fixed_dictionaries({("t", 0): st.integers(0, 21)}).flatmap(
    lambda one: st.one_of(
        st.just(one), st.integers(0, 21).map(lambda offset: {**one, ("t", 1): offset})
    )
)


def counted(seen: Sequence[Seen]) -> GroupState:
    """Return what the counters have after these events."""

    def within(day: int, period: Period) -> bool:
        return period == "alltime" or TODAY - DAYS[period] < day <= TODAY

    windows: dict[Period, Counter[str]] = {
        p: Counter(e.outcome for e in seen if within(e.day, p)) for p in PERIODS
    }
    ranks: dict[Period | int, int] = {p: n.total() for p, n in windows.items() if n}
    if tomorrow := sum(e.day == TODAY + 1 for e in seen):
        ranks[TODAY + 1] = tomorrow
    offers: dict[OfferSeen, int] = {}
    for e in seen:
        key = OfferSeen(e.offer, e.day if e.day > TODAY else 0)
        offers[key] = max(offers.get(key, 0), e.day)
    del windows["daily"]
    tiles = Counter((e.day, e.outcome) for e in seen if e.day >= FIRST_TILE)
    return GroupState(windows, tiles, ranks, offers)


def in_windows(offers: Mapping[OfferSeen, int]) -> dict[OfferSeen, int]:
    """Return the last days as the windows can tell them apart."""
    return {seen: max(day, FIRST_TILE - 1) for seen, day in offers.items()}


def rows_of(seen: Sequence[Seen], firsts: dict[tuple[str, int], int]) -> list[HistoryRow]:
    """Return the rows as the statement groups them: those below `firsts` are summed."""
    rows = []
    sums: dict[tuple[int, str, str], list[Seen]] = {}
    for e in seen:
        source = ("t", e.partition)
        if e.offset < firsts.get(source, 0):
            bucket = max(e.day, FIRST_TILE - 1)
            sums.setdefault((bucket, e.offer, e.outcome), []).append(e)
        else:
            day = max(e.day, FIRST_TILE - 1)
            rows.append(HistoryRow("C", e.offer, day, e.outcome, source, e.offset, 1))
    for (day, offer, outcome), group in sums.items():
        rows.append(HistoryRow("C", offer, day, outcome, None, 0, len(group)))
    return rows


@given(events, watermarks, st.integers(0, 21))
def test_counters_equal_history_at_their_own_watermarks(
    seen: list[Seen], marks: dict[tuple[str, int], int], first: int
) -> None:
    """Whatever part was summed, and although history has rows beyond the watermarks."""
    firsts = {source: min(first, mark) for source, mark in marks.items()}
    below = [e for e in seen if e.offset < marks.get(("t", e.partition), 0)]
    wanted = expected(rows_of(seen, firsts), marks, TODAY)
    assert compare(counted(below), wanted, TODAY) == []
    fix = correction("C", counted(below), wanted, TODAY)
    assert fix == Correction("C", {}, {}, {})


@given(events, st.sets(st.sampled_from(PERIODS)))
def test_only_ranks_that_are_kept_are_compared(seen: list[Seen], unranked: set[Period]) -> None:
    wanted = expected(rows_of(seen, {}), {("t", 0): 21, ("t", 1): 21}, TODAY)
    found = counted(seen)
    without = found._replace(
        ranks={
            period: n
            for period, n in found.ranks.items()
            if period not in unranked and not (period == TODAY + 1 and "daily" in unranked)
        }
    )
    assert compare(without, wanted, TODAY, unranked=unranked) == []
    lacking = {cell.period for cell in compare(without, wanted, TODAY)}
    tomorrow = date_of(TODAY + 1).isoformat()
    named = {tomorrow if period == TODAY + 1 else period for period in found.ranks}
    assert lacking == named & (unranked | ({tomorrow} if "daily" in unranked else set()))


@given(events, events)
def test_every_cell_that_differs_is_named_with_both_numbers(
    has: list[Seen], should: list[Seen]
) -> None:
    wanted = expected(rows_of(should, {}), {("t", 0): 21, ("t", 1): 21}, TODAY)
    found, right = counted(has), counted(should)
    named = {(c.period, c.column): (c.counters, c.history) for c in compare(found, wanted, TODAY)}

    def check(period: str, column: str, one: int, other: int) -> None:
        assert named.get((period, column)) == ((one, other) if one != other else None)

    def daily(state: GroupState, outcome: str) -> int:
        return state.tiles.get((TODAY, outcome), 0)

    for period in PERIODS:
        check(period, TOTAL, found.ranks.get(period, 0), right.ranks.get(period, 0))
        for outcome in ("click", "impression"):
            if period == "daily":
                check(period, outcome, daily(found, outcome), daily(right, outcome))
            else:
                a, b = (state.windows[period].get(outcome, 0) for state in (found, right))
                check(period, outcome, a, b)
        since = TODAY - DAYS.get(period, TODAY) + 1
        until = TODAY if period != "alltime" else TODAY + 1
        a, b = (len({e.offer for e in seen if since <= e.day <= until}) for seen in (has, should))
        check(period, UNIQUE, a, b)


@given(events, events)
def test_a_correction_makes_the_counters_equal(has: list[Seen], should: list[Seen]) -> None:
    wanted = expected(rows_of(should, {}), {("t", 0): 21, ("t", 1): 21}, TODAY)
    found, right = counted(has), counted(should)
    fix = correction("C", found, wanted, TODAY)
    tiles, alltime = Counter(found.tiles), Counter(found.windows["alltime"])
    tiles.update(fix.tiles)
    alltime.update(fix.alltime)
    assert {k: n for k, n in tiles.items() if n} == right.tiles
    assert {k: n for k, n in alltime.items() if n} == right.windows["alltime"]
    offers = dict(found.offers)
    for seen, (was, becomes) in fix.offers.items():
        assert offers.pop(seen, None) == was
        if becomes is not None:
            offers[seen] = becomes
    assert in_windows(offers) == in_windows(right.offers)


@given(events)
def test_of_a_record_that_cannot_be_read_the_correction_is_all_of_it(should: list[Seen]) -> None:
    wanted = expected(rows_of(should, {}), {("t", 0): 21, ("t", 1): 21}, TODAY)
    fix, right = correction("C", None, wanted, TODAY), counted(should)
    assert (fix.alltime, fix.tiles) == (right.windows["alltime"], right.tiles)
    days = {seen: day for seen, (_, day) in fix.offers.items() if day is not None}
    assert in_windows(days) == in_windows(right.offers)
    (cell,) = compare(None, wanted, TODAY)
    assert (cell.counters, cell.history) == (None, len(should))


@given(events, events)
def test_the_windows_with_a_start_need_the_tile_days_only(
    seen: list[Seen], older: list[Seen]
) -> None:
    recent = [e for e in seen if e.day >= FIRST_TILE]
    wanted = expected(rows_of(recent, {}), {("t", 0): 21, ("t", 1): 21}, TODAY)
    before = [e._replace(day=FIRST_TILE - 1) for e in older]
    assert compare(counted(recent + before), wanted, TODAY, recent=True) == []


def test_growing_counts_with_the_same_differences_are_the_same() -> None:
    one = [Cell("daily", "click", 5, 3), Cell("daily", TOTAL, 9, 7)]
    grown = [Cell("daily", TOTAL, 29, 27), Cell("daily", "click", 6, 4)]
    assert same_differences(one, grown)
    assert not same_differences(one, [*grown[:1], Cell("daily", "click", 7, 4)])
    assert not same_differences(one, grown[:1])


def test_a_clean_sample_does_not_clear_a_known_drift() -> None:
    clean = TenantAudit("acme", 3, 50, 0.1, 20, 80, (), ())
    drift = AuditNote(
        at_ms=10, result="drift", groups=9, cells=4, source="command", duration_s=1, generation=3
    )
    assert clean.note("worker", previous=None).result == "clean"
    kept = clean.note("worker", previous=drift)
    assert (kept.result, kept.cells, kept.at_ms) == ("drift", 4, 50)
    whole = clean._replace(sample=None).note("command", previous=drift)
    assert (whole.result, whole.cells) == ("clean", 0)
    rebuilt = clean._replace(generation=4).note("worker", previous=drift)
    assert rebuilt.result == "clean"
