"""A Faust transport whose unit of delivery is a batch: the records of one partition, fetched at
once. Faust keeps the group, the acknowledgements and the commits; it costs two tasks a message,
which is far too much for one event and nothing for a batch.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar, Final, NamedTuple

from aiokafka.errors import IllegalStateError
from faust.exceptions import ConsumerNotStarted
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage

from store.logs import get_logger
from streams.kafka.errors import kafka_errors

logger = get_logger("transport")


class Batch(NamedTuple):
    """The value of a message: the offsets [base, next_offset) of one partition, all of them that
    the log still has.
    """

    partition: int
    base: int
    records: Sequence[Any]
    """aiokafka records: offset, key, value, headers, timestamp (ms)."""
    end_offset: int | None
    """The partition's end as the fetch answer gave it (asking the broker for it is wrong on some).
    """
    lost: int
    """Offsets from `base` on that retention took before they were read."""

    @property
    def next_offset(self) -> int:
        return int(self.records[-1].offset) + 1

    def follows(self, offset: int) -> bool:
        """Whether it goes on at `offset` and nothing was lost in between."""
        return self.base == offset and not self.lost


#: Given the assigned partitions, answers where to start each: the store's truth, not Kafka's.
FindStart = Callable[[Sequence[int]], Awaitable[Mapping[int, int]]]

#: Told the partition, and its end, when that is before what was read: the log was cut, or is
#: another one under the same name.
OnTruncated = Callable[[int, int], None]


#: Answers the partitions that shall not be read for now, as enough of them waits.
FullPartitions = Callable[[], Collection[int]]

#: While all are full, they are looked at again after this.
FULL_WAIT_S: Final = 0.01


class ConsumerThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]
    """Faust's, but that it waits for records no longer than it should, and asks no more often."""

    async def on_start(self) -> None:
        await super().on_start()
        fetcher = self._ensure_consumer()._fetcher
        fetcher._proc_fetch_request = FetchThrottle(
            fetcher._proc_fetch_request, self.consumer.fetch_wait_ms / 1e3
        )

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        # Faust has 1.5 s, and no setting. Kafka answers as soon as there are records, but some
        # compatible brokers look only now and then; and while a fetch of quiet partitions waits,
        # none is sent for the busy ones.
        consumer._fetch_max_wait_ms = self.consumer.fetch_wait_ms
        # What a producer took back must not count. Faust ties this to guarantees of its own.
        consumer._isolation_level = "read_committed"
        return consumer


class FetchThrottle:
    """Sends fetches to a broker `every_s` apart at least. Each costs milliseconds, here and there,
    be it for one event or for hundreds; what comes meanwhile comes with the next. It is the request
    that waits, not what it brought: that would be old before it is looked at.
    """

    def __init__(self, send: Callable[..., Awaitable[bool]], every_s: float) -> None:
        self._send = send
        self._every_s = every_s
        self._sent_s: dict[int, float] = {}

    async def __call__(self, assignment: Any, node: int, request: Any) -> bool:
        wait_s = self._sent_s.get(node, -math.inf) + self._every_s - time.monotonic()
        if wait_s > 0:
            try:
                await asyncio.sleep(wait_s)
            except asyncio.CancelledError:
                return False  # nobody waits for it any more
        self._sent_s[node] = time.monotonic()
        return await self._send(assignment, node, request)


