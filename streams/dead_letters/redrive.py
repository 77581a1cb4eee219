"""Redrive: sends dead letters to the source topic again.

Guarantee: each event counts once, however often a redrive is run, and wherever it is interrupted.

- Before a dead letter is sent, its event is looked up in history. History holds every event that
  was counted, permanently; an event that it holds is not sent.
- An event that was sent and is not in history yet (a redrive was interrupted, and run again at
  once) is sent again. The counters then know its identity, since it arrived within the horizon, and
  history stores it once. So the guarantee holds as long as history is less than DEDUP_HORIZON_H
  behind the topic.
- A dead letter that was sent is marked by its source after Kafka has acknowledged it. The mark
  saves work, and `dlq list` shows it; the guarantee does not depend on it.
- A dead letter that would be rejected again is not sent: it would only add another dead letter.

The horizon counts from the arrival of an event, and a redriven event arrives when it is sent: its
own age does not matter.

Not guaranteed: counters that read the topic again from before the dead letter (after Redis was
flushed, for example) read the event at its first position, where it is valid by now, and at its
second. Where the two are further apart than the horizon, they count both, as with any copy that a
producer sends that late. A rebuild from history, which holds the event once, is exact.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final, NamedTuple

from store.postgres.catalog import load_catalog
from store.postgres.pool import Pool
from store.postgres.redriven import RedrivenDeadLetters
from store.records import Catalog, Event
from store.settings import Settings
from streams.dead_letters.headers import is_cut, original_headers
from streams.dead_letters.record import DeadLetter, Source
from streams.decode.decoder import make_decoder
from streams.decode.rejection import (
    Rejected,
    Skipped,
    unregistered_tenant,
    unregistered_type,
)
from streams.kafka.producers import OutgoingRecord, Producer, open_producer

#: Dead letters that are checked, sent and marked together.
BATCH_DEAD_LETTERS: Final = 200


class NotSent(NamedTuple):
    """Dead letter that was not sent, and why its event would be rejected again."""

    dead_letter: DeadLetter
    reason: str


class RedriveReport(NamedTuple):
    """Numbers of dead letters that a redrive handled, or with `dry_run` would handle."""

    sent: int
    already_counted: int
    """Their events are in history already."""
    already_redriven: int
    """Marked by an earlier redrive."""
    not_sent: Sequence[NotSent]
    """Would be rejected again."""


class Redrive:
    """One run that sends dead letters again. Running it again is safe.

    Every method raises StoreUnavailable.
    """

    def __init__(
        self, settings: Settings, pool: Pool, *, now_ms: Callable[[], int], dry_run: bool = False
    ) -> None:
        self._settings = settings
        self._pool = pool
        self._marks = RedrivenDeadLetters(pool)
        self._now_ms = now_ms
        self._dry_run = dry_run
        self._decoder = make_decoder(settings)
        self._catalogs: dict[str, Catalog] = {}
        self._producer: Producer | None = None
        self._seen: set[Source] = set()
        self._not_sent: list[NotSent] = []
        self._count: Counter[str] = Counter()

    async def run(
        self,
        dead_letters: AsyncIterator[DeadLetter],
        *,
        reason: str | None = None,
        tenant: str | None = None,
        progress: Callable[[RedriveReport], None] = lambda report: None,
    ) -> RedriveReport:
        """Send the dead letters with this reason and this tenant's events (None = any).

        Of several copies of a dead letter one is sent. `progress` is called after each batch.
        """
        batch: list[DeadLetter] = []
        try:
            async for dead_letter in dead_letters:
                source = dead_letter.info.source
                if source in self._seen or reason not in (None, dead_letter.info.reason):
                    continue
                self._seen.add(source)
                batch.append(dead_letter)
                if len(batch) == BATCH_DEAD_LETTERS:
                    await self._redrive(batch, tenant)
                    batch.clear()
                    progress(self._report())
            if batch:
                await self._redrive(batch, tenant)
        finally:
            if self._producer is not None:
                await self._producer.stop()
        return self._report()

    def _report(self) -> RedriveReport:
        count = self._count
        return RedriveReport(
            count["sent"], count["already_counted"], count["already_redriven"], self._not_sent
        )

    async def _redrive(self, dead_letters: Sequence[DeadLetter], tenant: str | None) -> None:
        # 1. Leave out the dead letters that were redriven before.
        marked = await self._marks.marked([x.info.source for x in dead_letters])
        self._count["already_redriven"] += len(marked)
        # 2. Leave out those that would be rejected again.
        valid: list[tuple[DeadLetter, Event]] = []
        for index, dead_letter in enumerate(dead_letters):
            if index not in marked:
                event = await self._decode(dead_letter)
                if isinstance(event, Event) and tenant in (None, event.tenant):
                    valid.append((dead_letter, event))
                elif isinstance(event, str) and tenant is None:
                    self._not_sent.append(NotSent(dead_letter, event))
        if not valid:
            return
        # 3. Leave out those whose events are in history: they are counted.
        stored = await self._marks.stored([event for _, event in valid])
        self._count["already_counted"] += len(stored)
        # 4. Send the others. 5. Mark them when Kafka has acknowledged them.
        to_send = [x for index, (x, _) in enumerate(valid) if index not in stored]
        if not self._dry_run:
            await self._send(to_send)
            await self._marks.mark([x.info.source for x, _ in valid])
        self._count["sent"] += len(to_send)

    async def _decode(self, dead_letter: DeadLetter) -> Event | str:
        """Return the event of a dead letter, or why it would be rejected again."""
        topic = self._settings.interactions_topic
        if dead_letter.info.topic != topic:
            return f"it came from topic {dead_letter.info.topic}, not from {topic}"
        if is_cut(dead_letter.headers, dead_letter.value):
            return "its value was too large to be sent whole; the source topic may still have it"
        decoded = self._decoder.decode(dead_letter.value, self._now_ms())
        if isinstance(decoded, Skipped):
            return f"an event of type {decoded.type}, which is not counted"
        if isinstance(decoded, Event):
            catalog = await self._catalog(decoded.tenant)
            if self._settings.tenants_registered_only and not catalog.registered:
                decoded = unregistered_tenant(decoded)
            elif decoded.outcome in catalog.outcome_types:
                return decoded
            else:
                decoded = unregistered_type(decoded)
        assert isinstance(decoded, Rejected)
        return f"{decoded.reason}: {decoded.detail}"

    async def _catalog(self, tenant: str) -> Catalog:
        catalog = self._catalogs.get(tenant)
        if catalog is None:
            catalog = self._catalogs[tenant] = await load_catalog(self._pool, tenant)
        return catalog

    async def _send(self, dead_letters: Sequence[DeadLetter]) -> None:
        """Return when Kafka has acknowledged all."""
        if not dead_letters:
            return
        if self._producer is None:
            self._producer = await open_producer(self._settings)
        topic = self._settings.interactions_topic
        partitions = await self._producer.partitions_of(topic)
        await self._producer.send_all(
            topic,
            [
                OutgoingRecord(
                    key=x.key,
                    value=x.value,
                    headers=original_headers(x.headers),
                    # The partition of the customer's other events, by whatever rule the producer
                    # of the event chose it.
                    partition=x.info.partition if x.info.partition in partitions else None,
                )
                for x in dead_letters
            ],
        )
