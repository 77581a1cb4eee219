"""A topic with events, and the stores, for tests of rebuilds without a worker."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from typing import Self

from aiokafka import AIOKafkaProducer

from store.records import Event, SourcedEvent
from store.settings import Settings
from store.shards import by_shard
from store.windows import DAY_MS
from streams.commit import CounterCommitter
from streams.decode.decoder import Decoder
from streams.kafka.topic_id import describe_topic
from streams.rebuild import Failure, Options, Rebuilder, RebuildError, RebuildResult
from tests.support.events import NOW_MS, encode, make_event, sourced
from tests.support.stores import Stores

DECODER = Decoder(future_tolerance_s=300, event_bytes_max=1_048_576)


class ReplayFixture(Stores):
    """Stores of a topic that has four partitions; opened by `async with`."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.now_ms = NOW_MS
        self.topic: dict[int, list[Event]] = {}
        """Partition -> the events in it."""
        self.recorded: dict[int, list[int]] = {}
        """Partition -> timestamps of the records."""
        self.topic_id = ""
        self.timezone = "UTC"
        """Of the tenants' counters."""

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        found = await describe_topic(self.settings, self.settings.interactions_topic)
        self.topic_id = found.topic_id
        self.topic = {partition: [] for partition in range(found.partitions)}
        self.recorded = {partition: [] for partition in self.topic}
        return self

    async def send(self, partition: int, events: Sequence[Event]) -> None:
        """Append events to a partition, as records that arrive now."""
        producer = AIOKafkaProducer(bootstrap_servers=self.settings.brokers, acks="all")
        await producer.start()
        try:
            sent = [
                await producer.send(
                    self.settings.interactions_topic,
                    encode(event),
                    partition=partition,
                    timestamp_ms=self.now_ms,
                )
                for event in events
            ]
            await asyncio.gather(*sent)
        finally:
            await producer.stop()
        self.topic[partition] += [_as_read(event) for event in events]
        self.recorded[partition] += [self.now_ms] * len(events)

    def sourced(self, partition: int, end: int) -> list[SourcedEvent]:
        """Return the events of a partition below `end`, as a reader of the topic gets them."""
        times = self.recorded[partition]
        events = sourced(*self.topic[partition][:end], recorded_ms=self.now_ms)
        return [e._replace(recorded_ms=t) for e, t in zip(events, times, strict=False)] + events[
            len(times) :
        ]

    async def count(self, ends: Mapping[int, int], *, tenant: str = "acme") -> None:
        """Count the tenant's events of the topic up to `ends` in the active generation."""

        async def timezone_of(_: str) -> str:
            return self.timezone

        committer = CounterCommitter(
            self.counters, self.history, now_ms=lambda: self.now_ms, timezone_of=timezone_of
        )
        committer.start_session(self.topic_id, dict.fromkeys(self.topic, 0))
        await self.count_on(committer, ends, tenant=tenant)

    async def count_on(
        self, committer: CounterCommitter, ends: Mapping[int, int], *, tenant: str = "acme"
    ) -> None:
        """Do so in the session of a committer: events that it has counted are skipped."""
        for partition, end in ends.items():
            mine = [e for e in self.sourced(partition, end) if e.event.tenant == tenant]
            layout = await committer.tenants.layout(tenant)
            shards = by_shard(layout, mine)
            for name in layout.names:
                await committer.commit(name, partition, shards.get(name, ()), end)

    async def store_history(self, ends: Mapping[int, int], topic_id: str | None = None) -> None:
        """Store the events of the topic up to `ends`; the next offsets there are `ends` then."""
        positions = await self.history.positions(topic_id or self.topic_id)
        for partition, end in ends.items():
            first = positions.get(partition)
            written = await self.history.write(
                topic=self.settings.interactions_topic,
                topic_id=topic_id or self.topic_id,
                partition=partition,
                expected_offset=first,
                next_offset=end,
                events=self.sourced(partition, end)[first or 0 :],
            )
            assert isinstance(written, int), written

    async def store_more(self, ends: Mapping[int, int]) -> None:
        """Store the events up to `ends` that history lacks."""
        positions = await self.history.positions(self.topic_id)
        for partition, end in ends.items():
            first = positions[partition]
            events = self.topic[partition][first:end]
            written = await self.history.write(
                topic=self.settings.interactions_topic,
                topic_id=self.topic_id,
                partition=partition,
                expected_offset=first,
                next_offset=end,
                events=sourced(*events, first=first, recorded_ms=self.now_ms),
            )
            assert isinstance(written, int), written

    async def replay(self, options: Options, *, tenant: str = "acme") -> RebuildResult:
        """Rebuild the tenant's counters. Raises RebuildError."""
        rebuilder = Rebuilder(self.settings, self.counters, self.pool, now_ms=lambda: self.now_ms)
        (outcome,) = [outcome async for outcome in rebuilder.rebuild([tenant], options)]
        if isinstance(outcome, Failure):
            raise RebuildError(outcome.reason)
        return outcome

    def distinct(self, tenant: str = "acme") -> list[Event]:
        """Return the tenant's events of the whole topic, each identity once."""
        found = {e.event_id: e for events in self.topic.values() for e in events}
        return [event for event in found.values() if event.tenant == tenant]


def _as_read(event: Event) -> Event:
    """Return the event with the identity that a reader of its record gives it."""
    read = DECODER.decode(encode(event), NOW_MS)
    assert isinstance(read, Event)
    return read


def many_events(n: int, seed: int = 1, tenant: str = "acme") -> list[Event]:
    """Return events of the last 50 days with few groups, so that they share all of them."""
    chosen = random.Random(seed)
    return [
        make_event(
            tenant=tenant,
            customer=f"C-{chosen.randrange(40)}",
            offer=f"off_{chosen.randrange(6)}",
            creative=chosen.choice((None, "cr_1", "cr_2")),
            channel=chosen.choice((None, "ch_1")),
            outcome=chosen.choice(("impression", "click", "convert", "deferred")),
            occurred_ms=NOW_MS - chosen.randrange(50 * DAY_MS),
        )
        for _ in range(n)
    ]


async def fill(replay: ReplayFixture) -> None:
    """Send events to all partitions; every tenth is a copy of one in any partition."""
    for partition in range(4):
        events = many_events(100, seed=partition)
        copies = [replay.topic[p][9] for p in range(partition)]
        await replay.send(partition, [*events, *events[:10], *copies])
    await replay.send(2, many_events(20, seed=9, tenant="other"))


def ends_of(replay: ReplayFixture) -> dict[int, int]:
    return {partition: len(events) for partition, events in replay.topic.items()}
