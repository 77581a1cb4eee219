"""Sink of rejected records: sends each to the dead-letter topic, once as far as Kafka allows.

Dead letters are sent before the batch they come from is committed. So a worker that dies in between
leaves dead letters in the topic that the next worker would send again. To prevent that, a worker
reads the topic before it sends the first dead letter of a partition:

- The dead letters of source partition p go to partition p % n of the dead-letter topic, in order of
  their offsets. Their headers name the source topic id and offset, so the end of that partition
  shows which were sent.
- After anything that leaves this in doubt (a new assignment, a failed send) the worker reads
  again.
- Each source partition has a transactional id. Before a worker reads, it takes the id over, which
  aborts whatever an earlier worker has in flight: a frozen worker that wakes up sends nothing.

A dead letter that can never be sent whole (too large for the topic, or not to be encoded) is sent
as a stub, with its place, size and hash, and as much of its value as the topic takes. Where the
topic refuses the stub without any value too, the record is quarantined: it gets a row in
PostgreSQL.

On brokers without transactions, a worker asks right before it sends whether it still owns the
partition (see `store.redis.owners`). The remaining gap is a worker that is frozen between that
question and Kafka's receipt. `dlq list` shows such a duplicate as one dead letter.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

from store.logs import get_logger
from store.postgres.quarantine import Quarantine
from store.records import StoreUnavailable
from store.redis.owners import PartitionOwners, new_owner
from store.settings import Settings
from streams.dead_letters import headers
from streams.dead_letters.quarantine import row_of, store_row
from streams.dead_letters.record import DeadLetterInfo, RejectedRecord
from streams.decode.rejection import Reason
from streams.kafka.corrupt_batch import CorruptBatch
from streams.kafka.errors import RecordRefused
from streams.kafka.producers import (
    OutgoingRecord,
    Producer,
    open_producer,
    open_transactional_producer,
)
from streams.kafka.topic_reader import open_topic

logger = get_logger("dead_letters")

#: Bounds of what is read back from the end of one dead-letter partition: the dead letters of a few
#: batches.
READ_BACK_RECORDS_MAX: Final = 10_000
READ_BACK_BYTES_MAX: Final = 64 * 1_048_576
#: What is sent of the value of a dead letter that cannot be sent whole: the first that is taken.
STUB_VALUE_BYTES: Final = (524_288, 16_384, 0)
STUB_KEY_BYTES: Final = 256
_OWNER_POLL_S: Final = 0.2


class SentOffsets(NamedTuple):
    """Source offsets of one partition whose dead letters are in the topic."""

    offsets: frozenset[int]
    """The offsets that were read back: all there are, or the newest ones."""
    complete_before: int
    """All dead letters of source offsets before this one are in the topic."""

    def has(self, offset: int) -> bool:
        return offset < self.complete_before or offset in self.offsets


def sent_offsets(newest: Iterable[int], batch_events: int) -> SentOffsets:
    """Return what is known from the source offsets of the newest dead letters of a partition.

    The dead letters of one batch, at most `batch_events`, may be in the topic in part. A batch is
    started only when all dead letters before it are in the topic.
    """
    offsets = frozenset(newest)
    return SentOffsets(offsets, min(offsets) if len(offsets) >= batch_events else 0)


@dataclasses.dataclass
class _PartitionSender:
    """Producer of one source partition, and what is known to be sent."""

    producer: Producer
    sent: SentOffsets | None = None
    """None = must be read back first."""


class KafkaDeadLetterSink:
    """Implementation of `DeadLetterSink` on Kafka. For one event loop."""

    def __init__(
        self,
        settings: Settings,
        owners: PartitionOwners,
        quarantine: Quarantine,
        *,
        now_ms: Callable[[], int],
    ) -> None:
        self._settings = settings
        self._owners = owners
        self._quarantine = quarantine
        self._now_ms = now_ms
        self._topic_id = ""
        self._token = ""
        self._senders: dict[int, _PartitionSender] = {}
        self._stopping: set[asyncio.Task[None]] = set()

    async def assign(self, topic_id: str, partitions: Sequence[int]) -> None:
        """Take over the dead letters of these partitions of the topic with `topic_id`.

        Nothing that was to be sent before is sent after this. Raises StoreUnavailable.
        """
        await self._discard()
        self._topic_id, self._token = topic_id, new_owner()
        await self._owners.claim(topic_id, partitions, self._token)

    async def send(self, rejected_records: Sequence[RejectedRecord]) -> None:
        """Return when Kafka has all; those it had before are left out.

        Those that Kafka can never take are quarantined instead. Raises StoreUnavailable. Sending
        the same records again is safe.
        """
        by_partition: dict[int, list[RejectedRecord]] = {}
        for rejected_record in rejected_records:
            if isinstance(rejected_record.record.value, CorruptBatch):
                await self._store(rejected_record, "a range of offsets is no dead letter")
                continue
            by_partition.setdefault(rejected_record.partition, []).append(rejected_record)
        for partition, of_partition in by_partition.items():
            await self._send(partition, of_partition)

    async def close(self) -> None:
        await self._discard()

    # ---- one source partition

    async def _send(
        self,
        partition: int,
        rejected_records: Sequence[RejectedRecord],
        *,
        part_bytes: int | None = None,
    ) -> None:
        """Send what is not sent; as stubs with up to `part_bytes` of the value, unless None."""
        topic = self._settings.dead_letter_topic
        sender = self._senders.get(partition)
        if sender is None:
            sender = self._senders[partition] = await self._open(partition)
        # Partition p of the source goes to partition p % n.
        dead_letter_partition = partition % (len(await sender.producer.partitions_of(topic)) or 1)
        if not sender.producer.is_transactional and await self._was_taken_over(partition):
            sender.sent = None
        if sender.sent is None:
            sender.sent = await self._read_back(partition, dead_letter_partition)
        sent = sender.sent
        unsent = [x for x in rejected_records if not _is_sent(x, sent)]
        if len(unsent) < len(rejected_records):
            logger.info("dead letters already sent", skipped=len(rejected_records) - len(unsent))
        if not unsent:
            return
        outgoing = [self._outgoing(x, dead_letter_partition, part_bytes) for x in unsent]
        try:
            await sender.producer.send_all(topic, outgoing)
        except (StoreUnavailable, RecordRefused) as error:
            # Some may be in the topic: the next sender reads it before it sends.
            del self._senders[partition]
            self._stop(sender.producer)
            if isinstance(error, StoreUnavailable):
                raise
            await self._send_refused(partition, unsent, part_bytes, str(error))

    async def _send_refused(
        self,
        partition: int,
        rejected_records: Sequence[RejectedRecord],
        part_bytes: int | None,
        why: str,
    ) -> None:
        """Send records of which Kafka refuses at least one: each alone, and that one as a stub."""
        if len(rejected_records) > 1:
            for rejected_record in rejected_records:
                await self._send(partition, [rejected_record])
            return
        offset = rejected_records[0].record.offset
        sizes = [n for n in STUB_VALUE_BYTES if part_bytes is None or n < part_bytes]
        if not sizes:
            await self._store(rejected_records[0], f"not sent: {why}")
            return
        logger.warning(
            "dead letter cannot be sent whole", partition=partition, offset=offset, error=why
        )
        await self._send(partition, rejected_records, part_bytes=sizes[0])

    async def _store(self, rejected: RejectedRecord, why: str) -> None:
        topic = self._settings.interactions_topic
        row = row_of(rejected, topic=topic, topic_id=self._topic_id, why=why)
        await store_row(self._quarantine, row)

    async def _open(self, partition: int) -> _PartitionSender:
        transactional_id = f"{self._settings.dead_letter_topic}-{self._topic_id}-{partition}"
        producer = await open_transactional_producer(self._settings, transactional_id)
        return _PartitionSender(producer or await open_producer(self._settings))

    def _outgoing(
        self, rejected: RejectedRecord, dead_letter_partition: int, part_bytes: int | None
    ) -> OutgoingRecord:
        rejection, is_stub = rejected.rejection, part_bytes is not None
        info = DeadLetterInfo(
            reason=Reason.UNSENDABLE if is_stub else rejection.reason,
            detail=f"{rejection.reason}: {rejection.detail}" if is_stub else rejection.detail,
            topic=self._settings.interactions_topic,
            topic_id=self._topic_id,
            partition=rejected.partition,
            offset=rejected.record.offset,
            time_ms=self._now_ms(),
        )
        return _dead_letter(rejected.record, info, dead_letter_partition, part_bytes)

    async def _read_back(self, partition: int, dead_letter_partition: int) -> SentOffsets:
        """Return which dead letters of the source partition are in the topic.

        Reads backwards from the end, in growing steps, until that is known or a bound is reached.
        """
        topic, batch_events = self._settings.dead_letter_topic, self._settings.commit_batch_events
        found: set[int] = set()
        late: set[int] = set()
        records = size = 0
        step = batch_events
        async with open_topic(self._settings, topic) as reader:
            first = await reader.end(dead_letter_partition)
            while first > 0 and len(found) < batch_events:
                if records >= READ_BACK_RECORDS_MAX or size >= READ_BACK_BYTES_MAX:
                    logger.warning("dead letters before these are not read", records=records)
                    break
                end, first = first, max(0, first - step)
                step *= 2
                async for record in reader.read(dead_letter_partition, first, end):
                    records += 1
                    size += len(record.value or b"")
                    info = headers.parse(record.headers)
                    if info and (info.topic_id, info.partition) == (self._topic_id, partition):
                        (late if is_sent_late(info) else found).add(info.offset)
        sent = sent_offsets(found, batch_events)
        return sent._replace(offsets=sent.offsets | late)

    async def _was_taken_over(self, partition: int) -> bool:
        """Return False if this worker owns the partition.

        If another worker owns it, wait: Kafka is about to revoke the partition here, which cancels
        the waiting caller. If it does not, this worker still has the partition and claims it again;
        then return True, since the other worker may have sent dead letters meanwhile.
        """
        deadline_s = asyncio.get_running_loop().time() + 2 * self._settings.kafka_session_timeout_s
        taken_over = False
        while (owner := await self._owners.owner(self._topic_id, partition)) != self._token:
            if not taken_over and owner is not None:
                logger.warning("another worker owns the partition", partition=partition)
            taken_over = True
            if owner is None or asyncio.get_running_loop().time() >= deadline_s:
                await self._owners.claim(self._topic_id, [partition], self._token)
            else:
                await asyncio.sleep(_OWNER_POLL_S)
        return taken_over

    # ---- producers

    def _stop(self, producer: Producer) -> None:
        """Stop a producer in the background; its state is unknown after an error."""
        task = asyncio.create_task(producer.stop())
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)

    async def _discard(self) -> None:
        """Discard the producers with what they have buffered; stopping them would send that."""
        for task in self._stopping:
            task.cancel()
        self._stopping.clear()
        senders, self._senders = self._senders, {}
        await asyncio.gather(*(_discard(sender.producer) for sender in senders.values()))


def is_sent_late(info: DeadLetterInfo) -> bool:
    """Return whether the dead letter may be behind those of later offsets.

    A record on which the program fails is found when its commit batch is committed: by then all
    other dead letters of the commit batch are sent.
    """
    late = Reason.UNPROCESSABLE
    is_stub = info.reason == Reason.UNSENDABLE and info.detail.startswith(f"{late}: ")
    return info.reason == late or is_stub


def _is_sent(rejected: RejectedRecord, sent: SentOffsets) -> bool:
    """Return whether the dead letter is in the topic; one that is sent late must have been seen."""
    if rejected.rejection.reason is Reason.UNPROCESSABLE:
        return rejected.record.offset in sent.offsets
    return sent.has(rejected.record.offset)


def _dead_letter(
    record: Any, info: DeadLetterInfo, partition: int, part_bytes: int | None
) -> OutgoingRecord:
    """Return the dead letter; a stub with up to `part_bytes` of the value, unless None."""
    key, value = record.key, record.value
    if value is None and key is None:
        key = b""  # the client sends no record without both
    if part_bytes is None:
        written = headers.write(info, record.headers)
    else:
        value = value or b""
        written = headers.stub(info, value)
        key, value = (key or b"")[:STUB_KEY_BYTES], value[:part_bytes]
    return OutgoingRecord(key=key, value=value, headers=written, partition=partition)


async def _discard(producer: Producer) -> None:
    if not await producer.discard():
        logger.warning("dead letters were in flight when their producer was discarded")
