"""Forty days of three tenants: counters, history and a plain count are equal on each day.

The clock is simulated. Two workers count two partitions each. They are the program's own workers,
with their stores and their choice of where to start; only the records come from this module in
place of Kafka's client. Two of the zones set their clocks back in these weeks. Around each midnight
events arrive late, ahead of time and repeatedly; workers end at midnight, some after they have
finished their batches, some in the middle of them.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, date, datetime
from typing import Any, NamedTuple

import pytest

from store.catalog_document import CatalogDocument, OutcomeTypeItem
from store.postgres.catalog import import_catalog
from store.postgres.history import PostgresHistory
from store.postgres.pool import make_pool
from store.records import GROUPINGS, CounterPage, Event, Incomplete, Question, Unchanged
from store.redis.client import make_client
from store.redis.counters import RedisCounters
from store.settings import Settings
from store.windows import (
    DAY_MS,
    PERIODS,
    Calendar,
    Period,
    Window,
    date_of,
    exact_window,
    window_of,
)
from streams.kafka.consumer import Batch
from streams.worker import Worker
from tests.support.events import encode, make_event
from tests.support.oracle import groups_of, page_of
from tests.support.waiting import eventually_async

ZONES = {"york": "America/New_York", "berlin": "Europe/Berlin", "kolkata": "Asia/Kolkata"}
FIRST_DAY = (date(2026, 10, 12) - date(1970, 1, 1)).days
DAYS = 40
#: Berlin's clock goes back on 25 October, New York's on 1 November.
CLOCK_CHANGES = range(FIRST_DAY + 12, FIRST_DAY + 22)
EVENTS_A_STEP = 12
PARTITIONS_OF = ((0, 1), (2, 3))
MINUTE_MS = 60_000
OWN_TYPE = "saved_for_later"
OUTCOMES = ("impression",) * 6 + ("click", "click", "dismiss", "accept", "convert", OWN_TYPE)


class Record(NamedTuple):
    """The fields of a fetched record that the worker uses."""

    offset: int
    key: bytes
    value: bytes
    headers: tuple[()]
    timestamp: int
    timestamp_type: int = 0


class Moment(NamedTuple):
    at_ms: int
    midnight_of: str | None = None
    """The tenant whose day starts at this moment."""


def moments(start_ms: int) -> Iterator[Moment]:
    """Yield moments of one day (24 hours of UTC), in order.

    They are before, at and after each tenant's midnight, and four times in between.
    """
    found = [Moment(start_ms + hour * 60 * MINUTE_MS) for hour in (3, 9, 15, 21)]
    for tenant, zone in ZONES.items():
        calendar = Calendar(zone)
        midnight_ms = calendar.midnight_ms(calendar.day_of(start_ms) + 1)
        found.append(Moment(midnight_ms - 2 * MINUTE_MS))
        found.append(Moment(midnight_ms, tenant))
        found.append(Moment(midnight_ms + MINUTE_MS))
    yield from sorted(found)


class Traffic:
    """Log of four partitions, and the events in it that must be counted."""

    def __init__(self, seed: int) -> None:
        self._draw = random.Random(seed)
        self.log: list[list[Record]] = [[] for _ in range(4)]
        self.events: dict[str, list[Event]] = {tenant: [] for tenant in ZONES}
        self._sent: list[tuple[int, bytes]] = []

    def produce(self, now_ms: int, count: int) -> None:
        for _ in range(count):
            event = self._event(now_ms)
            self.events[event.tenant].append(event)
            value = encode(event)
            self._append(now_ms, event.customer.encode(), value)
            self._sent.append((now_ms, value))
        # A producer without a response repeats a record, perhaps to another partition.
        self._sent = [(at_ms, value) for at_ms, value in self._sent if now_ms - at_ms < DAY_MS]
        if self._sent and self._draw.random() < 0.5:
            _, value = self._draw.choice(self._sent)
            self._append(now_ms, b"again", value)

    def _append(self, now_ms: int, key: bytes, value: bytes) -> None:
        records = self.log[self._draw.randrange(4)]
        records.append(Record(len(records), key, value, (), now_ms))

    def _event(self, now_ms: int) -> Event:
        draw = self._draw
        late = draw.random()
        if late < 0.1:
            occurred_ms = now_ms - draw.randrange(45 * DAY_MS)
        elif late < 0.3:
            occurred_ms = now_ms + draw.randrange(5 * MINUTE_MS + 1)
        else:
            occurred_ms = now_ms - draw.randrange(2 * MINUTE_MS)
        offer = draw.randrange(8)
        return make_event(
            tenant=draw.choice(tuple(ZONES)),
            # Some customers have events on one day only, others for longer than a month.
            customer=f"C-{draw.randrange(6)}" if draw.random() < 0.5 else f"D-{now_ms // DAY_MS}",
            offer=f"off_{offer}",
            creative=None if draw.random() < 0.1 else f"cr_{offer % 3}",
            channel=None if draw.random() < 0.1 else f"ch_{draw.randrange(3)}",
            outcome=draw.choice(OUTCOMES),
            occurred_ms=occurred_ms,
        )


class UntruncatedLog:
    """Stand-in for the consumer: the simulated log, which still has all its records."""

    async def earliest(self, partitions: int) -> dict[int, int]:
        return dict.fromkeys(range(partitions), 0)


class SimulatedWorker(Worker):
    """The program's own worker, without a Kafka consumer."""

    def consumer(self) -> Any:
        return UntruncatedLog()


