"""Sends dead letters, each once as far as Kafka allows.

Letters go out before the batch they come from is committed, so a worker that dies in between
leaves letters in the topic that the next worker would send again. So before its first letter of a
partition, a worker looks at what is there:

- Letters of source partition p go to partition p % n of the dead-letter topic, in their order, and
  say in headers which log and offset they are of. The end of that partition tells what was sent.
- After anything doubtful (a new assignment, a send that failed) it looks again.
- Each source partition has a transactional id. Before a worker looks, it takes the id over, which
  ends whatever an earlier worker has on its way: frozen ones that wake up send nothing.

Brokers without transactions: there a worker asks right before it sends whether the partition is
still its own (see `store.redis.owners`). What remains is a worker frozen between that question and
Kafka's receipt. `dlq list` shows such a repeat as one letter.
"""

from __future__ import annotations

import asyncio
import dataclasses
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from store.logs import get_logger
from store.records import StoreUnavailable
from store.redis.owners import PartitionOwners
from store.settings import Settings
from streams.dead_letters import headers as dead_letters
from streams.dead_letters.record import RejectedRecord
from streams.kafka.producers import start_fencing_producer, start_producer
from streams.kafka.topic_reader import open_topic

logger = get_logger("letters")

#: Most that is read back of one dead-letter partition, from its end: the letters of a few batches.
READ_BACK_LETTERS: Final = 10_000
READ_BACK_BYTES: Final = 64 * 1_048_576
#: How long requests on their way may take to be answered when a producer is given up.
DISCARD_S: Final = 5.0
_OWNER_POLL_S: Final = 0.2


class Sent(NamedTuple):
    """What is known of the letters of one source partition that are in the topic."""

    offsets: frozenset[int]
    """Source offsets: of all letters there are, or of the last ones."""
    before: int
    """Of all source offsets before this one, letters are there where there had to be any."""

    def has(self, offset: int) -> bool:
        return offset < self.before or offset in self.offsets


def sent_of(newest: Iterable[int], batch_letters: int) -> Sent:
    """`newest`: source offsets of the last letters of a partition. Those of one batch (at most
    `batch_letters`) may be there in part; a batch is begun when all before it is there."""
    offsets = frozenset(newest)
    return Sent(offsets, min(offsets) if len(offsets) >= batch_letters else 0)


@dataclasses.dataclass
class _Sender:
    """Of the letters of one source partition."""

    producer: AIOKafkaProducer
    fences: bool
    sent: Sent | None = None
    """None = has to be looked up."""


