"""Sums of a rebuild: many events per group, day and type, in commits of bounded size. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from store.counters import Deltas
from store.records import GROUPINGS, Event, Grouping
from store.windows import TILE_DAYS, Calendar

_TYPE_BITS: Final = 10  # a day and a type in one int, as in streams.aggregate
_TYPE_MASK: Final = (1 << _TYPE_BITS) - 1
#: Size of a commit: a group counts GROUP_SIZE, each of its counts and offers 1. 2 to 5 ms of Redis.
COMMIT_SIZE_MAX: Final = 1_000
GROUP_SIZE: Final = 8
#: Offers of one group in one commit; a script can name a few thousand values in one command.
OFFERS_MAX: Final = 1_000

#: day << 10 | type -> count
Counts = Mapping[int, int]


class CommitChunks:
    """Collects the sums of groups and splits them into deltas of bounded size."""

    def __init__(self, types: Mapping[str, int]) -> None:
        """`types` gives each outcome type key its index; it may grow until the deltas are made."""
        self._types = types
        self._groups: dict[Grouping, list[Any]] = {grouping: [] for grouping in GROUPINGS}
        self._size = 0
        self._events = 0

    def add(self, grouping: Grouping, id_: str, counts: Counts) -> Iterator[Deltas]:
        """Add a group that is not a customer; yield deltas when they are full.

        The events of a tenant are counted by the grouping `action`, which each event has.
        """
        self._groups[grouping] += (id_, _triples(counts))
        if grouping == "action":
            self._events += sum(counts.values())
        self._size += GROUP_SIZE + len(counts)
        if self._size >= COMMIT_SIZE_MAX:
            yield self._take()

    def add_customer(
        self, id_: str, counts: Counts, offers: Iterable[tuple[str, int]]
    ) -> Iterator[Deltas]:
        """Add a customer with days of the offers; yield deltas when they are full.

        That is the last day of each offer up to the window day, and all days after that.
        """
        days = list(offers)
        for start in range(0, max(1, len(days)), OFFERS_MAX):
            part = days[start : start + OFFERS_MAX]
            flat = [value for offer in part for value in offer]
            self._groups["customer"] += (id_, [] if start else _triples(counts), flat)
            self._size += GROUP_SIZE + len(part) + (0 if start else len(counts))
            if self._size >= COMMIT_SIZE_MAX:
                yield self._take()

    def rest(self) -> Iterator[Deltas]:
        """Yield what is left."""
        if self._size:
            yield self._take()

    def _take(self) -> Deltas:
        groups, events = self._groups, self._events
        self._groups = {grouping: [] for grouping in GROUPINGS}
        self._size = self._events = 0
        return Deltas(
            types=list(self._types),
            actions=groups["action"],
            treatments=groups["treatment"],
            channels=groups["channel"],
            customers=groups["customer"],
            events=events,
        )


class EventSums:
    """Sums of the events of one tenant, in memory until they are taken."""

    def __init__(self, calendar: Calendar, day: int) -> None:
        """`day` is the window day: days that can be in no window from then on are added up."""
        self._day_of = calendar.day_of
        self._oldest_day = day - TILE_DAYS
        self._window_day = day
        self._types: dict[str, int] = {}
        self._clear()

    def _clear(self) -> None:
        self._actions: dict[str, dict[int, int]] = {}
        self._treatments: dict[str, dict[int, int]] = {}
        self._channels: dict[str, dict[int, int]] = {}
        # Counts, and the last day of each offer up to the window day: one lookup for both.
        self._customers: dict[str, tuple[dict[int, int], dict[str, int]]] = {}
        # Customer -> offers and their days after the window day: some minutes before midnight.
        self._ahead: dict[str, set[tuple[str, int]]] = {}

    @property
    def groups(self) -> int:
        """Number of customers in memory, which are nearly all of it."""
        return len(self._customers)

    def add(self, event: Event) -> None:
        """Add one event, which must not be a copy. On the hot path of a rebuild from the topic."""
        day = self._day_of(event.occurred_ms)
        if day < self._oldest_day:
            day = self._oldest_day
        index = self._types.setdefault(event.outcome, len(self._types))
        code = day << _TYPE_BITS | index
        customer, offer = event.customer, event.offer
        # Four times the same lines: a loop over the groupings takes twice as long.
        counts = self._actions.get(offer)
        if counts is None:
            self._actions[offer] = {code: 1}
        else:
            counts[code] = counts.get(code, 0) + 1
        known = self._customers.get(customer)
        if known is None:
            seen: dict[str, int] = {}
            self._customers[customer] = {code: 1}, seen
        else:
            counts, seen = known
            counts[code] = counts.get(code, 0) + 1
        if day > self._window_day:
            self._ahead.setdefault(customer, set()).add((offer, day))
        elif seen.get(offer, -1) < day:
            seen[offer] = day
        if event.creative is not None:
            counts = self._treatments.get(event.creative)
            if counts is None:
                self._treatments[event.creative] = {code: 1}
            else:
                counts[code] = counts.get(code, 0) + 1
        if event.channel is not None:
            counts = self._channels.get(event.channel)
            if counts is None:
                self._channels[event.channel] = {code: 1}
            else:
                counts[code] = counts.get(code, 0) + 1

    def add_offer(self, event: Event) -> None:
        """Add only the day on which the customer had the offer, of an event that is counted."""
        day = max(self._oldest_day, self._day_of(event.occurred_ms))
        _, seen = self._customers.setdefault(event.customer, ({}, {}))
        if day > self._window_day:
            self._ahead.setdefault(event.customer, set()).add((event.offer, day))
        else:
            seen[event.offer] = max(day, seen.get(event.offer, day))

    def take(self) -> Iterator[Deltas]:
        """Yield everything as deltas of bounded size, and begin again with nothing."""
        taken = (self._actions, self._treatments, self._channels)
        customers, ahead = self._customers, self._ahead
        self._clear()
        chunks = CommitChunks(self._types)
        for grouping, groups in zip(GROUPINGS, taken, strict=False):
            for id_, counts in groups.items():
                yield from chunks.add(grouping, id_, counts)
        for id_, (counts, offers) in customers.items():
            yield from chunks.add_customer(id_, counts, [*offers.items(), *ahead.get(id_, ())])
        yield from chunks.rest()


class DayCounts:
    """Counts by group, day and outcome type, in memory until they are taken."""

    def __init__(self) -> None:
        self._types: dict[str, int] = {}
        self._groups: dict[Grouping, dict[str, dict[int, int]]] = {g: {} for g in GROUPINGS}
        self._offers: dict[str, dict[str, int]] = {}

    def add(self, grouping: Grouping, id_: str, day: int, outcome: str, n: int = 1) -> None:
        """Add `n` events of one group."""
        code = day << _TYPE_BITS | self._types.setdefault(outcome, len(self._types))
        counts = self._groups[grouping].setdefault(id_, {})
        counts[code] = counts.get(code, 0) + n

    def add_offer(self, customer: str, offer: str, day: int) -> None:
        """Add a day before today on which a customer had an offer; the last one stays."""
        seen = self._offers.setdefault(customer, {})
        seen[offer] = max(day, seen.get(offer, day))

    def take(self) -> Iterator[Deltas]:
        """Yield everything as deltas of bounded size, and begin again with nothing."""
        chunks = CommitChunks(self._types)
        groups, offers = self._groups, self._offers
        self._groups, self._offers = {g: {} for g in GROUPINGS}, {}
        customers = groups.pop("customer")
        for grouping, counted in groups.items():
            for id_, counts in counted.items():
                yield from chunks.add(grouping, id_, counts)
        for id_ in [*customers, *(id_ for id_ in offers if id_ not in customers)]:
            seen = offers.get(id_, {}).items()
            yield from chunks.add_customer(id_, customers.get(id_, {}), seen)
        yield from chunks.rest()


#: A row of a sum in SQL: group, bucket of days, outcome type key, number of events.
GroupRow = tuple[str, int, str, int]
#: The same for a customer, with the offer after the group.
CustomerRow = tuple[str, str, int, str, int]


class RowSums:
    """Sums that SQL has made, in order of the groups, as deltas."""

    def __init__(self, first_day: int) -> None:
        """`first_day` is the day of bucket 1; bucket 0 has all days before it."""
        self._day_before = first_day - 1
        self._window_day = first_day + TILE_DAYS - 1
        self._types: dict[str, int] = {}
        self._chunks = CommitChunks(self._types)
        self._id: str | None = None
        self._counts: dict[int, int] = {}
        self._offers: dict[str, int] = {}
        self._ahead: set[tuple[str, int]] = set()

    def add_groups(self, grouping: Grouping, rows: Iterable[GroupRow]) -> Iterator[Deltas]:
        """Add rows of one grouping, in order of their groups; yield deltas when they are full."""
        for id_, bucket, outcome, n in rows:
            if id_ != self._id:
                yield from self._finish(grouping)
                self._id = id_
            self._counts[self._code(bucket, outcome)] = n

    def add_customers(self, rows: Iterable[CustomerRow]) -> Iterator[Deltas]:
        """Add rows of customers, in order of the customers; yield deltas when they are full."""
        types, day_before = self._types, self._day_before
        for id_, offer, bucket, outcome, n in rows:
            if id_ != self._id:
                yield from self._finish("customer")
                self._id = id_
            day = day_before + bucket
            code = day << _TYPE_BITS | types.setdefault(outcome, len(types))
            counts = self._counts
            counts[code] = counts.get(code, 0) + n
            if day > self._window_day:
                self._ahead.add((offer, day))
            elif self._offers.get(offer, -1) < day:
                self._offers[offer] = day

    def end_grouping(self, grouping: Grouping) -> Iterator[Deltas]:
        """Finish the last group; the next rows are of another grouping."""
        yield from self._finish(grouping)

    def rest(self) -> Iterator[Deltas]:
        """Yield what is left."""
        yield from self._chunks.rest()

    def _code(self, bucket: int, outcome: str) -> int:
        index = self._types.setdefault(outcome, len(self._types))
        return (self._day_before + bucket) << _TYPE_BITS | index

    def _finish(self, grouping: Grouping) -> Iterator[Deltas]:
        if self._id is None:
            return
        if grouping == "customer":
            offers = [*self._offers.items(), *self._ahead]
            yield from self._chunks.add_customer(self._id, self._counts, offers)
            self._offers, self._ahead = {}, set()
        else:
            yield from self._chunks.add(grouping, self._id, self._counts)
        self._id, self._counts = None, {}


def _triples(counts: Counts) -> list[int]:
    """Return flat [day, type, count, ...] in order of day."""
    return [
        part
        for code, n in sorted(counts.items())
        for part in (code >> _TYPE_BITS, code & _TYPE_MASK, n)
    ]
