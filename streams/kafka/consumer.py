"""Faust transport that delivers batches: the records of one partition from one fetch.

Faust keeps the consumer group, the acknowledgements and the commits. It needs two tasks per
message, which is far too much for one event and negligible for a batch.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar, Final, NamedTuple

from aiokafka.errors import IllegalStateError
from faust.auth import Credentials, SASLCredentials, SSLCredentials
from faust.exceptions import ConsumerNotStarted
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage

from store.settings import Settings
from streams.kafka import lenient_records
from streams.kafka.connection import ssl_context
from streams.kafka.errors import kafka_errors
from streams.kafka.topic_reader import stable_of


class Batch(NamedTuple):
    """Records of one partition with the offsets [base, next_offset); gaps are possible."""

    partition: int
    base: int
    records: Sequence[Any]
    """aiokafka's ConsumerRecord: offset, key, value, headers, timestamp (ms)."""
    end_offset: int | None
    """End of the partition from the fetch answer: some brokers list end offsets wrongly."""
    lost: int
    """Number of offsets, from `base` on, that retention deleted before they were read."""

    @property
    def next_offset(self) -> int:
        return int(self.records[-1].offset) + 1

    def follows(self, offset: int) -> bool:
        """Return whether the batch continues at `offset` and nothing was lost in between."""
        return self.base == offset and not self.lost


#: Returns where to start each of the assigned partitions: the offsets of the stores, not Kafka's.
FindStart = Callable[[Sequence[int]], Awaitable[Mapping[int, int]]]

#: Called where a rebalance has taken all partitions.
OnNoPartitions = Callable[[], Awaitable[None]]

#: Called with a partition and its end when that is before what was read: the partition was
#: truncated, or the topic was recreated.
OnTruncated = Callable[[int, int], None]

#: Returns the partitions to pause, since enough of their batches are queued.
FullPartitions = Callable[[], Collection[int]]

#: A partition without a fetch answer for this long may have records that nobody knows of.
SILENT_S: Final = 5.0
#: While all partitions are full, they are checked again after this time.
FULL_POLL_S: Final = 0.01


class ConsumerThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]
    """Faust's consumer thread with a bounded fetch wait and throttled fetches."""

    async def on_start(self) -> None:
        await super().on_start()
        fetcher = self._ensure_consumer()._fetcher
        fetcher._proc_fetch_request = FetchThrottle(
            fetcher._proc_fetch_request, self.consumer.fetch_wait_ms / 1e3
        )

    def _create_worker_consumer(self, transport: Any) -> Any:
        lenient_records.install()
        consumer = super()._create_worker_consumer(transport)
        # Faust uses 1.5 s, without a setting. Kafka answers as soon as there are records, but some
        # compatible brokers check only at intervals. While a fetch of quiet partitions waits, no
        # fetch is sent for the busy ones.
        consumer._fetch_max_wait_ms = self.consumer.fetch_wait_ms
        # Records of aborted transactions must not count. Faust sets this only together with its
        # own processing guarantee.
        consumer._isolation_level = "read_committed"
        return consumer

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        # A rebalance may have taken all of these partitions since Faust chose the offsets. Faust
        # would then commit nothing, which the client refuses, and end the worker.
        if self.assignment().isdisjoint(offsets):
            return False
        return bool(await super()._commit(offsets))

    def state_of(self, tp: TP) -> Any | None:
        """Return the client's state of the partition; None = it is not assigned at the moment.

        The state is looked for once for all that is asked of it. The client's own methods look for
        it each time, and raise where a rebalance, in this thread, took the partition meanwhile.
        """
        try:
            subscription = self._ensure_consumer()._subscription.subscription
        except ConsumerNotStarted:
            return None
        assignment = None if subscription is None else subscription.assignment
        return None if assignment is None else assignment.state_value(tp)

    async def request_rejoin(self) -> None:
        """Ask the group coordinator to assign partitions again."""

        async def rejoin() -> None:
            self._ensure_consumer()._coordinator.request_rejoin()

        await self.call_thread(rejoin)


