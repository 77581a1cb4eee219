"""Sums of events: the deltas of one commit. Pure; written for speed, as every event passes here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from typing import Any, Final

from store.counters import Deltas
from store.identity_owners import UNKNOWN, PartitionOwners
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
) -> tuple[list[SourcedEvent], list[SourcedEvent]]:
    """Return the events without repeated identities (the first stays), and those dropped.

    Events with an identity in `counted` are dropped too.
    """
    seen = set(counted)
    kept = []
    dropped = []
    for sourced in events:
        half = identity_of(sourced.event)
        if half in seen:
            dropped.append(sourced)
        else:
            seen.add(half)
            kept.append(sourced)
    return kept, dropped


def identities_of(events: Sequence[SourcedEvent], owners: PartitionOwners) -> list[Any]:
    """Return `Deltas.identities` of events that are grouped by arrival slot."""
    identities: list[Any] = []
    start_ms = end_ms = 0  # of the last event's slot
    of_slot: list[bytes] = []
    multiplier, addend, first_offset = owners
    for event, offset, recorded_ms in events:
        if not start_ms <= recorded_ms < end_ms:
            slot = recorded_ms // DAY_MS
            start_ms, end_ms = slot * DAY_MS, (slot + 1) * DAY_MS
            of_slot = []
            identities += (slot, of_slot)
        # identity_of and owners.of, without the calls
        of_slot.append(event.event_id[:8])
        owner = multiplier * offset + addend & 0xFFFFFFFF if offset >= first_offset else 0
        of_slot.append(owner.to_bytes(4, "big"))
    identities[1::2] = [b"".join(each) for each in identities[1::2]]
    return identities


def aggregate(
    events: Sequence[SourcedEvent], calendar: Calendar, owners: PartitionOwners = UNKNOWN
) -> Deltas:
    """Return the deltas of `events`, all of one tenant, with distinct identities.

    `owners`: of the partition that the events were read from. `identities` has the order of
    `events`, which must be grouped by arrival slot: see `by_slot`.
    """
    plain = [event for event, _, _ in events]
    types: dict[str, int] = {}
    codes: list[int] = []
    days: list[int] = []
    start_ms = end_ms = day = 0  # the day of the last event
    for event in plain:
        occurred_ms = event.occurred_ms
        if not start_ms <= occurred_ms < end_ms:
            day = calendar.day_of(occurred_ms)
            start_ms, end_ms = calendar.midnight_ms(day), calendar.midnight_ms(day + 1)
        outcome = event.outcome
        index = types.get(outcome)
        if index is None:
            index = types[outcome] = len(types)
        codes.append(day << _TYPE_BITS | index)
        days.append(day)
    of_customer = [event.customer for event in plain]
    of_offer = [event.offer for event in plain]
    offers: dict[str, list[Any]] = {}
    for customer, offer, day in zip(of_customer, of_offer, days, strict=True):
        seen = offers.get(customer)
        if seen is None:
            offers[customer] = [offer, day]
        else:
            seen += (offer, day)
    customers: list[Any] = []
    for id_, counts in _counted(of_customer, codes).items():
        customers += (id_, _triples(counts), offers[id_])
    return Deltas(
        list(types),
        identities_of(events, owners),
        _flat(_counted(of_offer, codes)),
        _flat(_counted([event.creative for event in plain], codes)),
        _flat(_counted([event.channel for event in plain], codes)),
        customers,
        len(events),
    )


#: Codes of one group: the only one, or code -> count. Most groups of a batch have one event.
_Codes = int | dict[int, int]


def _counted(ids: Iterable[str | None], codes: Iterable[int]) -> dict[str, _Codes]:
    """Return the codes of each id, in order of the first event; None is no id."""
    groups: dict[str, _Codes] = {}
    get = groups.get
    for id_, code in zip(ids, codes, strict=True):
        if id_ is not None:
            counts = get(id_)
            if counts is None:
                groups[id_] = code
            elif isinstance(counts, dict):
                counts[code] = counts.get(code, 0) + 1
            else:
                groups[id_] = {code: 2} if code == counts else {counts: 1, code: 1}
    return groups


def by_slot(events: Sequence[SourcedEvent]) -> Sequence[SourcedEvent]:
    """Return the events grouped by arrival slot, otherwise in their order."""
    first = events[0].recorded_ms // DAY_MS if events else 0
    if all(e.recorded_ms // DAY_MS == first for e in events):
        return events
    return sorted(events, key=lambda e: e.recorded_ms // DAY_MS)


def _flat(groups: dict[str, _Codes]) -> list[Any]:
    flat: list[Any] = []
    for id_, counts in groups.items():
        flat += (id_, _triples(counts))
    return flat


def _triples(counts: _Codes) -> list[int]:
    if isinstance(counts, int):
        return [counts >> _TYPE_BITS, counts & _TYPE_MASK, 1]
    triples: list[int] = []
    for code in sorted(counts):
        triples += (code >> _TYPE_BITS, code & _TYPE_MASK, counts[code])
    return triples
