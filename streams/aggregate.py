"""Sums of events: the deltas of one commit. Pure; written for speed, as every event passes here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from typing import Any, Final

from store.counters import Deltas
from store.records import Event, SourcedEvent
from store.windows import DAY_MS, Calendar

_TYPE_BITS: Final = 10  # a day and a type in one int: day << 10 | type
_TYPE_MASK: Final = (1 << _TYPE_BITS) - 1


def identity_of(event: Event) -> bytes:
    """Return the half of the 128-bit identity that counter stores remember: 8 bytes.

    Two different interactions share it with probability n/2**64, n the number remembered.
    """
    return event.event_id[:8]


def distinct(
    events: Iterable[SourcedEvent], counted: Set[bytes] = frozenset()
) -> tuple[list[SourcedEvent], int]:
    """Return the events without repeated identities (the first stays), and the number dropped.

    Events with an identity in `counted` are dropped too.
    """
    seen = set(counted)
    kept = []
    dropped = 0
    for sourced in events:
        half = identity_of(sourced.event)
        if half in seen:
            dropped += 1
        else:
            seen.add(half)
            kept.append(sourced)
    return kept, dropped


def aggregate(events: Sequence[SourcedEvent], calendar: Calendar) -> Deltas:
    """Return the deltas of `events`, all of one tenant, with distinct identities.

    `identities` has the order of `events`, which must be grouped by arrival slot: see `by_slot`.
    """
    types: dict[str, int] = {}
    actions: dict[str, dict[int, int]] = {}
    treatments: dict[str, dict[int, int]] = {}
    channels: dict[str, dict[int, int]] = {}
    customers: dict[str, dict[int, int]] = {}
    offers: dict[str, list[Any]] = {}
    identities: list[Any] = []
    slot: int | None = None
    of_slot: list[bytes] = []
    day_of = calendar.day_of
    for event, _, recorded_ms in events:
        if recorded_ms // DAY_MS != slot:
            if slot is not None:
                identities += (slot, b"".join(of_slot))
            slot, of_slot = recorded_ms // DAY_MS, []
        of_slot.append(event.event_id[:8])  # identity_of, without the call
        day = day_of(event.occurred_ms)
        index = types.setdefault(event.outcome, len(types))
        code = day << _TYPE_BITS | index
        customer = event.customer
        for groups, id_ in (
            (actions, event.offer),
            (treatments, event.creative),
            (channels, event.channel),
            (customers, customer),
        ):
            if id_ is not None:
                counts = groups.get(id_)
                if counts is None:
                    groups[id_] = {code: 1}
                else:
                    counts[code] = counts.get(code, 0) + 1
        seen = offers.get(customer)
        if seen is None:
            offers[customer] = [event.offer, day]
        else:
            seen += (event.offer, day)
    if slot is not None:
        identities += (slot, b"".join(of_slot))
    return Deltas(
        list(types),
        identities,
        _flat(actions),
        _flat(treatments),
        _flat(channels),
        [
            part
            for id_, counts in customers.items()
            for part in (id_, _triples(counts), offers[id_])
        ],
        len(events),
    )


def by_slot(events: Sequence[SourcedEvent]) -> Sequence[SourcedEvent]:
    """Return the events grouped by arrival slot, otherwise in their order."""
    first = events[0].recorded_ms // DAY_MS if events else 0
    if all(e.recorded_ms // DAY_MS == first for e in events):
        return events
    return sorted(events, key=lambda e: e.recorded_ms // DAY_MS)


def _flat(groups: dict[str, dict[int, int]]) -> list[Any]:
    return [part for id_, counts in groups.items() for part in (id_, _triples(counts))]


def _triples(counts: dict[int, int]) -> list[int]:
    if len(counts) == 1:
        ((code, n),) = counts.items()
        return [code >> _TYPE_BITS, code & _TYPE_MASK, n]
    return [
        part
        for code, n in sorted(counts.items())
        for part in (code >> _TYPE_BITS, code & _TYPE_MASK, n)
    ]