class FetchThrottle:
    """Throttle of fetch requests: those to one broker are sent at least `interval_s` apart.

    Each fetch costs milliseconds on both sides, for one event as for hundreds; records that arrive
    meanwhile come with the next fetch. The request is delayed, not its answer: the records in it
    would be old before they are processed. `clock_s` (in s) and `sleep` may be those of a test.
    """

    def __init__(
        self,
        send: Callable[..., Awaitable[bool]],
        interval_s: float,
        *,
        clock_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._send = send
        self._interval_s = interval_s
        self._clock_s = clock_s
        self._sleep = sleep
        self._sent_s: dict[int, float] = {}

    async def __call__(self, assignment: Any, node: int, request: Any) -> bool:
        wait_s = self._sent_s.get(node, -math.inf) + self._interval_s - self._clock_s()
        if wait_s > 0:
            try:
                await self._sleep(wait_s)
            except asyncio.CancelledError:
                return False  # the caller no longer waits for it
        self._sent_s[node] = self._clock_s()
        return await self._send(assignment, node, request)


class BatchConsumer(driver.Consumer):  # type: ignore[misc]
    """Faust consumer that delivers batches and starts at the offsets that `find_start` returns."""

    _next: dict[int, int]
    """Partition -> the offset that its next batch begins with."""
    _gaps: dict[int, int]
    """Partition -> the first offset after a gap that was seen once."""
    find_start: ClassVar[FindStart]
    on_no_partitions: ClassVar[OnNoPartitions]
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
        # Faust calls this after every rebalance, and would overwrite an earlier seek. A rewind
        # calls it too. Where both do, the later call must take effect last.
        async with self._seeking:
            assigned = sorted(tp.partition for tp in self.assignment() if tp.topic == self.topic)
            return await self.seek_partitions(await type(self).find_start(assigned))

    async def seek_again(self) -> None:
        """Seek all partitions outside of a rebalance; see `seek_to_committed`.

        A rebalance may take some of them meanwhile: the client refuses to seek these. Nothing is
        left to do then, since Faust seeks after that rebalance. Faust's own seeks must raise the
        error: it tells Faust to wait for the other rebalance.
        """
        with contextlib.suppress(IllegalStateError):
            await self.perform_seek()

    async def seek_partitions(self, starts: Mapping[int, int]) -> Mapping[TP, int]:
        """Continue each partition at the given offset; what was fetched since is dropped."""
        self._next.update(starts)
        self._gaps.clear()
        by_tp = {TP(self.topic, partition): offset for partition, offset in starts.items()}
        await self.seek_wait(by_tp)
        return by_tp

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        await super().on_partitions_assigned(assigned, generation_id)
        if not assigned and self._next:
            # Not awaited: a seek that waits for a store would delay the group.
            self.add_future(self._end_session())

    async def _end_session(self) -> None:
        # Faust seeks only where there are partitions, so nothing else ends the last session.
        async with self._seeking:
            if not self.assignment():
                self._next = {}
                await type(self).on_no_partitions()

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, ConsumerMessage]]:
        if not self._pause_full_partitions():
            await self.sleep(FULL_POLL_S)
            return
        fetched, active = await self._wait_next_records(timeout)
        if fetched is None or self.should_stop:
            return
        if not self.flow_active:
            await self.seek_again()
            return
        generation_id = self.app.consumer_generation_id
        for tp, records in fetched.items():
            if not self.flow_active or self.app.consumer_generation_id != generation_id:
                return  # the rebalance seeks, so the rest is fetched again
            if active is None or tp in active or tp in self._buffered_partitions:
                batch = await self._in_order(tp, records)
                if batch is not None:
                    self.app.monitor.track_tp_end_offset(tp, batch.end_offset)
                    yield tp, as_message(tp, batch, generation_id)

    def _pause_full_partitions(self) -> bool:
        """Pause the partitions that are full; return False if all of them are.

        Faust itself pauses by the number of queued messages, which have any size here, and sleeps
        for a second once it has paused all partitions. So its limit must never be reached.
        """
        full = type(self).full_partitions()
        assigned = {tp for tp in self.assignment() if tp.topic == self.topic}
        paused = {tp for tp in assigned if tp.partition in full}
        self.resume_partitions(assigned - paused)
        self.pause_partitions(paused)
        return not assigned or paused != assigned

    async def _in_order(self, tp: TP, records: Sequence[Any]) -> Batch | None:
        """Return the batch, or None where it does not continue the last one.

        Then it was fetched before a seek. A partition may also have real gaps (retention,
        compaction): a gap that is found again after seeking is real. None too where a rebalance
        has taken the partition since the fetch.
        """
        expected, state = self._next.get(tp.partition), self._thread.state_of(tp)
        if expected is None or state is None:
            return None
        end = state.highwater
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
                with contextlib.suppress(IllegalStateError):  # taken by a rebalance
                    await self.seek_wait({tp: expected})
                return None
            # Compaction and transactions leave gaps too, but none before the earliest offset.
            earliest = (await self.earliest_offsets(tp))[tp]
            lost = max(0, min(first, earliest) - expected)
        batch = Batch(tp.partition, expected, records, end, lost)
        self._next[tp.partition] = batch.next_offset
        return batch

    def end_offset(self, partition: int, committed_through: int) -> int | None:
        """Return the partition's last stable offset from the last fetch answer, or an empty one.

        That is where an open transaction begins, else the end: what can be read. Returns None where
        it is not known: the partition is not assigned at the moment, or everything is read as far
        as the last answer tells, and that is older than SILENT_S. Where all records are committed
        and only transaction markers are left, returns `committed_through`.
        """
        state = self._thread.state_of(TP(self.topic, partition))
        end = None if state is None else stable_of(state.highwater, state.lso)
        if state is None or end is None:
            return None
        read_to = state._position  # the property raises where the other thread just reset it
        at_end = read_to is not None and read_to >= end
        is_read = at_end and self._next.get(partition) == committed_through
        if end > committed_through and not is_read:
            return end
        silent_ms = time.time() * 1e3 - (state.timestamp or 0)
        return None if silent_ms > SILENT_S * 1e3 else min(end, committed_through)

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
        await self._thread.request_rejoin()

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Do nothing: the worker has a watchdog, which checks what is counted.

        Faust's own check of slow streams fails where a broker was just restarted, and ends the
        worker.
        """

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Do nothing: Faust would keep a tree of offsets without a message, nearly all of them."""

    def _new_offset(self, tp: TP) -> int | None:
        """Return the offset to commit to Kafka: after the last batch that was acknowledged.

        Batches are acknowledged in order, so everything before it is processed.
        """
        acked = self._acked[tp]
        if not acked:
            return None
        last = max(acked)
        acked.clear()
        self._acked_index[tp].clear()
        return int(last) + 1


