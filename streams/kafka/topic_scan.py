"""Fast reader of all partitions of the interactions topic, outside of any consumer group.

A replay reads millions of records by it, and then follows the head of the topic. Ends of partitions
are taken from fetch answers, as in `topic_reader`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

from aiokafka import TopicPartition

from store.records import StoreUnavailable
from store.settings import Settings
from streams.kafka.connection import start_client
from streams.kafka.errors import kafka_errors
from streams.kafka.topic_id import TopicDescription, describe_topic
from streams.kafka.topic_reader import ANSWER_TIMEOUT_S, make_consumer, stable_end

#: Bytes of one partition, and of one broker's whole answer, in one fetch. Both are in memory as
#: records while they are processed.
PARTITION_FETCH_BYTES: Final = 4 * 1_048_576
FETCH_BYTES: Final = 16 * 1_048_576
#: How long `batches` waits for one fetch before it looks at the positions, which transaction
#: markers move without a record.
FETCH_POLL_MS: Final = 100
#: Turns of the event loop in which the client sends its next fetch. The broker prepares the answer
#: while the caller processes the last one.
SEND_TURNS: Final = 6


class ScanBatch(NamedTuple):
    """Records of one partition from one fetch; empty if only transaction markers were read."""

    partition: int
    records: Sequence[Any]
    """aiokafka's ConsumerRecord: offset, key, value, headers, timestamp (ms)."""
    next_offset: int
    """Where the partition is read on: after transaction markers and other gaps."""


class OffsetsGone(Exception):
    """Retention deleted offsets of a partition that were still to be read."""

    def __init__(self, partition: int, wanted: int, earliest: int) -> None:
        super().__init__(
            f"partition {partition}: offset {wanted} was still to be read, and retention deleted "
            f"everything before {earliest}"
        )
        self.partition, self.wanted, self.earliest = partition, wanted, earliest


class TopicChanged(Exception):
    """The topic was recreated, or a partition was truncated, while it was read."""


def are_offsets_gone(wanted: int, reached: int, earliest: int) -> bool:
    """Return whether retention deleted offsets from `wanted` on.

    `reached` is the first offset that was read after `wanted` was asked for, and `earliest` the
    earliest offset that the partition holds. Compaction and transactions leave gaps too, but none
    that moves the earliest offset.
    """
    return reached > wanted and earliest > wanted


