"""Sums of a rebuild: the same counts as adding each event, in commits of bounded size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from store.counters import Deltas
from store.records import GROUPINGS, Event, Grouping
from store.windows import TILE_DAYS, Calendar
from streams.rebuild.sums import COMMIT_SIZE_MAX, GROUP_SIZE, EventSums, RowSums
from tests.support.deltas import counts_of
from tests.support.events import TODAY, events, make_event

UTC = Calendar("UTC")
BEFORE = TODAY - TILE_DAYS
"""The day that stands for all days before those with tiles."""


def id_of(event: Event, grouping: Grouping) -> str | None:
    return {
        "action": event.offer,
        "treatment": event.creative,
        "channel": event.channel,
        "customer": event.customer,
    }[grouping]


def expected_counts(of: Iterable[Event]) -> Counter[Any]:
    """Return (grouping, id, day, outcome type) -> events, one by one."""
    found: Counter[Any] = Counter()
    for event in of:
        day = max(BEFORE, UTC.day_of(event.occurred_ms))
        for grouping in GROUPINGS:
            if (id_ := id_of(event, grouping)) is not None:
                found[grouping, id_, day, event.outcome] += 1
    return found


def offers_of(deltas: Sequence[Deltas]) -> dict[tuple[str, str, bool], int]:
    """Return (customer, offer, whether the day is ahead of the window day) -> day."""
    found: dict[tuple[str, str, bool], int] = {}
    for each in deltas:
        for i in range(0, len(each.customers), 3):
            flat = each.customers[i + 2]
            for j in range(0, len(flat), 2):
                key = each.customers[i], flat[j], flat[j + 1] > TODAY
                assert key not in found, "an offer of a customer once"
                found[key] = flat[j + 1]
    return found


def expected_offers(of: Iterable[Event]) -> dict[tuple[str, str, bool], int]:
    """Return the last day of each offer up to the window day, and the day after that if it is one.

    Until midnight, an offer of tomorrow is not yet one of the customer's; an older one is.
    """
    found: dict[tuple[str, str, bool], int] = {}
    for event in of:
        day = UTC.day_of(event.occurred_ms)
        key = event.customer, event.offer, day > TODAY
        found[key] = max(found.get(key, BEFORE), day)
    return found


DAYS = range(TODAY - 40, TODAY + 2)


@given(st.lists(events(days=DAYS), max_size=60))
def test_sums_of_events_are_the_counts_of_each_event(batch: list[Event]) -> None:
    sums = EventSums(UTC, TODAY)
    for event in batch:
        sums.add(event)
    deltas = list(sums.take())
    assert counts_of(deltas) == expected_counts(batch)
    assert offers_of(deltas) == expected_offers(batch)
    assert sum(each.events for each in deltas) == len(batch)
    assert list(sums.take()) == [], "taken"


@given(st.lists(events(days=DAYS), max_size=60))
def test_sums_of_rows_are_the_counts_of_each_event(batch: list[Event]) -> None:
    """Rows as SQL returns them: sorted by the group's bytes, with bucket 0 for all old days."""

    def bucket(event: Event) -> int:
        return max(0, UTC.day_of(event.occurred_ms) - BEFORE)

    sums = RowSums(first_day=BEFORE + 1)
    deltas: list[Deltas] = []
    groupings: tuple[Grouping, ...] = ("action", "treatment", "channel")
    for grouping in groupings:
        rows = Counter(
            (id_of(e, grouping), bucket(e), e.outcome) for e in batch if id_of(e, grouping)
        )
        ordered: Any = [(*key, n) for key, n in sorted(rows.items(), key=lambda r: _bytes(r[0][0]))]
        deltas += sums.add_groups(grouping, ordered)
        deltas += sums.end_grouping(grouping)
    of_customers = Counter((e.customer, e.offer, bucket(e), e.outcome) for e in batch)
    ordered = [(*key, n) for key, n in sorted(of_customers.items(), key=lambda r: _bytes(r[0][0]))]
    deltas += sums.add_customers(ordered[: len(ordered) // 2])
    deltas += sums.add_customers(ordered[len(ordered) // 2 :])
    deltas += sums.end_grouping("customer")
    deltas += sums.rest()
    assert counts_of(deltas) == expected_counts(batch)
    assert offers_of(deltas) == expected_offers(batch)
    assert sum(each.events for each in deltas) == len(batch)


def _bytes(id_: str | None) -> bytes:
    return (id_ or "").encode()


def test_commits_have_a_bounded_size_whatever_a_customer_did() -> None:
    """10,000 offers of one customer, and 10,000 customers of one offer."""
    sums = EventSums(UTC, TODAY)
    batch = [make_event(customer="one", offer=f"off_{i}") for i in range(10_000)]
    batch += [make_event(customer=f"C-{i}", offer="one") for i in range(10_000)]
    for event in batch:
        sums.add(event)
    deltas = list(sums.take())
    for each in deltas:
        groups = len(each.actions) // 2 + len(each.customers) // 3
        offers = sum(len(flat) // 2 for flat in each.customers[2::3])
        assert groups * GROUP_SIZE + offers <= 2 * COMMIT_SIZE_MAX + GROUP_SIZE
    assert counts_of(deltas) == expected_counts(batch)
    assert offers_of(deltas) == expected_offers(batch)
