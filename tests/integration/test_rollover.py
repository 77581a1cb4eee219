"""Midnight with many tenants: none waits for another one to be rolled completely."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest

from store.counters import Generation, Refused, Rolled
from store.records import StoreUnavailable
from store.redis.counters import RedisCounters
from store.settings import Settings
from store.windows import DAY_MS
from streams import rollover
from streams.assignment import CurrentTopic
from streams.commit import CounterCommitter
from streams.rollover import ROLL_RECORDS, Rollover
from tests.support.contract import LOG, Writer
from tests.support.events import NOW_MS, TODAY, make_event, sourced
from tests.support.stores import Stores

pytestmark = pytest.mark.anyio
#: A week later the events of TODAY leave a window, so that each record of them is rolled.
WEEK_LATER_MS = NOW_MS + 7 * DAY_MS
SMALL = ("b", "c", "d", "e", "f", "g", "z")


class RollLog(RedisCounters):
    """Counters that note each step of a roll: the tenant, and how many records it rolled."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.steps: list[tuple[str, int]] = []
        self.on_step: Callable[[], None] = lambda: None

    async def roll(
        self, generation: Generation, target_day: int, *, now_ms: int, records_max: int
    ) -> Rolled | Refused:
        answer = await super().roll(generation, target_day, now_ms=now_ms, records_max=records_max)
        assert isinstance(answer, Rolled)
        assert answer.records <= ROLL_RECORDS
        self.steps.append((generation.tenant, answer.records))
        self.on_step()
        return answer

    def first_of(self, tenant: str) -> int:
        """Return the number of the first step that rolled records of the tenant."""
        return next(i for i, (of, records) in enumerate(self.steps) if of == tenant and records)

    def last_of(self, tenant: str) -> int:
        """Return the number of the last step that rolled records of the tenant."""
        return max(i for i, (of, records) in enumerate(self.steps) if of == tenant and records)


class Midnight:
    """Tenants that were counted a week ago, and workers that roll them."""

    def __init__(self, stores: Stores) -> None:
        self.stores = stores
        self.now_ms = NOW_MS

    async def count(self, tenant: str, customers: int) -> None:
        """Count an event of each of `customers` customers, which makes a record of each."""

        async def utc(_: str) -> str:
            return "UTC"

        committer = CounterCommitter(
            self.stores.counters, self.stores.history, now_ms=lambda: self.now_ms, timezone_of=utc
        )
        committer.start_session(LOG, {0: 0})
        events = sourced(*(make_event(tenant=tenant, customer=f"C-{i}") for i in range(customers)))
        await committer.commit(tenant, 0, events, len(events))

    def worker(self, name: str) -> tuple[RollLog, Rollover]:
        counters = RollLog(self.stores.client, "is")

        async def utc(_: str) -> str:
            return "UTC"

        committer = CounterCommitter(
            counters, self.stores.history, now_ms=lambda: self.now_ms, timezone_of=utc
        )
        topic = CurrentTopic(LOG, 1)
        return counters, Rollover(
            counters, committer, topic, now_ms=lambda: self.now_ms, worker=name
        )

    async def days(self, tenants: Sequence[str]) -> list[tuple[int, int | None]]:
        """Return the window day, and the day that is rolled, of each tenant."""
        found = [await self.stores.counters.generation(tenant) for tenant in tenants]
        return [(each.day, each.rolled) for each in found if each is not None]


@pytest.fixture
async def midnight(settings: Settings) -> AsyncIterator[Midnight]:
    async with Stores(settings) as stores:
        yield Midnight(stores)