class TopicScan:
    """Open scan of the interactions topic. Every method raises StoreUnavailable.

    `batches` and `poll` also raise OffsetsGone and TopicChanged. They may be mixed: each continues
    after the last batch that the other returned.
    """

    def __init__(self, settings: Settings, found: TopicDescription, client_id: str) -> None:
        self.topic_id = found.topic_id
        self.partitions = found.partitions
        self._settings = settings
        self._consumer = make_consumer(
            settings,
            client_id,
            max_partition_fetch_bytes=PARTITION_FETCH_BYTES,
            fetch_max_bytes=FETCH_BYTES,
        )
        self._ends_consumer = make_consumer(
            settings, f"{client_id}-ends", max_partition_fetch_bytes=1
        )
        self._tps = [
            TopicPartition(settings.interactions_topic, p) for p in range(found.partitions)
        ]
        self._next: dict[int, int] = {}
        self._undelivered: set[int] = set()
        """Partitions whose position in the client is after the last batch that was returned."""

    async def start(self) -> None:
        async with _bounded():
            await asyncio.gather(
                start_client(self._consumer, self._settings),
                start_client(self._ends_consumer, self._settings),
            )
            self._consumer.assign(self._tps)
        self.seek(await self.earliest())

    async def stop(self) -> None:
        await asyncio.gather(self._consumer.stop(), self._ends_consumer.stop())

    async def check_topic_id(self) -> None:
        """Raise TopicChanged if the topic was deleted and created again since the scan began."""
        found = await describe_topic(self._settings, self._settings.interactions_topic)
        if found.topic_id != self.topic_id:
            raise TopicChanged(
                f"topic {self._settings.interactions_topic!r} was recreated while it was read: its "
                f"id was {self.topic_id} and is {found.topic_id}; start again"
            )

    async def earliest(self) -> dict[int, int]:
        """Return the earliest offset of each partition."""
        async with _bounded():
            offsets = await self._consumer.beginning_offsets(self._tps)
        return {tp.partition: int(offset) for tp, offset in offsets.items()}

    async def ends(self) -> dict[int, int]:
        """Return the end of each partition: the last stable offset, up to which can be read."""
        consumer = self._ends_consumer
        consumer.assign([])  # forget the answers to earlier fetches
        consumer.assign(self._tps)
        for tp in self._tps:
            # Not at the end: there the broker would wait for a record before it answers.
            consumer.seek(tp, max(0, self._next[tp.partition] - 1))
        async with _bounded():
            while None in (ends := {tp: stable_end(consumer, tp) for tp in self._tps}).values():
                await consumer.getmany(timeout_ms=FETCH_POLL_MS)
        return {tp.partition: end for tp, end in ends.items() if end is not None}

    async def offsets_at(self, at_ms: int) -> dict[int, int]:
        """Return the first offset of each partition with a timestamp of at least `at_ms`.

        Where there is none, that is the partition's end. Some brokers cannot search by time: then
        it is an earlier offset, so check the timestamps of what is read from there.
        """
        async with _bounded():
            found = await self._consumer.offsets_for_times(dict.fromkeys(self._tps, at_ms))
        ends = await self.ends()
        return {
            tp.partition: min(ends[tp.partition], at.offset) if at else ends[tp.partition]
            for tp, at in ((tp, found.get(tp)) for tp in self._tps)
        }

    def seek(self, starts: Mapping[int, int]) -> None:
        """Continue each given partition at the given offset. A new scan is at the earliest ones."""
        self._next.update(starts)
        self._undelivered.clear()
        self._consumer.assign(
            []
        )  # forget the ends in earlier answers, which may be before `starts`
        self._consumer.assign(self._tps)
        for tp in self._tps:
            self._consumer.seek(tp, self._next[tp.partition])

    async def batches(self, until: Mapping[int, int]) -> AsyncIterator[ScanBatch]:
        """Yield the batches of all partitions, from where they are to `until` (exclusive).

        A partition that `until` lacks is not read. The client asks for all partitions at once, in
        random order, so that none waits for another one. The caller need not read to the end.
        """
        ends = {p: end for p, end in until.items() if self._next[p] < end}
        waited_s = 0.0
        while ends:
            self._align({self._tps[partition] for partition in ends})
            began_s = time.monotonic()
            fetched = await self._fetch(FETCH_POLL_MS)
            waited_s = 0.0 if fetched else waited_s + time.monotonic() - began_s
            if waited_s > ANSWER_TIMEOUT_S:
                partition, missing = next(iter(ends.items()))
                raise StoreUnavailable(
                    f"Kafka: partition {partition} is read to offset {self._next[partition]}, and "
                    f"no more came within {ANSWER_TIMEOUT_S:g} s; its end is {missing}"
                )
            for batch in fetched:
                if batch.partition not in ends:
                    continue
                end = ends[batch.partition]
                if batch.next_offset >= end:
                    del ends[batch.partition]
                if batch.next_offset > end:
                    within = [r for r in batch.records if r.offset < end]
                    batch = ScanBatch(batch.partition, within, end)
                else:
                    self._undelivered.discard(batch.partition)
                self._next[batch.partition] = batch.next_offset
                yield batch

    async def poll(self, timeout_ms: int) -> list[ScanBatch]:
        """Return what the next fetch answers; nothing if no record comes within `timeout_ms`."""
        self._align(set(self._tps))
        fetched = await self._fetch(timeout_ms)
        self._next.update({batch.partition: batch.next_offset for batch in fetched})
        self._undelivered.clear()
        return fetched

    def _align(self, wanted: set[TopicPartition]) -> None:
        """Let the client read `wanted` only, and none of it past what was returned."""
        for partition in self._undelivered:
            self._consumer.seek(self._tps[partition], self._next[partition])
        self._undelivered.clear()
        paused = self._consumer.paused()
        if resumed := paused & wanted:
            self._consumer.resume(*resumed)
        if rest := set(self._tps) - wanted - paused:
            self._consumer.pause(*rest)

    async def _fetch(self, timeout_ms: int) -> list[ScanBatch]:
        consumer = self._consumer
        async with _bounded(timeout_ms / 1e3):
            fetched = await consumer.getmany(timeout_ms=timeout_ms)
            positions = {tp.partition: await consumer.position(tp) for tp in self._tps}
        batches = [
            ScanBatch(tp.partition, fetched.get(tp, ()), positions[tp.partition])
            for tp in self._tps
            if positions[tp.partition] != self._next[tp.partition]
        ]
        self._undelivered.update(batch.partition for batch in batches)
        await self._check(batches)
        for _ in range(SEND_TURNS if batches else 0):
            await asyncio.sleep(0)
        return batches

    async def _check(self, batches: Sequence[ScanBatch]) -> None:
        """Raise if a batch does not continue its partition, or a partition ends before it."""
        earliest: dict[int, int] | None = None
        for tp in self._tps:
            # Some brokers answer with an end before the offset that was asked for.
            high, wanted = self._consumer.highwater(tp), self._next[tp.partition]
            if high is not None and high < wanted:
                raise _truncated(tp.partition, wanted)
        for partition, records, next_offset in batches:
            wanted = self._next[partition]
            if next_offset < wanted:  # others answer with an error, and the client starts again
                raise _truncated(partition, wanted)
            reached = records[0].offset if records else next_offset
            if reached > wanted:
                if earliest is None:
                    earliest = await self.earliest()
                if are_offsets_gone(wanted, reached, earliest[partition]):
                    raise OffsetsGone(partition, wanted, earliest[partition])