class WorkerRun:
    """One worker, from its start to its end, with the partitions of `traffic` that it reads."""

    def __init__(
        self, settings: Settings, traffic: Traffic, partitions: Sequence[int], clock: Clock
    ) -> None:
        self._traffic, self._partitions = traffic, partitions
        self._worker = SimulatedWorker(settings, clock_ms=lambda: clock.now_ms)
        self._submitted: dict[int, int] = {}

    async def start(self) -> None:
        worker = self._worker
        worker.build()
        await worker.stores.pool.open()
        self._history = asyncio.create_task(worker.history.run())
        self._submitted = dict(await worker.find_start(self._partitions))

    async def read(self, batch_records: int) -> None:
        """Submit the rest of the log in batches, which the worker processes meanwhile."""
        for partition in self._partitions:
            records = self._traffic.log[partition]
            while (base := self._submitted[partition]) < len(records):
                batch = records[base : base + batch_records]
                self._submitted[partition] = base + len(batch)
                self._worker.submit(Batch(partition, base, batch, len(records), 0), lambda: None)

    async def roll(self) -> None:
        await self._worker.rollover.roll_tenants()

    async def finish(self) -> None:
        """Return when both stores have all submitted records."""

        async def all_done() -> bool:
            self.check()
            positions = self._worker.pipeline.positions
            return all(positions[p] >= self._submitted[p] for p in self._partitions)

        await eventually_async(all_done, message="the batches are counted")
        await self._worker.history.drain()
        self.check()

    def check(self) -> None:
        failed = self._worker.rewinder.failed
        assert not failed.done(), failed.result()
        assert not self._history.done()

    async def end(self) -> None:
        """End the worker at once. Batches that it has not committed are read again later."""
        self.check()
        await self._worker.pipeline.abandon()
        self._history.cancel()
        await asyncio.gather(self._history, return_exceptions=True)
        await self._worker.stores.close()


class Clock:
    now_ms = FIRST_DAY * DAY_MS


class Simulation:
    def __init__(self, settings: Settings, seed: int) -> None:
        self._settings = settings
        self._draw = random.Random(seed)
        self.clock = Clock()
        self.traffic = Traffic(seed)
        self.runs: list[WorkerRun] = []
        self.restarts = 0

    async def open(self, stack: AsyncExitStack) -> None:
        settings = self._settings
        client: Any = make_client(settings, timeout_s=10, retries=0)
        stack.push_async_callback(client.aclose)
        self.counters = RedisCounters(client, settings.redis_prefix)
        self._pool = await stack.enter_async_context(make_pool(settings, max_size=2))
        self.history = PostgresHistory(self._pool)
        for tenant, zone in ZONES.items():
            own = OutcomeTypeItem(OWN_TYPE, "positive")
            document = CatalogDocument(tenant=tenant, timezone=zone, outcome_types=[own])
            await import_catalog(self._pool, document)
        stack.push_async_callback(self.end)
        await self.start()

    async def start(self) -> None:
        for partitions in PARTITIONS_OF:
            self.runs.append(WorkerRun(self._settings, self.traffic, partitions, self.clock))
            await self.runs[-1].start()

    async def end(self) -> None:
        for run in self.runs:
            await run.end()
        self.runs.clear()

    async def day(self, day: int) -> None:
        for moment in moments(day * DAY_MS):
            self.clock.now_ms = moment.at_ms
            self.traffic.produce(moment.at_ms, EVENTS_A_STEP)
            if moment.midnight_of is not None:
                await self._at_midnight()
            # At midnight an event or the roll may come first.
            works = [run.read(self._draw.choice((3, 7, 50))) for run in self.runs]
            works.append(self._draw.choice(self.runs).roll())
            self._draw.shuffle(works)
            await asyncio.gather(*works)
            if moment.midnight_of is not None:
                await self.finish()
                await self.check(moment.midnight_of)
        await self.finish()
        await self.check(self._draw.choice(tuple(ZONES)))

    async def day_without_workers(self, day: int) -> None:
        for moment in moments(day * DAY_MS):
            self.clock.now_ms = moment.at_ms
            self.traffic.produce(moment.at_ms, EVENTS_A_STEP)

    async def _at_midnight(self) -> None:
        """Replace one of the two workers, or none; sometimes in the middle of its batches."""
        index = self._draw.randrange(3)
        if index == 2:
            return
        ending = self.runs[index]
        await ending.read(self._draw.choice((1, 5, 50)))
        if self._draw.random() < 0.3:
            await ending.finish()
        for _ in range(self._draw.randrange(30)):
            await asyncio.sleep(0)
        await ending.end()
        self.runs[index] = WorkerRun(self._settings, self.traffic, PARTITIONS_OF[index], self.clock)
        await self.runs[index].start()
        self.restarts += 1

    async def finish(self) -> None:
        for run in self.runs:
            await run.read(50)
            await run.finish()
        await self._draw.choice(self.runs).roll()

    async def read_today(self, tenant: str) -> CounterPage | Incomplete:
        """Ask the counters for today."""
        zone = ZONES[tenant]
        today = Calendar(zone).day_of(self.clock.now_ms)
        found = await self.counters.read(
            Question(tenant, "action", "daily", window_of("daily", today), today, zone, 10, 0)
        )
        assert not isinstance(found, Unchanged)  # no version was given
        return found

    async def check(self, tenant: str) -> None:
        """Compare the three for every grouping and period, and for two exact windows."""
        zone = ZONES[tenant]
        calendar = Calendar(zone)
        today = calendar.day_of(self.clock.now_ms)
        events = self.traffic.events[tenant]
        days = self._draw.sample([n for n in range(2, 31) if n != 7], 2)
        windows: list[tuple[Period | None, Window]]
        windows = [(period, window_of(period, today)) for period in PERIODS]
        windows += [(None, exact_window(n, today)) for n in days]
        for period, window in windows:
            inside = [e for e in events if calendar.day_of(e.occurred_ms) in window]
            for group_by in GROUPINGS:
                asked = Question(tenant, group_by, period, window, today, zone, 500, 0)
                expected = page_of(groups_of(inside, group_by, window, calendar), 500, 0)
                counted = await self.counters.read(asked)
                assert isinstance(counted, CounterPage), (counted, asked)
                assert counted.page == expected, (date_of(today), asked)
                assert await self.history.read(asked) == expected, (date_of(today), asked)


