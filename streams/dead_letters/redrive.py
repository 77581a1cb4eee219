"""Dead letters read back from their topic, and sent to the source topic again.

What a redrive promises: each event counts once, however often a redrive is run, and wherever it is
cut off.

- Before a letter is sent, history is asked for its event. History holds every event that was
  counted, for all time; what it has is not sent.
- What was sent and is not in history yet (a redrive cut off, and run again at once) is sent again.
  The counters then know its identity, since it arrived within the horizon, and history takes it
  once. So the promise holds as long as history is less than DEDUP_HORIZON_H behind the topic.
- A letter that was sent is marked after Kafka has it, by the place it came from. The mark saves
  work, and shows in `dlq list`; the promise does not rest on it.
- What would be refused again is not sent: it would only be one letter more.

The horizon counts from an event's arrival, and a redriven one arrives when it is sent: its own age
does not matter.

Not promised: counters that read the topic from before the letter once more (Redis was flushed, say)
meet the event at its first place, where it is valid by now, and at its second. Where the two are
further apart than the horizon, they count both, as with any copy that a producer sends that late;
a rebuild from history, which has it once, is exact.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final, NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from store.postgres.catalog import load_catalog
from store.postgres.pool import Pool
from store.postgres.redriven import RedrivenDeadLetters
from store.records import Catalog, Event, StoreUnavailable
from store.settings import Settings
from streams.dead_letters import headers as dead_letters
from streams.dead_letters.record import DeadLetter, Source
from streams.decode.decoder import Decoder
from streams.decode.rejection import Rejected, Skipped, unregistered_type
from streams.kafka.producers import start_producer

#: Letters judged, sent and marked together.
BATCH_LETTERS: Final = 200


class Left(NamedTuple):
    """A letter that was not sent, and why it would be refused."""

    letter: DeadLetter
    why: str


class Report(NamedTuple):
    """What a redrive did, or with `dry_run` would do, in letters."""

    sent: int
    stored: int
    """Their events are in history already."""
    before: int
    """Redriven before."""
    left: Sequence[Left]
    """Would be refused again."""


class Redrive:
    """Sends letters again. Every method raises StoreUnavailable; running it again is safe."""

    def __init__(
        self, settings: Settings, pool: Pool, *, now_ms: Callable[[], int], dry_run: bool = False
    ) -> None:
        self._settings = settings
        self._pool = pool
        self._marks = RedrivenDeadLetters(pool)
        self._now_ms = now_ms
        self._dry_run = dry_run
        self._decoder = Decoder(
            future_tolerance_s=settings.future_tolerance_s,
            event_bytes_max=settings.event_bytes_max,
            id_chars_max=settings.id_chars_max,
        )
        self._catalogs: dict[str, Catalog] = {}
        self._producer: AIOKafkaProducer | None = None
        self._seen: set[Source] = set()
        self._left: list[Left] = []
        self._count: Counter[str] = Counter()

    async def run(
        self,
        letters: AsyncIterator[DeadLetter],
        *,
        reason: str | None = None,
        tenant: str | None = None,
        progress: Callable[[Report], None] = lambda report: None,
    ) -> Report:
        """Those of `letters` that were refused for `reason`, and whose event is `tenant`'s (None =
        any). Of the repeats of a letter one is sent."""
        batch: list[DeadLetter] = []
        try:
            async for letter in letters:
                source = letter.about.source
                if source in self._seen or reason not in (None, letter.about.reason):
                    continue
                self._seen.add(source)
                batch.append(letter)
                if len(batch) == BATCH_LETTERS:
                    await self._batch(batch, tenant)
                    batch.clear()
                    progress(self._report())
            if batch:
                await self._batch(batch, tenant)
        finally:
            if self._producer is not None:
                await self._producer.stop()
        return self._report()

    def _report(self) -> Report:
        n = self._count
        return Report(n["sent"], n["stored"], n["before"], self._left)

    async def _batch(self, letters: Sequence[DeadLetter], tenant: str | None) -> None:
        # 1. What was redriven is done with.
        marked = await self._marks.marked([letter.about.source for letter in letters])
        self._count["before"] += len(marked)
        # 2. What would be refused again stays.
        valid: list[tuple[DeadLetter, Event]] = []
        for place, letter in enumerate(letters):
            if place not in marked:
                event = await self._judge(letter)
                if isinstance(event, Event) and tenant in (None, event.tenant):
                    valid.append((letter, event))
                elif isinstance(event, str) and tenant is None:
                    self._left.append(Left(letter, event))
        if not valid:
            return
        # 3. What history has is counted.
        stored = await self._marks.stored([event for _, event in valid])
        self._count["stored"] += len(stored)
        # 4. The others are sent, and 5. marked, when Kafka has them.
        to_send = [letter for place, (letter, _) in enumerate(valid) if place not in stored]
        if not self._dry_run:
            await self._send(to_send)
            await self._marks.mark([letter.about.source for letter, _ in valid])
        self._count["sent"] += len(to_send)

    async def _judge(self, letter: DeadLetter) -> Event | str:
        """The letter's event, or why it would be refused."""
        topic = self._settings.interactions_topic
        if letter.about.topic != topic:
            return f"it came from topic {letter.about.topic}, not from {topic}"
        decoded = self._decoder.decode(letter.value, self._now_ms())
        if isinstance(decoded, Skipped):
            return f"an event of type {decoded.type}, which nobody counts"
        if isinstance(decoded, Event):
            catalog = await self._catalog(decoded.tenant)
            if decoded.outcome in catalog.outcome_types:
                return decoded
            decoded = unregistered_type(decoded)
        assert isinstance(decoded, Rejected)
        return f"{decoded.reason}: {decoded.detail}"

    async def _catalog(self, tenant: str) -> Catalog:
        catalog = self._catalogs.get(tenant)
        if catalog is None:
            catalog = self._catalogs[tenant] = await load_catalog(self._pool, tenant)
        return catalog

    async def _send(self, letters: Sequence[DeadLetter]) -> None:
        """Returns when Kafka has all."""
        if not letters:
            return
        if self._producer is None:
            self._producer = await start_producer(self._settings)
        topic = self._settings.interactions_topic
        try:
            partitions = await self._producer.partitions_for(topic)
            sent = [
                await self._producer.send(
                    topic,
                    value=letter.value,
                    key=letter.key,
                    headers=dead_letters.original_headers(letter.headers),
                    # Where its customer's other events are, by whatever rule its producer has.
                    partition=letter.about.partition
                    if letter.about.partition in partitions
                    else None,
                )
                for letter in letters
            ]
            await asyncio.gather(*sent)
        except KafkaError as error:
            raise StoreUnavailable(f"Kafka: {type(error).__name__}: {error}") from error