def as_message(tp: TP, batch: Batch, generation_id: int) -> ConsumerMessage:
    """Return the one message that stands for all records of the batch."""
    last = batch.records[-1]
    return ConsumerMessage(
        topic=tp.topic,
        partition=tp.partition,
        offset=last.offset,
        timestamp=last.timestamp / 1000.0,
        timestamp_type=last.timestamp_type,
        headers=(),
        key=None,
        value=batch,
        checksum=None,
        tp=tp,
        generation_id=generation_id,
    )


def credentials(settings: Settings) -> Credentials | None:
    """Return what Faust's clients need for TLS and authentication; None = neither is used.

    Raises ValueError, which names the setting, for a file that cannot be used.
    """
    context = ssl_context(settings)
    if settings.kafka_security_protocol.startswith("SASL_"):
        return SASLCredentials(
            username=settings.kafka_sasl_username,
            password=settings.kafka_sasl_password,
            mechanism=settings.kafka_sasl_mechanism,
            ssl_context=context,
        )
    return None if context is None else SSLCredentials(context)


def batch_transport(
    topic: str,
    *,
    fetch_wait_ms: int,
    find_start: FindStart,
    on_no_partitions: OnNoPartitions,
    on_truncated: OnTruncated,
    full_partitions: FullPartitions,
) -> type[driver.Transport]:
    """Return the transport class of one Faust app."""
    consumer = type(
        "Consumer",
        (BatchConsumer,),
        {
            "topic": topic,
            "fetch_wait_ms": fetch_wait_ms,
            "find_start": staticmethod(find_start),
            "on_no_partitions": staticmethod(on_no_partitions),
            "on_truncated": staticmethod(on_truncated),
            "full_partitions": staticmethod(full_partitions),
        },
    )
    return type("Transport", (driver.Transport,), {"Consumer": consumer})
