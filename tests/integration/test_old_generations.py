"""Old generations are dropped after some time, and never while they may be needed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from store.counters import GenerationState, Missing
from store.redis import old_generations
from store.settings import Settings
from store.windows import DAY_MS
from streams.old_generations import ABANDONED_MS, OldGenerations
from streams.rebuild.rebuilder import Rebuilder
from streams.rebuild.results import Failure
from tests.support.events import NOW_MS, TODAY
from tests.support.stores import Stores, some_events


class Cleaner:
    """The worker's part that drops old generations, with a clock of its own."""

    def __init__(self, stores: Stores, *, keep_h: int = 24) -> None:
        self.stores = stores
        self.now_ms = NOW_MS
        self._part = OldGenerations(stores.counters, keep_h=keep_h, now_ms=lambda: self.now_ms)

    async def after(self, ms: int) -> list[int]:
        """Run it `ms` after the start; return the numbers of the generations that are left."""
        self.now_ms = NOW_MS + ms
        await self._part.drop_old()
        return [state.number for state in await self.stores.counters.generations("acme")]

    async def keys(self, number: int) -> set[bytes]:
        found = self.stores.client.scan_iter(f"is:{{acme/0}}:{number}:*")
        return {key async for key in found}


def with_stores(redis_url: str, database_url: str, go: Callable[[Stores], Awaitable[None]]) -> None:
    """Run the scenario `go` on empty stores, with no Kafka."""

    async def run() -> None:
        settings = Settings(
            redis_url=redis_url, database_url=database_url, kafka_bootstrap_servers="127.0.0.1:1"
        )
        async with Stores(settings) as stores:
            await go(stores)

    asyncio.run(run())


async def rebuild_twice(stores: Stores) -> None:
    await stores.store(some_events(30), None)
    await stores.rebuild()
    await stores.rebuild()


def test_a_replaced_generation_is_dropped_after_its_time(redis_url: str, database_url: str) -> None:
    """A rollback to it then says so. The active one stays for ever."""

    async def go(stores: Stores) -> None:
        await rebuild_twice(stores)
        cleaner = Cleaner(stores)
        assert await cleaner.after(DAY_MS - 1) == [1, 2]
        assert await cleaner.after(DAY_MS) == [2]
        assert await cleaner.keys(1) == set()
        assert await cleaner.after(1_000 * DAY_MS) == [2]
        rebuilder = Rebuilder(stores.settings, stores.counters, stores.pool)
        (outcome,) = [each async for each in rebuilder.roll_back("acme")]
        assert isinstance(outcome, Failure)
        assert "generation 1, the one before the active one, is gone" in outcome.reason
        assert "GENERATION_KEEP_H (24)" in outcome.reason

    with_stores(redis_url, database_url, go)


def test_with_a_time_of_0_it_is_dropped_at_the_next_check(
    redis_url: str, database_url: str
) -> None:
    async def go(stores: Stores) -> None:
        await rebuild_twice(stores)
        assert await Cleaner(stores, keep_h=0).after(0) == [2]

    with_stores(redis_url, database_url, go)


def test_a_generation_replaced_by_a_rollback_has_its_own_time(
    redis_url: str, database_url: str
) -> None:
    async def go(stores: Stores) -> None:
        await rebuild_twice(stores)
        cleaner = Cleaner(stores)
        assert await stores.counters.rollback("acme", now_ms=NOW_MS + DAY_MS - 1) is not None
        assert await cleaner.after(DAY_MS) == [1, 2]
        assert await cleaner.after(2 * DAY_MS) == [1]

    with_stores(redis_url, database_url, go)


def test_a_generation_of_an_older_version_is_kept_from_the_first_check_on(
    redis_url: str, database_url: str
) -> None:
    """It has no time of replacement."""

    async def go(stores: Stores) -> None:
        await rebuild_twice(stores)
        await stores.client.hdel("is:{acme/0}:1:meta", "replaced_ms")
        cleaner = Cleaner(stores)
        assert await cleaner.after(7 * DAY_MS) == [1, 2]
        assert await cleaner.after(8 * DAY_MS - 1) == [1, 2]
        assert await cleaner.after(8 * DAY_MS) == [2]

    with_stores(redis_url, database_url, go)


