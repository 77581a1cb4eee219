"""Sums of a commit batch, compared with a plain definition."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from store.identity_owners import ID_BYTES, OWNER_BYTES, partition_owners
from store.records import SourcedEvent
from store.windows import DAY_MS, Calendar
from streams.aggregate import aggregate, by_slot
from tests.support.events import make_event

FIRST_MS = 20_000 * DAY_MS
IDS = st.sampled_from(["", "a", "b", "é"])
EVENTS = st.lists(
    st.builds(
        lambda occurred_ms, recorded_ms, fields: (occurred_ms, recorded_ms, fields),
        st.integers(FIRST_MS, FIRST_MS + 3 * DAY_MS),
        st.integers(0, 2 * DAY_MS),
        st.fixed_dictionaries(
            {
                "customer": IDS,
                "offer": IDS,
                "creative": st.none() | IDS,
                "channel": st.none() | IDS,
                "outcome": st.sampled_from(["click", "accept", "convert"]),
            }
        ),
    ),
    max_size=30,
)


def sourced(events: Sequence[tuple[int, int, dict[str, Any]]]) -> list[SourcedEvent]:
    return [
        SourcedEvent(make_event(occurred_ms=occurred_ms, **fields), offset, recorded_ms)
        for offset, (occurred_ms, recorded_ms, fields) in enumerate(events)
    ]


def parts_of(flat: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (flat[at : at + size] for at in range(0, len(flat), size))


@given(EVENTS, st.sampled_from(["UTC", "America/Sao_Paulo", "Asia/Tokyo"]))
def test_deltas_are_the_counts_of_each_group_by_day_and_type(
    drawn: list[tuple[int, int, dict[str, Any]]], zone: str
) -> None:
    events = by_slot(sourced(drawn))
    owners = partition_owners("topic", 3)
    deltas = aggregate(events, Calendar(zone), owners)
    calendar = Calendar(zone)
    plain = [e.event for e in events]
    days = [calendar.day_of(event.occurred_ms) for event in plain]
    for field, flat, size in (
        ("offer", deltas.actions, 2),
        ("creative", deltas.treatments, 2),
        ("channel", deltas.channels, 2),
        ("customer", deltas.customers, 3),
    ):
        expected = Counter(
            (getattr(event, field), day, event.outcome)
            for event, day in zip(plain, days, strict=True)
            if getattr(event, field) is not None
        )
        found = {
            (id_, day, deltas.types[index]): n
            for id_, triples, *_ in parts_of(flat, size)
            for day, index, n in parts_of(triples, 3)
        }
        assert found == expected
        assert len(found) == sum(len(triples) // 3 for _, triples, *_ in parts_of(flat, size))
        for _, triples, *_ in parts_of(flat, size):
            assert list(triples[::3]) == sorted(triples[::3])
    offers = {id_: list(parts_of(seen, 2)) for id_, _, seen in parts_of(deltas.customers, 3)}
    assert offers == {
        customer: [
            [e.offer, day] for e, day in zip(plain, days, strict=True) if e.customer == customer
        ]
        for customer in {e.customer for e in plain}
    }
    entries = [
        (slot, entry)
        for slot, joined in parts_of(deltas.identities, 2)
        for entry in parts_of(joined, ID_BYTES + OWNER_BYTES)
    ]
    assert entries == [
        (e.recorded_ms // DAY_MS, e.event.event_id[:ID_BYTES] + owners.of(e.offset)) for e in events
    ]
    assert deltas.events == len(events)
