"""How many records of a fetched batch are decoded and committed together. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final

#: Records of the largest slice, in multiples of the events of one commit. Decoding it takes some
#: 40 ms, in which nothing else runs.
COMMITS_PER_SLICE_MAX: Final = 40


class SliceSize:
    """Size of the next slice of a partition, from the tenants of the last one.

    A commit is of one tenant, and costs nearly as much for one event as for ten. Where a partition
    has many tenants, a slice of `events_max` records would be as many commits of one event.
    """

    def __init__(self, events_max: int) -> None:
        """`events_max`: maximum events of one commit."""
        self._events_max = events_max
        self.records = events_max
        """Maximum records of the next slice."""

    def note(self, events: Collection[int]) -> None:
        """Take account of a slice whose tenants had so many events each.

        The tenant with the most has about three quarters of `events_max` in the next one: few
        tenants then need two commits.
        """
        largest = max(events, default=0)
        if largest == 0:
            return
        alike = sum(events) / largest
        wanted = round(self._events_max * max(1.0, 0.75 * alike))
        self.records = min(wanted, COMMITS_PER_SLICE_MAX * self._events_max)


def slices(records: Sequence[Any], size: SliceSize) -> Iterator[Sequence[Any]]:
    """Yield all records in order, each slice of at most the size that is right by then.

    The slices are even: a small rest would cost commits like any other.
    """
    first = 0
    while first < len(records):
        left = len(records) - first
        count = -(-left // size.records)
        end = first + -(-left // count)
        yield records[first:end]
        first = end
