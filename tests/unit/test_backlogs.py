"""Backlogs of partitions: when what they have left pending is folded."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from streams.backlogs import BACKLOG_RECORDS, Backlogs


def batch(partition: int, waiting: int) -> Any:
    """Return a batch of which this number of records waited when it was fetched."""
    return SimpleNamespace(partition=partition, next_offset=10, end_offset=10 + waiting)


def counted(backlogs: Backlogs, partition: int, waiting: int) -> bool:
    """Return whether no partition has a backlog once a batch is counted."""
    backlogs.begin(batch(partition, waiting))
    return backlogs.end(batch(partition, waiting))


def test_no_backlog_is_left_once_all_partitions_have_ended_theirs() -> None:
    backlogs = Backlogs()
    assert counted(backlogs, 0, BACKLOG_RECORDS - 1)
    assert not counted(backlogs, 0, BACKLOG_RECORDS)
    assert not counted(backlogs, 1, BACKLOG_RECORDS)
    assert not counted(backlogs, 0, 0)
    assert backlogs
    assert counted(backlogs, 1, 0)
    assert not backlogs


def test_a_backlog_that_is_never_delivered_is_forgotten() -> None:
    """An open transaction, say: nothing comes of the partition, though it has more offsets."""
    backlogs = Backlogs()
    counted(backlogs, 0, BACKLOG_RECORDS)
    counted(backlogs, 1, BACKLOG_RECORDS)
    assert not backlogs.forget(0)
    assert not backlogs.forget(0)
    assert backlogs.forget(1)
    assert not backlogs
    assert not backlogs.forget(1)
