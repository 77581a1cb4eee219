"""Midnight of the tenant's zone passes during a rebuild, at any moment of it."""

from __future__ import annotations

import asyncio
import json
import random
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from store.catalog_document import parse_document
from store.counters import Rolled
from store.postgres.catalog import import_catalog
from store.records import GROUPINGS, CounterPage, Event, Question
from store.settings import Settings
from store.windows import DAY_MS, PERIODS, Calendar, window_of
from streams.rebuild import Options, Rebuilder, RebuildResult
from streams.rebuild.plan import From
from tests.support.events import make_event
from tests.support.oracle import groups_of
from tests.support.replay import ReplayFixture

#: The first midnight after the clock changes: New York's day before it has 25 hours. Cairo's clocks
#: change at midnight itself: the day begins at one o'clock.
MIDNIGHTS = {
    "America/New_York": datetime(2026, 11, 2, tzinfo=ZoneInfo("America/New_York")),
    "Africa/Cairo": datetime(2026, 4, 24, 1, tzinfo=ZoneInfo("Africa/Cairo")),
}
SOURCES: tuple[From, ...] = ("topic", "history", "auto")


class Clock:
    """Clock that passes midnight at one of its calls."""

    def __init__(self, midnight_ms: int) -> None:
        self._midnight_ms = midnight_ms
        self.calls = 0
        self.passes_at = 0

    def now_ms(self) -> int:
        """Return a time of the second before midnight, or a minute later."""
        self.calls += 1
        late = self.calls > self.passes_at
        return self._midnight_ms + (60_000 if late else -1_000 + min(900, self.calls))


def events_around(midnight_ms: int) -> list[Event]:
    """Return events near the midnights of 50 days, some after the one that is to come."""
    chosen = random.Random(2)
    return [
        make_event(
            customer=f"C-{chosen.randrange(20)}",
            offer=f"off_{chosen.randrange(5)}",
            outcome=chosen.choice(("impression", "click", "convert")),
            occurred_ms=midnight_ms
            - chosen.randrange(50) * DAY_MS
            + chosen.randrange(-4 * 3_600_000, 30_000),
        )
        for _ in range(300)
    ]


@pytest.mark.parametrize(
    "zone",
    [
        zone if zone == "Africa/Cairo" else pytest.param(zone, marks=pytest.mark.long)
        for zone in MIDNIGHTS
    ],
)
def test_midnight_may_pass_at_any_moment(settings: Settings, zone: str) -> None:
    midnight_ms = int(MIDNIGHTS[zone].timestamp() * 1_000)
    calendar = Calendar(zone)
    today = calendar.day_of(midnight_ms)
    assert calendar.day_of(midnight_ms - 1) == today - 1
    clock = Clock(midnight_ms)

    async def rebuild(replay: ReplayFixture, source: From) -> None:
        rebuilder = Rebuilder(replay.settings, replay.counters, replay.pool, now_ms=clock.now_ms)
        options = Options(source=source)
        (outcome,) = [outcome async for outcome in rebuilder.rebuild(["acme"], options)]
        assert isinstance(outcome, RebuildResult), outcome
        assert outcome.events == len(replay.topic[0])

    async def check_counts(replay: ReplayFixture) -> None:
        """Compare the counters after midnight; a worker rolls them if the rebuild has not."""
        generation = await replay.counters.generation("acme")
        assert generation is not None and generation.complete
        if generation.day < today:
            rolled = await replay.counters.roll(
                generation, today, now_ms=midnight_ms, records_max=10_000
            )
            assert isinstance(rolled, Rolled) and rolled.finished
        for grouping in GROUPINGS:
            for period in PERIODS:
                window = window_of(period, today)
                asked = Question("acme", grouping, period, window, today, zone, 500, 0)
                answer = await replay.counters.read(asked)
                assert isinstance(answer, CounterPage), (answer, clock.passes_at)
                want = groups_of(replay.topic[0], grouping, window, calendar)
                assert list(answer.page.groups) == want, (grouping, period, clock.passes_at)

    async def check() -> None:
        async with ReplayFixture(settings) as replay:
            document = parse_document(json.dumps({"tenant": "acme", "timezone": zone}))
            await import_catalog(replay.pool, document)
            replay.now_ms = midnight_ms
            await replay.send(0, events_around(midnight_ms))
            await replay.store_history({0: 300})
            passed = 0
            while clock.passes_at <= clock.calls:
                clock.calls = 0
                await rebuild(replay, SOURCES[clock.passes_at % 3])
                await check_counts(replay)
                passed += clock.calls > clock.passes_at
                clock.passes_at += 2
            assert passed > 5

    asyncio.run(check())
