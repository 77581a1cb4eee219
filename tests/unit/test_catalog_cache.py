"""The catalog cache: one load at a time, fresh enough, and usable while its source is unavailable.

The test sets the time, and decides when the source answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from store.catalog import RETRY_S, CatalogCache
from store.records import Catalog, StoreUnavailable


class Source:
    """Loads at once, unless `held`; fails while `away`."""

    def __init__(self) -> None:
        self.version = 1
        self.away = False
        self.loads: list[str] = []
        self.now_s = 1_000.0
        self.held: asyncio.Event | None = None
        """Loads wait for it, after they have read."""

    async def load(self, tenant: str) -> Catalog:
        self.loads.append(tenant)
        catalog = Catalog(tenant, version=self.version)
        if self.held is not None:
            await self.held.wait()
        if self.away:
            raise StoreUnavailable("Postgres: away")
        return catalog

    def monotonic(self) -> float:
        return self.now_s


Body = Callable[[Source, CatalogCache], Awaitable[None]]


def check(body: Body, *, tenants_max: int = 10_000) -> None:
    async def go() -> None:
        source = Source()
        cache = CatalogCache(
            source.load, refresh_s=5.0, monotonic=source.monotonic, tenants_max=tenants_max
        )
        await body(source, cache)

    asyncio.run(go())


async def settle() -> None:
    """Let every task run until it waits."""
    for _ in range(20):
        await asyncio.sleep(0)


def test_a_catalog_is_loaded_once_until_it_is_old() -> None:
    async def body(source: Source, cache: CatalogCache) -> None:
        first = await cache.get("a")
        source.version, source.now_s = 2, source.now_s + 4.9
        assert await cache.get("a") is first
        source.now_s += 0.1
        assert (await cache.get("a")).version == 2
        assert source.loads == ["a", "a"]

    check(body)


def test_many_askers_share_one_load() -> None:
    async def body(source: Source, cache: CatalogCache) -> None:
        source.held = asyncio.Event()
        asking = [asyncio.create_task(cache.get("a")) for _ in range(50)]
        other = asyncio.create_task(cache.get("b"))
        await settle()
        source.held.set()
        answers = await asyncio.gather(*asking)
        assert all(answer is answers[0] for answer in answers)
        assert (await other).tenant == "b"
        assert source.loads == ["a", "b"]

    check(body)


def test_an_asker_who_gives_up_does_not_take_the_load_from_the_others() -> None:
    async def body(source: Source, cache: CatalogCache) -> None:
        source.held = asyncio.Event()
        first, second = (asyncio.create_task(cache.get("a")) for _ in range(2))
        await settle()
        first.cancel()
        await settle()
        source.held.set()
        assert (await second).version == 1
        assert first.cancelled()
        assert source.loads == ["a"]

    check(body)


def test_a_version_not_seen_yet_is_loaded_at_once() -> None:
    async def body(source: Source, cache: CatalogCache) -> None:
        await cache.get("a")
        source.version = 2
        assert (await cache.get("a")).version == 1
        assert (await cache.get("a", at_least_version=2)).version == 2
        assert (await cache.get("a", at_least_version=1)).version == 2
        assert len(source.loads) == 2

    check(body)


def test_a_source_that_is_behind_is_not_hammered() -> None:
    """Load a version that the source lacks once per RETRY_S, and a later version at once."""

    async def body(source: Source, cache: CatalogCache) -> None:
        await cache.get("a")
        for _ in range(5):
            assert (await cache.get("a", at_least_version=7)).version == 1
        assert len(source.loads) == 2
        await cache.get("a", at_least_version=8)
        assert len(source.loads) == 3
        source.now_s, source.version = source.now_s + RETRY_S, 8
        assert (await cache.get("a", at_least_version=8)).version == 8
        assert len(source.loads) == 4

    check(body)


def test_a_load_that_began_before_the_version_was_asked_for_is_not_the_answer() -> None:
    async def body(source: Source, cache: CatalogCache) -> None:
        source.held = asyncio.Event()
        early = asyncio.create_task(cache.get("a"))
        await settle()
        source.version = 2
        late = asyncio.create_task(cache.get("a", at_least_version=2))
        await settle()
        source.held.set()
        assert ((await early).version, (await late).version) == (1, 2)

    check(body)


def test_the_old_catalog_is_served_while_the_source_is_away() -> None:
    async def body(source: Source, cache: CatalogCache) -> None:
        first = await cache.get("a")
        source.away, source.now_s = True, source.now_s + 60
        for _ in range(5):
            assert await cache.get("a") is first
            assert await cache.get("a", at_least_version=9) is first
        assert len(source.loads) == 2, "asked once, then not again for a while"
        source.now_s += RETRY_S
        assert await cache.get("a") is first
        assert len(source.loads) == 3
        source.away, source.now_s, source.version = False, source.now_s + RETRY_S, 2
        assert (await cache.get("a")).version == 2

    check(body)


def test_a_tenant_not_known_yet_is_unavailable_while_the_source_is_away() -> None:
    async def body(source: Source, cache: CatalogCache) -> None:
        source.away = True
        with pytest.raises(StoreUnavailable, match="away"):
            await cache.get("a")
        with pytest.raises(StoreUnavailable, match="away"):
            await cache.fresh("a")
        source.away = False
        assert (await cache.get("a")).version == 1

    check(body)


def test_a_slow_source_does_not_hold_up_who_has_a_catalog() -> None:
    """The first waits a moment, those after it not at all; what comes is kept for later."""

    async def body(source: Source, cache: CatalogCache) -> None:
        first = await cache.get("a")
        source.held, source.version = asyncio.Event(), 2
        source.now_s += 60
        assert await cache.get("a") is first
        source.now_s += 10
        assert await cache.get("a") is first
        assert len(source.loads) == 2
        source.held.set()
        await settle()
        source.now_s -= 10  # the load began then, and is still young
        assert (await cache.get("a")).version == 2
        assert len(source.loads) == 2

    check(body)


def test_fresh_loads_again_but_at_most_once_a_second() -> None:
    async def body(source: Source, cache: CatalogCache) -> None:
        await cache.get("a")
        source.version = 2
        assert (await cache.fresh("a")).version == 2
        source.version = 3
        assert (await cache.fresh("a")).version == 2
        source.now_s += RETRY_S
        assert (await cache.fresh("a")).version == 3
        assert (await cache.get("a")).version == 3
        assert len(source.loads) == 3

    check(body)


def test_fresh_does_not_take_a_load_that_began_before_it() -> None:
    async def body(source: Source, cache: CatalogCache) -> None:
        await cache.get("a")
        source.held, source.now_s = asyncio.Event(), source.now_s + 60
        early = asyncio.create_task(cache.get("a"))
        await settle()
        source.version = 2
        fresh = asyncio.create_task(cache.fresh("a"))
        await settle()
        source.held.set()
        assert ((await early).version, (await fresh).version) == (1, 2)

    check(body)


def test_fresh_waits_for_the_load_that_another_fresh_has_started() -> None:
    """Two partitions get events of a type that was registered a moment ago, at the same time."""

    async def body(source: Source, cache: CatalogCache) -> None:
        await cache.get("a")
        source.version, source.held = 2, asyncio.Event()
        first = asyncio.create_task(cache.fresh("a"))
        await settle()
        second = asyncio.create_task(cache.fresh("a"))
        await settle()
        source.held.set()
        assert ((await first).version, (await second).version) == (2, 2)
        assert source.loads == ["a", "a"]

    check(body)


def test_fresh_gives_the_catalog_in_hand_while_the_source_is_away() -> None:
    async def body(source: Source, cache: CatalogCache) -> None:
        first = await cache.get("a")
        source.away = True
        assert await cache.fresh("a") is first

    check(body)


def test_tenants_not_asked_for_longest_are_forgotten() -> None:
    async def body(source: Source, cache: CatalogCache) -> None:
        for tenant in ("a", "b", "a", "c"):
            await cache.get(tenant)
        assert source.loads == ["a", "b", "c"]
        await cache.get("a")
        assert source.loads == ["a", "b", "c"], "b went, not a"
        await cache.get("b")
        assert source.loads == ["a", "b", "c", "b"]

    check(body, tenants_max=2)