async def test_no_tenant_waits_for_a_large_one_at_midnight(midnight: Midnight) -> None:
    """All window days move before the first record is rolled; then the tenants take turns."""
    await midnight.count("a", 3 * ROLL_RECORDS)
    for tenant in SMALL:
        await midnight.count(tenant, 3)
    midnight.now_ms = WEEK_LATER_MS
    counters, rolls = midnight.worker("w")
    await rolls.roll_tenants()
    moved = {tenant for tenant, _ in counters.steps[: 1 + len(SMALL)]}
    assert moved == {"a", *SMALL}, counters.steps
    assert all(records == 0 for _, records in counters.steps[: 1 + len(SMALL)])
    for tenant in SMALL:
        assert counters.last_of(tenant) < counters.last_of("a"), tenant
    today = TODAY + 7
    assert await midnight.days(["a", *SMALL]) == [(today, today)] * (1 + len(SMALL))


async def test_a_tenant_without_records_to_roll_takes_one_step(midnight: Midnight) -> None:
    """Its windows answer again at once, and not only after its turn."""
    await midnight.count("a", 3)
    midnight.now_ms = NOW_MS + DAY_MS
    counters, rolls = midnight.worker("w")
    await rolls.roll_tenants()
    assert counters.steps == [("a", 0)]
    assert await midnight.days(["a"]) == [(TODAY + 1, TODAY + 1)]


async def test_a_midnight_during_the_roll_of_another_tenant_is_not_missed(
    midnight: Midnight, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The roll of a large tenant takes minutes."""
    monkeypatch.setattr(rollover, "LOOK_S", 0.0)
    await midnight.count("a", 10 * ROLL_RECORDS)
    midnight.now_ms = WEEK_LATER_MS
    await midnight.count("late", 3)
    counters, rolls = midnight.worker("w")

    def next_midnight() -> None:
        if sum(records for _, records in counters.steps) >= ROLL_RECORDS:
            midnight.now_ms = WEEK_LATER_MS + DAY_MS

    counters.on_step = next_midnight
    await rolls.roll_tenants()
    moved = counters.steps.index(("late", 0))
    assert moved < counters.last_of("a")
    today = TODAY + 8
    assert await midnight.days(["a", "late"]) == [(today, today)] * 2


async def test_workers_begin_with_different_tenants(midnight: Midnight) -> None:
    """So they share the work: who comes first moves the day or rolls, the others find it done."""
    for tenant in SMALL:
        await midnight.count(tenant, 3)
    midnight.now_ms = WEEK_LATER_MS
    orders = []
    for name in ("worker-1", "worker-2"):
        assert rollover.turn_order(SMALL, name) == rollover.turn_order(SMALL, name)
        assert sorted(rollover.turn_order(SMALL, name)) == sorted(SMALL)
        counters, rolls = midnight.worker(name)
        orders.append(rollover.turn_order(SMALL, name))
        if name == "worker-1":
            await rolls.roll_tenants()
            assert [tenant for tenant, records in counters.steps if records] == orders[0]
        else:
            await rolls.roll_tenants()
            assert counters.steps == [], "all was done"
    assert orders[0] != orders[1]


async def test_all_shards_of_a_tenant_are_rolled(midnight: Midnight) -> None:
    """Those of one that is not rolled to the end are looked at again, though shard 0 is done."""
    counters = midnight.stores.counters
    await counters.create("acme", day=TODAY, timezone="UTC", complete=True, watermarks=[], shards=3)
    names = [each.tenant async for each in counters.active_generations(["acme"])]
    for name in names:
        shard = await counters.generation(name)
        assert shard is not None
        batch = [make_event(customer=f"{name}-{i}", identity=f"{name}-{i}") for i in range(60)]
        await Writer(counters, shard).commit(batch)
    midnight.now_ms = WEEK_LATER_MS
    log, roll = midnight.worker("one")

    def fail() -> None:
        if len(log.steps) == 5:
            raise StoreUnavailable("Redis is gone")

    log.on_step = fail
    with pytest.raises(StoreUnavailable):
        await roll.roll_tenants()
    log.on_step = lambda: None
    await roll.roll_tenants()
    states = [each async for each in counters.active_generations(["acme"])]
    assert {(each.day, each.rolled) for each in states} == {(TODAY + 7, TODAY + 7)}
    assert len(states) == 3
