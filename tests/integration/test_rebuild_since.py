"""Rebuild since a day: its days come from the source, the days before stay as they are."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from datetime import date

import pytest

from store.catalog_document import CatalogDocument
from store.postgres.catalog import import_catalog
from store.records import GROUPINGS, CounterPage, Event, Grouping
from store.redis.audit import AuditedCounters, Chunk
from store.settings import Settings
from store.windows import DAY_MS, Calendar, date_of, exact_window
from streams.rebuild import Options, Rebuilder, RebuildError, RebuildResult, Since
from streams.rebuild.plan import From
from streams.rebuild.since import day_of
from tests.support.contract import assert_counts, assert_counts_exact, exact_question
from tests.support.events import NOW_MS, TODAY, make_event
from tests.support.oracle import groups_of, page_of
from tests.support.replay import ReplayFixture
from tests.support.stores import Stores, some_events

OLD_TOPIC = "5e9d6d47-3a4b-4bd2-8d9c-0f3b1d8a7c55"
PARTITIONS = range(4)
#: The topic that is there now begins with records of this many days ago.
TOPIC_DAYS = 6


def run(settings: Settings, check: Callable[[ReplayFixture], Awaitable[None]]) -> None:
    async def go() -> None:
        async with ReplayFixture(settings) as replay:
            await check(replay)

    asyncio.run(go())


def events_between(
    chosen: random.Random, n: int, first_ms: int, end_ms: int, customers: int = 30
) -> list[Event]:
    return [
        make_event(
            customer=f"C-{chosen.randrange(customers)}",
            offer=f"off_{chosen.randrange(6)}",
            creative=chosen.choice((None, "cr_1", "cr_2")),
            channel=chosen.choice((None, "ch_1")),
            outcome=chosen.choice(("impression", "click", "convert", "deferred")),
            occurred_ms=chosen.randrange(first_ms, end_ms),
        )
        for _ in range(n)
    ]


async def fill(
    replay: ReplayFixture, chosen: random.Random
) -> tuple[Sequence[Event], Sequence[Event]]:
    """Send events of some days, each on its day or later, and copies of those of a day before.

    Returns events of a topic before this one, and those that were sent on the last day.
    """
    oldest_ms = NOW_MS - 50 * DAY_MS
    old = events_between(chosen, 80, oldest_ms, NOW_MS - TOPIC_DAYS * DAY_MS)
    last: list[Event] = []
    for days in range(TOPIC_DAYS, -1, -1):
        sent: list[Event] = []
        replay.now_ms = arrival_ms = NOW_MS - days * DAY_MS
        for partition in PARTITIONS:
            events = events_between(chosen, 5, arrival_ms - DAY_MS, arrival_ms)
            late = events_between(chosen, 2, arrival_ms - 20 * DAY_MS, arrival_ms - DAY_MS)
            sent += [*events, *late]
            copies = chosen.sample([*last, *sent], 3)
            batch = [*events, *late, *copies]
            chosen.shuffle(batch)
            await replay.send(partition, batch)
        last = sent
    replay.now_ms = NOW_MS
    return old, last


async def count_old(replay: ReplayFixture, old: Sequence[Event]) -> None:
    await of_old_topic(replay, old, lambda: replay.count({0: len(old)}))


async def store_old(replay: ReplayFixture, old: Sequence[Event]) -> None:
    await of_old_topic(replay, old, lambda: replay.store_history({0: len(old)}))


async def of_old_topic(
    replay: ReplayFixture, old: Sequence[Event], call: Callable[[], Awaitable[None]]
) -> None:
    """Await `call` as if the topic before this one were still there."""
    kept = replay.topic[0], replay.recorded[0], replay.topic_id
    replay.topic[0], replay.topic_id = list(old), OLD_TOPIC
    replay.recorded[0] = [NOW_MS - TOPIC_DAYS * DAY_MS] * len(old)
    try:
        await call()
    finally:
        replay.topic[0], replay.recorded[0], replay.topic_id = kept


def ends_of(replay: ReplayFixture) -> dict[int, int]:
    return {partition: len(events) for partition, events in replay.topic.items()}


def some_ends(replay: ReplayFixture, chosen: random.Random) -> dict[int, int]:
    return {p: chosen.randrange(end // 2, end + 1) for p, end in ends_of(replay).items()}


def since(day: int, source: From = "auto", *, force: bool = False) -> Options:
    return Options(source=source, since=date_of(day), force=force)


async def assert_all(replay: ReplayFixture, events: Sequence[Event]) -> None:
    await assert_counts(replay.counters, events, TODAY)
    await assert_counts_exact(replay.counters, events, TODAY, (2, 3, 5, 8, 20, 30))


@pytest.mark.parametrize("source", ["topic", "history", "auto"])
def test_every_source_gives_the_same_counters(settings: Settings, source: From) -> None:
    """Neither the topic nor history has the oldest events, and history may be behind or ahead."""

    async def check(replay: ReplayFixture) -> None:
        chosen = random.Random(source)
        old, _ = await fill(replay, chosen)
        await count_old(replay, old)
        await replay.count(some_ends(replay, chosen))
        await replay.store_history(some_ends(replay, chosen))
        expected = [*old, *replay.distinct()]
        for _ in range(4):
            day = TODAY - chosen.randrange(TOPIC_DAYS)
            result = await replay.replay(since(day, source))
            assert result.behind == []
            assert result.events == len(expected)
            assert any(f"of the days before {date_of(day)}" in note for note in result.notes)
            await assert_all(replay, expected)

    run(settings, check)


class CountingAudit(AuditedCounters):
    """Reads few groups at a time; events are counted and stored after each read."""

    def __init__(self, replay: ReplayFixture, chosen: random.Random) -> None:
        super().__init__(replay.client, "is")
        self._replay = replay
        self._chosen = chosen
        self.steps = 0

    async def read(self, tenant: str, grouping: Grouping, ids: Sequence[str]) -> Chunk | None:
        found = await super().read(tenant, grouping, ids[: self._chosen.randrange(1, 4)])
        if self._chosen.random() < 0.5:
            await self._step()
        return found

    async def _step(self) -> None:
        replay, chosen = self._replay, self._chosen
        partition = chosen.choice(PARTITIONS)
        end = len(replay.topic[partition])
        if chosen.random() < 0.05:
            late = events_between(chosen, 3, NOW_MS - 40 * DAY_MS, NOW_MS, customers=60)
            await replay.send(partition, late)
        if chosen.random() < 0.3:
            positions = await replay.history.positions(replay.topic_id)
            position = positions.get(partition, 0)
            await replay.store_history({partition: min(end, position + 20)})
        generation = await replay.counters.generation("acme")
        assert generation is not None
        watermarks = await replay.counters.watermarks(generation, replay.topic_id)
        watermark = watermarks.get(partition, 0)
        if watermark < end:
            await replay.count({partition: min(end, watermark + chosen.randrange(1, 6))})
            self.steps += 1


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("source", ["topic", "history", "auto"])
def test_events_that_are_counted_meanwhile_count_once(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, source: From, seed: int
) -> None:
    """Late and current events, and their copies in other partitions, between any two reads."""

    async def check(replay: ReplayFixture) -> None:
        chosen = random.Random(f"{source} {seed}")
        old, last = await fill(replay, chosen)
        await count_old(replay, old)
        before, sent = ends_of(replay), list(last)
        for partition in PARTITIONS:
            late = events_between(chosen, 25, NOW_MS - 40 * DAY_MS, NOW_MS, customers=60)
            sent += late
            batch = [*late, *chosen.sample(sent, 10)]
            chosen.shuffle(batch)
            await replay.send(partition, batch)
        await replay.count({p: end - chosen.randrange(5) for p, end in before.items()})
        await replay.store_history(some_ends(replay, chosen))
        audit = CountingAudit(replay, chosen)
        monkeypatch.setattr(replay.counters, "audited", lambda _=None: audit)
        await replay.replay(since(TODAY - chosen.randrange(TOPIC_DAYS), source))
        assert audit.steps > 4
        await assert_all(replay, [*old, *replay.distinct()])

    run(settings, check)


@pytest.mark.parametrize("source", ["topic", "history", "auto"])
def test_wrong_events_of_the_last_days_disappear(settings: Settings, source: From) -> None:
    """The topic and history are filled again without them; neither has the oldest events."""

    async def check(replay: ReplayFixture) -> None:
        chosen = random.Random(5)
        day = TODAY - 1
        offers = ("off_1", "off_2", "off_wrong")
        kept = [
            make_event(customer=f"C-{i % 5}", offer=offers[i % 2], occurred_ms=NOW_MS - i * DAY_MS)
            for i in range(2, 45)
        ]
        wrong = [make_event(customer=f"C-{i % 3}", offer=offers[i % 3]) for i in range(50)]
        await count_old(replay, [*kept, *wrong])
        replay.now_ms = NOW_MS - 3 * DAY_MS
        await replay.send(0, [make_event(tenant="other", occurred_ms=replay.now_ms)])
        replay.now_ms = NOW_MS
        right = events_between(chosen, 30, NOW_MS - DAY_MS // 2, NOW_MS)
        await replay.send(1, right)
        # The last day before of each offer of which there was a wrong event.
        await store_old(replay, kept[:15])
        if source == "history":
            await replay.store_history({1: 20})
        with pytest.raises(RebuildError, match="events would be lost"):
            await replay.replay(since(day, source))
        await replay.replay(since(day, source, force=True))
        await assert_all(replay, [*kept, *right])

    run(settings, check)


def test_tenants_that_are_rebuilt_together_keep_their_own_days(settings: Settings) -> None:
    async def check(replay: ReplayFixture) -> None:
        chosen = random.Random(3)
        old, _ = await fill(replay, chosen)
        await count_old(replay, old)
        ends = ends_of(replay)
        replay.now_ms = NOW_MS - TOPIC_DAYS * DAY_MS // 2
        others = [
            make_event(tenant="other", customer=f"C-{i}", occurred_ms=NOW_MS - i * DAY_MS)
            for i in range(3, 20)
        ]
        await replay.send(2, others)
        replay.now_ms = NOW_MS
        await replay.count({**ends, 2: ends[2] + 4})
        await replay.count({2: ends[2] + 9}, tenant="other")
        rebuilder = Rebuilder(replay.settings, replay.counters, replay.pool, now_ms=lambda: NOW_MS)
        outcomes = [
            o async for o in rebuilder.rebuild(["acme", "other"], since(TODAY - 3, "topic"))
        ]
        expected = [*old, *replay.distinct()]
        assert [(o.tenant, o.events) for o in outcomes if isinstance(o, RebuildResult)] == [
            ("acme", len(expected)),
            ("other", len(others)),
        ]
        await assert_all(replay, expected)

    run(settings, check)


@pytest.mark.parametrize("at", [date(2026, 11, 1), date(2026, 11, 2), 1_793_548_800_000])
def test_days_are_those_of_the_tenants_zone(settings: Settings, at: Since) -> None:
    """On 1 November 2026 Havana set its clocks back at 01:00: that day has midnight twice."""
    zone = "America/Havana"
    calendar = Calendar(zone)

    async def check(replay: ReplayFixture) -> None:
        day = day_of(at, calendar)
        assert date_of(day) in (date(2026, 11, 1), date(2026, 11, 2))
        replay.timezone = zone
        await import_catalog(replay.pool, CatalogDocument(tenant="acme", timezone=zone))
        midnight_ms = calendar.midnight_ms(day)
        events = [
            make_event(customer=f"C-{i % 3}", occurred_ms=midnight_ms + minutes * 60_000)
            for i, minutes in enumerate(range(-4_000, 4_000, 29))
        ]
        before = [e for e in events if e.occurred_ms < midnight_ms]
        await count_old(replay, before)
        replay.now_ms = midnight_ms - 3 * DAY_MS
        await replay.send(1, [make_event(tenant="other", occurred_ms=replay.now_ms)])
        replay.now_ms = NOW_MS
        await replay.send(1, events[len(before) :])
        await replay.count({1: 40})
        await replay.replay(Options(source="topic", since=at))
        today = calendar.day_of(NOW_MS)
        for group_by in GROUPINGS:
            for days in range(today - day - 4, 31):
                asked = exact_question(group_by, days, today=today)._replace(timezone=zone)
                answer = await replay.counters.read(asked)
                assert isinstance(answer, CounterPage)
                groups = groups_of(events, group_by, exact_window(days, today), calendar)
                assert answer.page == page_of(groups, 100, 0), (group_by, days)

    run(settings, check)


def test_what_cannot_be_taken_over_is_refused(settings: Settings) -> None:
    async def check(replay: ReplayFixture) -> None:
        async def refused(options: Options, reason: str) -> None:
            with pytest.raises(RebuildError, match=reason):
                await replay.replay(options)

        chosen = random.Random(1)
        old, _ = await fill(replay, chosen)
        await refused(since(TODAY), "there are no counters to take the days before from")
        await count_old(replay, old)
        await replay.count(ends_of(replay))
        await store_old(replay, old)
        await refused(since(TODAY + 1), "2026-11-25 is in the future: today is 2026-11-24")
        await refused(since(TODAY - 31), "too long ago: .* only from 2026-10-25 on")
        lost = "80 offsets .*neither the topic nor history has"
        await refused(since(TODAY - TOPIC_DAYS - 2, "topic"), "history has .* use --from auto")
        await replay.replay(since(TODAY - 30))
        async with replay.pool.connection() as connection:
            await connection.execute(
                "TRUNCATE interaction_history, interaction_identities, history_watermarks"
            )
        await refused(since(TODAY - TOPIC_DAYS - 2, "topic"), lost)
        expected = [*old, *replay.distinct()]
        await assert_all(replay, expected)

        active = await replay.counters.generation("acme")
        assert active is not None
        meta = f"is:{{acme/0}}:{active.number}:meta"
        field = f"gap:{OLD_TOPIC}:0:5"
        await replay.client.hset(meta, mapping={field: 9, "complete": 0})
        await refused(since(TODAY), "lacks offsets from 5 on that history has")
        await replay.client.hdel(meta, field)
        await replay.client.hset(meta, mapping={"unproven": 1})
        await refused(since(TODAY), "does not hold all of history")
        await replay.client.hdel(meta, "unproven")
        await replay.client.hset(meta, mapping={"complete": 1, "over:u": 4})
        await refused(since(TODAY), "KEYS_PER_GROUPING_MAX")
        await replay.client.hdel(meta, "over:u")
        await import_catalog(replay.pool, CatalogDocument(tenant="acme", timezone="Asia/Tokyo"))
        await refused(since(TODAY), "days of time zone UTC, not of Asia/Tokyo")
        await import_catalog(replay.pool, CatalogDocument(tenant="acme", timezone="UTC"))
        await replay.replay(since(TODAY, "topic"))
        await assert_all(replay, expected)

    run(settings, check)


def test_it_needs_kafka(redis_url: str, database_url: str) -> None:
    async def go() -> None:
        async with Stores(Settings(redis_url=redis_url, database_url=database_url)) as stores:
            await stores.store(some_events(3), None)
            await stores.rebuild()
            with pytest.raises(RebuildError, match="--since needs Kafka, which does not answer"):
                await stores.rebuild(since=date_of(TODAY))

    asyncio.run(go())