class KafkaDeadLetterSink:
    """A `streams.pipeline.DeadLetterSink`. For one event loop."""

    def __init__(
        self, settings: Settings, owners: PartitionOwners, *, now_ms: Callable[[], int]
    ) -> None:
        self._settings = settings
        self._owners = owners
        self._now_ms = now_ms
        self._topic_id = ""
        self._token = ""
        self._senders: dict[int, _Sender] = {}
        self._retired: set[asyncio.Task[None]] = set()

    async def assign(self, topic_id: str, partitions: Sequence[int]) -> None:
        """From now on this worker sends the letters of these partitions of `log_id`. Nothing that
        was to be sent before is sent after. Raises StoreUnavailable."""
        await self._discard()
        self._topic_id, self._token = topic_id, uuid.uuid4().hex
        await self._owners.claim(topic_id, partitions, self._token)

    async def send(self, letters: Sequence[RejectedRecord]) -> None:
        """Returns when Kafka has all; those it had before are left out. Raises StoreUnavailable;
        sending the same again is safe."""
        by_partition: dict[int, list[RejectedRecord]] = {}
        for letter in letters:
            by_partition.setdefault(letter.partition, []).append(letter)
        for partition, of_partition in by_partition.items():
            await self._send(partition, of_partition)

    async def close(self) -> None:
        await self._discard()

    # ---- one partition

    async def _send(self, partition: int, letters: Sequence[RejectedRecord]) -> None:
        sender = self._senders.get(partition)
        if sender is None:
            sender = self._senders[partition] = await self._open(partition)
        places = await _partitions(sender.producer, self._settings.dead_letter_topic)
        if not sender.fences and await self._was_taken_over(partition):
            sender.sent = None
        if sender.sent is None:
            sender.sent = await self._read_back(partition, places)
        known = sender.sent
        waiting = [x for x in letters if not known.has(x.record.offset)]
        if len(waiting) < len(letters):
            logger.info("dead letters sent before", left_out=len(letters) - len(waiting))
        if waiting:
            try:
                await self._deliver(sender, partition % places, waiting)
            except KafkaError as error:
                # Some may be there: the next sender looks before it sends.
                del self._senders[partition]
                self._retire(sender.producer)
                raise StoreUnavailable(f"Kafka: {type(error).__name__}: {error}") from error

    async def _open(self, partition: int) -> _Sender:
        name = f"{self._settings.dead_letter_topic}-{self._topic_id}-{partition}"
        producer = await start_fencing_producer(self._settings, name)
        if producer is not None:
            return _Sender(producer, fences=True)
        return _Sender(await start_producer(self._settings), fences=False)

    async def _deliver(
        self, sender: _Sender, place: int, letters: Sequence[RejectedRecord]
    ) -> None:
        """Returns when Kafka has all. Raises KafkaError; then it may have some, or, of a sender
        that fences, all or none."""
        producer = sender.producer
        on_their_way: list[asyncio.Future[Any]] = []
        failed: list[BaseException] = []
        if sender.fences:
            await producer.begin_transaction()
        try:
            for letter in letters:
                on_their_way.append(
                    await producer.send(
                        self._settings.dead_letter_topic,
                        value=letter.record.value,
                        key=letter.record.key,
                        headers=self._headers(letter),
                        partition=place,
                    )
                )
        except KafkaError as error:
            failed.append(error)
        # All of them, also where one fails: what is on its way must have ended one way or the other
        # before anybody looks at the topic.
        ended = await asyncio.gather(*on_their_way, return_exceptions=True)
        failed += [result for result in ended if isinstance(result, BaseException)]
        if failed:
            raise failed[0]
        if sender.fences:
            await producer.commit_transaction()

    def _headers(self, letter: RejectedRecord) -> dead_letters.Headers:
        return dead_letters.headers(
            letter.rejection.reason,
            letter.rejection.detail,
            self._settings.interactions_topic,
            self._topic_id,
            letter.partition,
            letter.record.offset,
            self._now_ms(),
            letter.record.headers,
        )

    async def _read_back(self, partition: int, places: int) -> Sent:
        """What the topic has of the partition's letters, read from its end backwards until that
        is known, or a bound is reached."""
        topic, batch_letters = self._settings.dead_letter_topic, self._settings.commit_batch_events
        found: set[int] = set()
        records = size = 0
        step = batch_letters
        async with open_topic(self._settings, topic) as reader:
            first = await reader.end(partition % places)
            while first > 0 and len(found) < batch_letters:
                if records >= READ_BACK_LETTERS or size >= READ_BACK_BYTES:
                    logger.warning("dead letters before these are not looked at", records=records)
                    break
                end, first = first, max(0, first - step)
                step *= 2
                async for record in reader.read(partition % places, first, end):
                    records += 1
                    size += len(record.value or b"")
                    letter = dead_letters.parse(record.headers)
                    if letter and (letter.topic_id, letter.partition) == (
                        self._topic_id,
                        partition,
                    ):
                        found.add(letter.offset)
        return sent_of(found, batch_letters)

    async def _was_taken_over(self, partition: int) -> bool:
        """False where the partition is ours. Where it is another worker's, waits: Kafka is about
        to tell us so, which ends the waiting caller. If it does not, the partition is ours after
        all, and is claimed again; then True: others may have sent letters meanwhile."""
        deadline_s = asyncio.get_running_loop().time() + 2 * self._settings.kafka_session_timeout_s
        taken_over = False
        while (owner := await self._owners.owner(self._topic_id, partition)) != self._token:
            if not taken_over and owner is not None:
                logger.warning("another worker has the partition", partition=partition)
            taken_over = True
            if owner is None or asyncio.get_running_loop().time() >= deadline_s:
                await self._owners.claim(self._topic_id, [partition], self._token)
            else:
                await asyncio.sleep(_OWNER_POLL_S)
        return taken_over

    # ---- the producer

    def _retire(self, producer: AIOKafkaProducer) -> None:
        """Its state is unknown after an error."""
        task = asyncio.create_task(producer.stop())
        self._retired.add(task)
        task.add_done_callback(self._retired.discard)

    async def _discard(self) -> None:
        """Gives the producers up with what they were not yet asked to send; stopping them would
        first deliver that."""
        for task in self._retired:
            task.cancel()
        self._retired.clear()
        senders, self._senders = self._senders, {}
        await asyncio.gather(*(_give_up(sender.producer) for sender in senders.values()))


async def _give_up(producer: AIOKafkaProducer) -> None:
    producer._closed = True
    try:
        async with asyncio.timeout(DISCARD_S):
            await producer._sender.close()
    except (TimeoutError, KafkaError):
        logger.warning("letters on their way when their producer was given up")
    await producer.client.close()


async def _partitions(producer: AIOKafkaProducer, topic: str) -> int:
    """How many the topic has. Raises StoreUnavailable."""
    try:
        return len(await producer.partitions_for(topic)) or 1
    except KafkaError as error:
        raise StoreUnavailable(f"Kafka: {type(error).__name__}: {error}") from error