def test_a_build_is_dropped_an_hour_after_its_lease_ended(
    redis_url: str, database_url: str
) -> None:
    """The lease belongs to the rebuild that runs; without one, the rebuild was killed."""

    async def go(stores: Stores) -> None:
        await stores.store(some_events(30), None)
        await stores.rebuild()
        await stores.counters.build("acme", day=TODAY, timezone="UTC", token="t", watermarks=[])
        cleaner, builds = Cleaner(stores), stores.counters.builds
        assert await cleaner.after(0) == [1, 2]
        assert await builds.take_lease("acme", "t", holder="me", lease_ms=60_000) is None
        assert await cleaner.after(ABANDONED_MS) == [1, 2]
        await builds.free_lease("acme", "t")
        assert await cleaner.after(ABANDONED_MS + 1) == [1, 2]
        assert await cleaner.after(2 * ABANDONED_MS) == [1, 2]
        assert await cleaner.after(2 * ABANDONED_MS + 1) == [1]
        assert await cleaner.keys(2) == set()

    with_stores(redis_url, database_url, go)


def test_what_is_half_deleted_cannot_be_activated_and_is_deleted_later(
    redis_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def go(stores: Stores) -> None:
        await rebuild_twice(stores)
        with monkeypatch.context() as patch:
            patch.setattr(old_generations, "DROP_KEYS", 3)
            (old,) = await stores.counters.expired(
                "acme", now_ms=NOW_MS + DAY_MS, keep_ms=DAY_MS, abandoned_ms=ABANDONED_MS
            )
            assert await stores.counters.drop_some(old), "some keys are left"
        assert await stores.counters.rollback("acme", now_ms=NOW_MS) is None
        cleaner = Cleaner(stores)
        assert await cleaner.keys(1)
        assert await cleaner.after(0) == [2]
        assert await cleaner.keys(1) == set()
        await assert_counts_of_history(stores)

    with_stores(redis_url, database_url, go)


async def assert_counts_of_history(stores: Stores) -> None:
    active = await stores.counters.generation("acme")
    assert active is not None
    assert active.complete
    assert await stores.counters.events(active) == 30


def test_the_states_of_all_generations(redis_url: str, database_url: str) -> None:
    async def go(stores: Stores) -> None:
        await rebuild_twice(stores)
        await stores.counters.build("acme", day=TODAY, timezone="UTC", token="t", watermarks=[])
        whole = Missing([], [], False)
        first, second, third = await stores.counters.generations("acme")
        assert first == GenerationState(1, False, False, True, whole, 30, NOW_MS, 30, "UTC")
        assert second == GenerationState(2, True, False, True, whole, 30, None, 30, "UTC")
        assert third[:4] == (3, False, True, False)
        assert await stores.counters.generations("nobody") == []
        assert await stores.counters.with_several(["acme", "nobody"]) == ["acme"]

    with_stores(redis_url, database_url, go)


def test_a_number_that_was_given_before_is_not_given_again(
    redis_url: str, database_url: str
) -> None:
    """Redis evicted the key of the last number. Generations with lower numbers stay as they are."""

    async def go() -> None:
        async with Stores(Settings(redis_url=redis_url, database_url=database_url)) as stores:
            await stores.store(some_events(3), None)
            for _ in range(2):
                await stores.rebuild()
            before = [g._replace(active=False) for g in await stores.counters.generations("acme")]
            await stores.client.rename("is:{acme/0}:1:meta", "is:{acme/0}:1:dropped")
            await stores.client.delete("is:{acme/0}:last")
            built = await stores.counters.build(
                "acme", day=TODAY, timezone="UTC", token="t", watermarks=[]
            )
            assert built.number == 3
            await stores.client.rename("is:{acme/0}:1:dropped", "is:{acme/0}:1:meta")
            found = await stores.counters.generations("acme")
            assert [g._replace(active=False) for g in found[:2]] == before

    asyncio.run(go())


def test_a_lease_that_has_ended_is_kept_again(redis_url: str, database_url: str) -> None:
    """Redis was away for longer than it lasts. The build that goes on is not abandoned."""

    async def go() -> None:
        async with Stores(Settings(redis_url=redis_url, database_url=database_url)) as stores:
            builds = stores.counters.builds
            assert await builds.take_lease("acme", "one", holder="us", lease_ms=60_000) is None
            await stores.client.delete("is:{acme/0}:rebuild")
            assert await builds.keep_lease("acme", "one", holder="us", lease_ms=60_000) is None
            held = await builds.take_lease("acme", "two", holder="them", lease_ms=60_000)
            assert held is not None
            assert held.holder == "us"
            await stores.client.delete("is:{acme/0}:rebuild")
            assert await builds.take_lease("acme", "two", holder="them", lease_ms=60_000) is None
            held = await builds.keep_lease("acme", "one", holder="us", lease_ms=60_000)
            assert held is not None
            assert held.holder == "them"

    asyncio.run(go())