@pytest.mark.parametrize(
    "span",
    [
        pytest.param(CLOCK_CHANGES, id="the ten days around the clock changes"),
        pytest.param(
            range(FIRST_DAY, FIRST_DAY + DAYS), id="all forty days", marks=pytest.mark.long
        ),
    ],
)
def test_counters_history_and_a_plain_count_agree_on_each_day(
    settings: Settings, span: range
) -> None:
    async def run() -> None:
        async with AsyncExitStack() as stack:
            simulation = Simulation(settings, seed=1)
            simulation.clock.now_ms = span.start * DAY_MS
            await simulation.open(stack)
            for day in span:
                await simulation.day(day)
            assert simulation.restarts >= len(span)
            assert all(
                len(events) > 30 * len(span) for events in simulation.traffic.events.values()
            )

    asyncio.run(run())


@pytest.mark.parametrize("back_before", ZONES)
def test_workers_that_were_stopped_for_three_days_count_and_roll_all_of_them(
    settings: Settings, back_before: str
) -> None:
    """Start the workers again a minute before a midnight.

    Their first events are of days that the windows do not have yet: the three that they missed, and
    the one that is about to start.
    """

    async def run() -> None:
        async with AsyncExitStack() as stack:
            simulation = Simulation(settings, seed=2)
            await simulation.open(stack)
            for day in range(FIRST_DAY, FIRST_DAY + 2):
                await simulation.day(day)
            await simulation.end()
            for day in range(FIRST_DAY + 2, FIRST_DAY + 5):
                await simulation.day_without_workers(day)
            assert await simulation.read_today(back_before) == Incomplete("other_day")

            calendar = Calendar(ZONES[back_before])
            today = calendar.day_of(simulation.clock.now_ms)
            simulation.clock.now_ms = calendar.midnight_ms(today + 1) - MINUTE_MS
            simulation.traffic.produce(simulation.clock.now_ms, 5 * EVENTS_A_STEP)
            await simulation.start()
            for run in simulation.runs:
                await run.read(50)
                await run.finish()
            await simulation.finish()
            for tenant in ZONES:
                await simulation.check(tenant)
            for day in (FIRST_DAY + 6, FIRST_DAY + 12, FIRST_DAY + 38):
                await simulation.day(day)

    asyncio.run(run())


@pytest.mark.parametrize("span", [CLOCK_CHANGES, range(FIRST_DAY, FIRST_DAY + DAYS)])
def test_the_clocks_change_in_these_days(span: range) -> None:
    """Otherwise the simulation would test less than it says."""
    hours = {
        tenant: {
            (calendar.midnight_ms(day + 1) - calendar.midnight_ms(day)) / (60 * MINUTE_MS)
            for day in span
        }
        for tenant, calendar in ((t, Calendar(zone)) for t, zone in ZONES.items())
    }
    assert hours == {"york": {24, 25}, "berlin": {24, 25}, "kolkata": {24}}
    assert datetime.fromtimestamp(FIRST_DAY * 86_400, UTC).date() == date(2026, 10, 12)
