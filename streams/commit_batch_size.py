"""How many records become one commit batch. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final

#: Records of the largest commit batch, in multiples of the events of one commit.
COMMITS_PER_BATCH_MAX: Final = 160


class CommitBatchSize:
    """Size of the next commit batch of a partition, from the tenants of the last one.

    A commit is of one tenant, and costs nearly as much for one event as for ten. Where a partition
    has many tenants, a commit batch of `events_max` records would be as many commits of one event.
    """

    def __init__(self, events_max: int) -> None:
        """`events_max`: maximum events of one commit."""
        self._events_max = events_max
        self.records = events_max
        """Maximum records of the next commit batch."""

    def note(self, events: Collection[int]) -> None:
        """Adapt to a commit batch; `events`: numbers of events of its tenants.

        The tenant with the most has about three quarters of `events_max` in the next one, so that
        few tenants need two commits.
        """
        largest = max(events, default=0)
        if largest == 0:
            return
        alike = sum(events) / largest
        wanted = round(self._events_max * max(1.0, 0.75 * alike))
        self.records = min(wanted, COMMITS_PER_BATCH_MAX * self._events_max)


def split_batch(records: Sequence[Any], size: CommitBatchSize) -> Iterator[Sequence[Any]]:
    """Yield all records in order, in parts that are as even as `size` allows.

    `size` may change between two parts. A small rest would cost commits like any other part.
    """
    first = 0
    while first < len(records):
        left = len(records) - first
        count = -(-left // size.records)
        end = first + -(-left // count)
        yield records[first:end]
        first = end