@asynccontextmanager
async def _bounded(more_s: float = 0.0) -> AsyncIterator[None]:
    """Bound the wait for an answer; `more_s` is added to it."""
    timeout_s = ANSWER_TIMEOUT_S + more_s
    with kafka_errors(timeout_s=timeout_s):
        async with asyncio.timeout(timeout_s):
            yield


async def first_arrivals(
    scan: TopicScan, starts: Mapping[int, int], ends: Mapping[int, int]
) -> dict[int, int]:
    """Return the timestamp, in ms, of each partition's first record from `starts` on.

    Partitions that have no record there before their end are left out. Seek afterwards. Raises what
    `poll` raises.
    """
    scan.seek(starts)
    waiting = {p for p, end in ends.items() if starts.get(p, 0) < end}
    first_ms: dict[int, int] = {}
    async with _bounded():
        while waiting:
            for partition, records, next_offset in await scan.poll(FETCH_POLL_MS):
                if partition in waiting and records:
                    first_ms[partition] = int(records[0].timestamp)
                if records or next_offset >= ends[partition]:
                    waiting.discard(partition)
    return first_ms


def _truncated(partition: int, wanted: int) -> TopicChanged:
    return TopicChanged(
        f"partition {partition} ends before offset {wanted}, to which it was read: it was "
        "truncated, or the topic was recreated; start again"
    )


@asynccontextmanager
async def open_scan(settings: Settings, *, client_id: str) -> AsyncIterator[TopicScan]:
    """Open a scan of the interactions topic, which must exist. Raises StoreUnavailable."""
    found = await describe_topic(settings, settings.interactions_topic)
    scan = TopicScan(settings, found, client_id)
    try:
        await scan.start()
        yield scan
    finally:
        await scan.stop()
