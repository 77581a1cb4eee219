"""Partitions in which many records wait."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from streams.kafka.consumer import Batch

#: Records after a batch that make it one of a backlog: a few may be markers of transactions.
BACKLOG_RECORDS: Final = 1_000


class Backlogs:
    """The partitions of a read session that have a backlog."""

    def __init__(self) -> None:
        self._partitions: set[int] = set()

    def __bool__(self) -> bool:
        """Return whether any partition has one."""
        return bool(self._partitions)

    def begin(self, batch: Batch) -> None:
        """Note whether many records waited after a batch, before it is counted."""
        if is_backlog(batch):
            self._partitions.add(batch.partition)

    def end(self, batch: Batch) -> bool:
        """Note the same once it is counted; return whether no partition has a backlog then.

        The backlogs of partitions often end together, and what they have left is done at once.
        """
        if is_backlog(batch):
            return False
        self._partitions.discard(batch.partition)
        return not self._partitions

    def forget(self, partition: int) -> bool:
        """Note that nothing comes of a partition; return whether that ends the last backlog."""
        if partition not in self._partitions:
            return False
        self._partitions.discard(partition)
        return not self._partitions


def is_backlog(batch: Batch) -> bool:
    """Return whether many records waited in the partition when the batch was fetched."""
    return batch.end_offset is not None and batch.end_offset - batch.next_offset >= BACKLOG_RECORDS