class BatchConsumer(driver.Consumer):  # type: ignore[misc]
    """Delivers batches, and starts where `find_start` says."""

    _next: dict[int, int]
    """The offset that the next batch of each partition begins with."""
    _gaps: dict[int, int]
    find_start: ClassVar[FindStart]
    on_truncated: ClassVar[OnTruncated]
    full_partitions: ClassVar[FullPartitions]
    topic: ClassVar[str]
    fetch_wait_ms: ClassVar[int]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._next, self._gaps = {}, {}
        self._seeking = asyncio.Lock()

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def seek_to_committed(self) -> Mapping[TP, int]:
        # Faust comes here after every rebalance, and a seek made earlier would be overwritten.
        # A step back comes here too, and where both do, the later one must have the last word.
        async with self._seeking:
            assigned = sorted(tp.partition for tp in self.assignment() if tp.topic == self.topic)
            return await self.seek_partitions(await type(self).find_start(assigned))

    async def seek_partitions(self, starts: Mapping[int, int]) -> Mapping[TP, int]:
        """Goes on with each partition at the given offset, whatever has been fetched since."""
        self._next.update(starts)
        self._gaps.clear()
        by_tp = {TP(self.topic, partition): offset for partition, offset in starts.items()}
        await self.seek_wait(by_tp)
        return by_tp

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, ConsumerMessage]]:
        if not self._pause_what_is_full():
            await self.sleep(FULL_WAIT_S)
            return
        fetched, active = await self._wait_next_records(timeout)
        if fetched is None or self.should_stop:
            return
        if not self.flow_active:
            await self.perform_seek()
            return
        generation_id = self.app.consumer_generation_id
        for tp, records in fetched.items():
            if not self.flow_active or self.app.consumer_generation_id != generation_id:
                return  # what is left is fetched again: the rebalance seeks
            if active is None or tp in active or tp in self._buffered_partitions:
                batch = await self._in_order(tp, records)
                if batch is not None:
                    self.app.monitor.track_tp_end_offset(tp, batch.end_offset)
                    yield tp, self._as_message(tp, batch)

    def _pause_what_is_full(self) -> bool:
        """False when that is all. Faust pauses by the number of messages that wait, which are of
        any size here, and once it has paused all it sleeps for a second. So it must not get to.
        """
        full = type(self).full_partitions()
        assigned = {tp for tp in self.assignment() if tp.topic == self.topic}
        paused = {tp for tp in assigned if tp.partition in full}
        self.resume_partitions(assigned - paused)
        self.pause_partitions(paused)
        return not assigned or paused != assigned

    async def _in_order(self, tp: TP, records: Sequence[Any]) -> Batch | None:
        """The batch, or None where it does not go on from the last one: it was fetched before a
        seek. A log may have true gaps (retention, compaction), which a second look tells apart.
        """
        expected = self._next.get(tp.partition)
        if expected is None:
            return None
        end = self.highwater(tp)
        if end is not None and end < expected:
            type(self).on_truncated(tp.partition, end)
            return None
        records = [r for r in records if r.offset >= expected]
        if not records:
            return None
        first, lost = records[0].offset, 0
        if first != expected:
            if self._gaps.get(tp.partition) != first:
                self._gaps[tp.partition] = first
                await self.seek_wait({tp: expected})
                return None
            # Compaction and transactions leave gaps too, but not before the log's first offset.
            earliest = (await self.earliest_offsets(tp))[tp]
            lost = max(0, min(first, earliest) - expected)
        batch = Batch(tp.partition, expected, records, end, lost)
        self._next[tp.partition] = batch.next_offset
        return batch

    def is_read(self, tp: TP, end: int, counted: int) -> bool:
        """Whether all up to `end` was fetched, and of what was delivered all is `counted`."""
        assignment = self._thread._ensure_consumer()._subscription.subscription.assignment
        state = assignment.state_value(tp)
        at_end = state.has_valid_position and state.position >= end
        return at_end and self._next.get(tp.partition) == counted

    def end_offset(self, partition: int, committed_through: int) -> int | None:
        """Return the partition's end from the last fetch answer, an empty answer included.

        Returns None where it is not known, also when the partition is not assigned at the moment.
        Where all records are committed and only transaction markers are left, returns
        `committed_through`.
        """
        tp = TP(self.topic, partition)
        try:
            end: int | None = self.highwater(tp)
            if (
                end is not None
                and end > committed_through
                and self.is_read(tp, end, committed_through)
            ):
                return committed_through  # what is left are markers of transactions
            return end
        except (AssertionError, IllegalStateError, ConsumerNotStarted):  # not assigned just now
            return None

    async def earliest(self, partitions: int) -> dict[int, int]:
        """Return the earliest offset that each of the partitions 0 to `partitions` - 1 still holds.

        Raises StoreUnavailable.
        """
        tps = [TP(self.topic, partition) for partition in range(partitions)]
        with kafka_errors():
            earliest = await self.earliest_offsets(*tps)
        return {tp.partition: int(offset) for tp, offset in earliest.items()}

    async def offset_at(self, partition: int, at_ms: int) -> int:
        """Return the offset of the first record with a timestamp of at least `at_ms`, else 0."""
        thread = self._thread
        tp = TP(self.topic, partition)
        found = await thread.call_thread(thread._ensure_consumer().offsets_for_times, {tp: at_ms})
        return int(found[tp].offset) if found.get(tp) else 0

    async def request_rejoin(self) -> None:
        """Ask the group coordinator to assign partitions again."""
        thread = self._thread

        async def rejoin() -> None:
            thread._ensure_consumer()._coordinator.request_rejoin()

        await thread.call_thread(rejoin)

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Faust's own look at slow streams fails where a broker was just restarted, and ends the
        worker; the worker has a watchdog that looks at what is counted.
        """

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Faust keeps a tree of the offsets that no message has, which are nearly all of them."""

    def _new_offset(self, tp: TP) -> int | None:
        """What Kafka is told: batches are acknowledged in order, so all up to the last one."""
        acked = self._acked[tp]
        if not acked:
            return None
        last = max(acked)
        acked.clear()
        self._acked_index[tp].clear()
        return int(last) + 1

    def _as_message(self, tp: TP, batch: Batch) -> ConsumerMessage:
        last = batch.records[-1]
        return ConsumerMessage(
            tp.topic,
            tp.partition,
            last.offset,
            last.timestamp / 1000.0,
            last.timestamp_type,
            (),
            None,
            batch,
            None,
            None,
            None,
            tp,
            generation_id=self.app.consumer_generation_id,
        )


def batch_transport(
    topic: str,
    *,
    fetch_wait_ms: int,
    find_start: FindStart,
    on_truncated: OnTruncated,
    full_partitions: FullPartitions,
) -> type[driver.Transport]:
    """The transport class of one app."""
    consumer = type(
        "Consumer",
        (BatchConsumer,),
        {
            "topic": topic,
            "fetch_wait_ms": fetch_wait_ms,
            "find_start": staticmethod(find_start),
            "on_truncated": staticmethod(on_truncated),
            "full_partitions": staticmethod(full_partitions),
        },
    )
    return type("Transport", (driver.Transport,), {"Consumer": consumer})
