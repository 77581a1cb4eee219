"""Queue of one partition: small batches that wait for a busy task are taken as one."""

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
    queue = PartitionQueue(batch_bytes=batch_bytes, batches=2)
    for i, waiting in enumerate(batches):
        queue.put(waiting, lambda i=i: acknowledged.append(i))  # type: ignore[misc]
    return queue


async def taken(queue: PartitionQueue) -> tuple[int, int]:
    got, _ = await queue.take()
    queue.done()
    assert [record.offset for record in got.records] == sorted({r.offset for r in got.records})
    return got.base, got.next_offset


async def test_batches_that_wait_are_taken_as_one_and_acknowledged_together() -> None:
    acknowledged: list[int] = []
    queue = filled(batch(10, 3), batch(13, 1), batch(14, 6), acknowledged=acknowledged)
    got, acknowledge = await queue.take()
    assert (got.base, got.next_offset) == (10, 20)
    assert [record.offset for record in got.records] == list(range(10, 20))
    assert acknowledged == []
    acknowledge()
    assert acknowledged == [0, 1, 2]


async def test_a_batch_fetched_after_a_rewind_is_not_joined_with_the_ones_before() -> None:
    queue = filled(batch(10, 3), batch(5, 2), batch(7, 3))
    assert [await taken(queue), await taken(queue)] == [(10, 13), (5, 10)]


async def test_a_batch_with_lost_offsets_is_first_in_what_is_taken() -> None:
    queue = filled(batch(10, 3), batch(13, 2, first=20, lost=7), batch(22, 1))
    assert await taken(queue) == (10, 13)
    got, _ = await queue.take()
    assert (got.base, got.lost, got.next_offset) == (13, 7, 23)


async def test_no_more_than_batch_bytes_are_taken_at_once() -> None:
    queue = filled(batch(0, 3), batch(3, 3), batch(6, 100), batch(106, 1), batch_bytes=30)
    assert [await taken(queue) for _ in range(3)] == [(0, 6), (6, 106), (106, 107)]


async def test_more_than_batch_bytes_are_taken_while_records_are_too_few() -> None:
    queue = filled(batch(0, 3), batch(3, 3), batch(6, 100), batch(106, 1), batch_bytes=30)
    got, _ = await queue.take(records_min=7)
    assert (got.base, got.next_offset) == (0, 106)
    assert await taken(queue) == (106, 107)


async def test_the_queue_is_full_by_bytes_and_has_room_when_they_are_taken() -> None:
    queue = filled(batch(0, 3), batch_bytes=10)
    assert not queue.is_full
    queue.put(batch(3, 1), lambda: None)
    assert queue.is_full
    await taken(queue)
    assert not queue.is_full


async def test_tombstones_have_no_bytes() -> None:
    queue = PartitionQueue(batch_bytes=1, batches=1)
    queue.put(Batch(0, 0, [Record(0, None)], None, 0), lambda: None)
    assert not queue.is_full
    assert await taken(queue) == (0, 1)


async def test_join_waits_for_the_batch_in_hand_and_for_batches_put_meanwhile() -> None:
    queue = filled(batch(0, 1))
    joined = asyncio.create_task(queue.join())
    await queue.take()
    queue.put(batch(1, 1), lambda: None)
    queue.done()
    await asyncio.sleep(0)
    assert not joined.done(), "a batch waits"
    await queue.take()
    await asyncio.sleep(0)
    assert not joined.done(), "a batch is in hand"
    queue.done()
    await joined


async def test_take_waits_for_a_batch() -> None:
    queue = filled()
    taking = asyncio.create_task(taken(queue))
    await asyncio.sleep(0)
    assert not taking.done()
    queue.put(batch(4, 2), lambda: None)
    assert await taking == (4, 6)
