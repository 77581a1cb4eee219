"""Small batches that pile up in front of a busy task are taken as one."""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

import pytest

from streams.kafka.consumer import Batch
from streams.partition_queue import PartitionQueue

pytestmark = pytest.mark.anyio


class Record(NamedTuple):
    offset: int
    value: bytes | None = b"12345"


def batch(base: int, n: int, *, first: int | None = None, lost: int = 0) -> Batch:
    start = base if first is None else first
    return Batch(0, base, [Record(start + i) for i in range(n)], None, lost)


def filled(*batches: Batch, batch_bytes: int = 1_000, acknowledged: Any = None) -> PartitionQueue:
    inbox = PartitionQueue(batch_bytes=batch_bytes, batches=2)
    for i, each in enumerate(batches):
        inbox.put(each, lambda i=i: acknowledged.append(i))  # type: ignore[misc]
    return inbox


async def taken(inbox: PartitionQueue) -> tuple[int, int]:
    got, _ = await inbox.take()
    inbox.done()
    assert [record.offset for record in got.records] == sorted({r.offset for r in got.records})
    return got.base, got.next_offset


async def test_what_waits_is_taken_as_one_and_acknowledged_together() -> None:
    acknowledged: list[int] = []
    inbox = filled(batch(10, 3), batch(13, 1), batch(14, 6), acknowledged=acknowledged)
    got, acknowledge = await inbox.take()
    assert (got.base, got.next_offset) == (10, 20)
    assert [record.offset for record in got.records] == list(range(10, 20))
    assert acknowledged == []
    acknowledge()
    assert acknowledged == [0, 1, 2]


async def test_what_was_fetched_again_after_going_back_is_a_batch_of_its_own() -> None:
    inbox = filled(batch(10, 3), batch(5, 2), batch(7, 3))
    assert [await taken(inbox), await taken(inbox)] == [(10, 13), (5, 10)]


async def test_a_batch_that_lacks_offsets_is_taken_alone_so_that_it_can_say_so() -> None:
    inbox = filled(batch(10, 3), batch(13, 2, first=20, lost=7), batch(22, 1))
    assert await taken(inbox) == (10, 13)
    got, _ = await inbox.take()
    assert (got.base, got.lost, got.next_offset) == (13, 7, 23)


async def test_no_more_is_taken_at_once_than_a_batch_may_have() -> None:
    inbox = filled(batch(0, 3), batch(3, 3), batch(6, 100), batch(106, 1), batch_bytes=30)
    assert [await taken(inbox) for _ in range(3)] == [(0, 6), (6, 106), (106, 107)]


async def test_it_is_full_by_bytes_and_has_room_when_they_are_taken() -> None:
    inbox = filled(batch(0, 3), batch_bytes=10)
    assert not inbox.is_full
    inbox.put(batch(3, 1), lambda: None)
    assert inbox.is_full
    await taken(inbox)
    assert not inbox.is_full


async def test_tombstones_have_no_bytes() -> None:
    inbox = PartitionQueue(batch_bytes=1, batches=1)
    inbox.put(Batch(0, 0, [Record(0, None)], None, 0), lambda: None)
    assert not inbox.is_full
    assert await taken(inbox) == (0, 1)


async def test_joining_waits_for_what_is_in_hand_and_what_came_meanwhile() -> None:
    inbox = filled(batch(0, 1))
    joined = asyncio.create_task(inbox.join())
    await inbox.take()
    inbox.put(batch(1, 1), lambda: None)
    inbox.done()
    await asyncio.sleep(0)
    assert not joined.done(), "one waits"
    await inbox.take()
    await asyncio.sleep(0)
    assert not joined.done(), "one is in hand"
    inbox.done()
    await joined


async def test_taking_waits_for_something_to_come() -> None:
    inbox = filled()
    taking = asyncio.create_task(taken(inbox))
    await asyncio.sleep(0)
    assert not taking.done()
    inbox.put(batch(4, 2), lambda: None)
    assert await taking == (4, 6)
