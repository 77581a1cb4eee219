"""Events of a rebuild since a day: which of the topic's records the new generation lacks. Pure.

The counts of the days before are copied from the active generation, group by group, while it
counts. A record of such a day ("late") is in a group's copy if its offset is below the watermark at
which the group was read. That is decided per group, once everything that the active generation can
have counted meanwhile is read, because a copy of the record in another partition may have been
counted first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from store.counters import Deltas
from store.identity_owners import NO_OWNER
from store.records import GROUPINGS, Event, Grouping
from store.windows import TILE_DAYS, Calendar
from streams.aggregate import identity_of
from streams.rebuild.base import CopiedGroups, OpenOffers
from streams.rebuild.errors import RebuildError
from streams.rebuild.identities import SeenIdentities
from streams.rebuild.sums import DayCounts, EventSums

#: Late events that are undecided at a time, of one tenant: about 1 KiB each.
UNDECIDED_MAX: Final = 100_000


class Takeover(NamedTuple):
    """What was copied from the active generation."""

    since_day: int
    """The first day that comes from the source."""
    first: Mapping[int, int]
    """Partition -> watermark before the first group was read: records below are in every copy."""
    last: Mapping[int, int]
    """Partition -> watermark after the last group was read: records from there are in no copy."""
    groups: CopiedGroups
    offers: OpenOffers


@dataclasses.dataclass
class _Undecided:
    event: Event
    positions: list[tuple[int, int]]
    """Partition and offset of the record and of its copies."""


class SinceSums:
    """Decides about each event of the topic; adds those that the new generation lacks to sums."""

    def __init__(
        self,
        takeover: Takeover,
        calendar: Calendar,
        day: int,
        counted_from: Mapping[int, int],
        seen: SeenIdentities,
        sums: EventSums,
    ) -> None:
        """`counted_from`: partition -> offset below which history has the days from `since_day` on.

        `day` is the window day. `seen` must have the identities of the records before the first one
        that is added here, and no others.
        """
        self.takeover = takeover
        self.counted_from = counted_from
        self._calendar = calendar
        self._oldest_day = day - TILE_DAYS
        self._seen = seen
        self._sums = sums
        self._undecided: dict[bytes, _Undecided] | None = {}

    def add(
        self, event: Event, partition: int, offset: int, slot: int, owner: bytes = NO_OWNER
    ) -> None:
        """Count an event, unless it is a copy or the new generation has it.

        Raises RebuildError if too many late events are undecided.
        """
        is_new = self._seen.add(identity_of(event), slot, owner)
        day = self._calendar.day_of(event.occurred_ms)
        if day < self.takeover.since_day:
            self._add_late(event, partition, offset, is_new=is_new)
        elif is_new and offset >= self.counted_from[partition]:
            self._sums.add(event)

    def _add_late(self, event: Event, partition: int, offset: int, *, is_new: bool) -> None:
        identity, undecided = identity_of(event), self._undecided
        if offset < self.takeover.first.get(partition, 0):
            if undecided:
                undecided.pop(identity, None)
            if (event.customer, event.offer) in self.takeover.offers:
                self._sums.add_offer(event)
        elif undecided is None:
            if is_new:
                self._sums.add(event)
        elif (known := undecided.get(identity)) is not None:
            known.positions.append((partition, offset))
        elif is_new:
            undecided[identity] = _Undecided(event, [(partition, offset)])
            if len(undecided) > UNDECIDED_MAX:
                raise RebuildError(
                    f"tenant {event.tenant}: more than {UNDECIDED_MAX:,} events of the days before "
                    "were counted while the counters were copied; try again when fewer arrive"
                )

    def decide(self) -> Iterator[Deltas]:
        """Yield what the copies lack of the late events so far.

        Call it once, when all partitions are read up to `takeover.last`.
        """
        undecided, self._undecided = self._undecided or {}, None
        sums = DayCounts()
        for event, positions in ((u.event, u.positions) for u in undecided.values()):
            day = max(self._oldest_day, self._calendar.day_of(event.occurred_ms))
            for grouping in GROUPINGS:
                id_ = _id_of(event, grouping)
                if id_ is not None and not self._has(grouping, id_, positions):
                    sums.add(grouping, id_, day, event.outcome)
            # Also where the copy has the event: if it has a later one too, it lacks this day.
            sums.add_offer(event.customer, event.offer, day)
        yield from sums.take()

    def _has(self, grouping: Grouping, id_: str, positions: list[tuple[int, int]]) -> bool:
        watermarks = self.takeover.groups.watermarks_of(grouping, id_)
        return watermarks is not None and any(
            offset < watermarks.get(partition, 0) for partition, offset in positions
        )


def _id_of(event: Event, grouping: Grouping) -> str | None:
    match grouping:
        case "action":
            return event.offer
        case "treatment":
            return event.creative
        case "channel":
            return event.channel
        case "customer":
            return event.customer
