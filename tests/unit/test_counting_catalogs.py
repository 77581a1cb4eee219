"""Catalogs for counting: known tenants never wait, and all changes are learnt by one query.

The test sets the time, and decides when the source answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

import pytest

from store.records import CountingRules, StoreUnavailable
from streams.counting_catalogs import LOAD_TENANTS_MAX, RETRY_S, CountingCatalogs

TYPES = frozenset({"click"})


class Source:
    """Catalogs by tenant; fails while `away`."""

    def __init__(self) -> None:
        self.stamp_of: dict[str, str] = {}
        self.types = TYPES
        self.away = False
        self.asked: list[tuple[str, int]] = []
        """(query, number of tenants)"""
        self.now_s = 1_000.0

    async def load(self, tenants: Sequence[str]) -> Mapping[str, CountingRules]:
        await asyncio.sleep(0)
        self._ask("load", tenants)
        return {t: CountingRules(t, "UTC", self.types, self.stamp_of.get(t, "")) for t in tenants}

    async def stamps(self, tenants: Sequence[str]) -> Mapping[str, str]:
        self._ask("stamps", tenants)
        return {t: self.stamp_of[t] for t in tenants if t in self.stamp_of}

    def _ask(self, query: str, tenants: Sequence[str]) -> None:
        self.asked.append((query, len(tenants)))
        if self.away:
            raise StoreUnavailable("Postgres: away")

    def monotonic(self) -> float:
        return self.now_s


class Copies:
    """Copies that outlive a process."""

    def __init__(self) -> None:
        self.kept: dict[str, CountingRules] = {}

    async def read(self, tenants: Sequence[str]) -> Mapping[str, CountingRules]:
        return {t: self.kept[t] for t in tenants if t in self.kept}

    async def write(self, rules: Iterable[CountingRules]) -> None:
        self.kept |= {each.tenant: each for each in rules}


Body = Callable[[Source, Copies, CountingCatalogs], Awaitable[None]]


def check(body: Body, *, tenants_max: int = 20_000) -> None:
    async def go() -> None:
        source, copies = Source(), Copies()
        catalogs = CountingCatalogs(
            source, copies, monotonic=source.monotonic, tenants_max=tenants_max
        )
        await body(source, copies, catalogs)

    asyncio.run(go())


def test_a_thousand_tenants_cost_one_query_per_refresh() -> None:
    async def body(source: Source, copies: Copies, catalogs: CountingCatalogs) -> None:
        names = [f"t{n}" for n in range(1_000)]
        await catalogs.rules(names)
        assert source.asked == [("load", LOAD_TENANTS_MAX)] * 2
        source.asked.clear()
        source.now_s += 60
        await catalogs.rules(names)
        await catalogs.refresh()
        assert source.asked == [("stamps", 1_000)]
        source.stamp_of["t7"] = "1"
        await catalogs.refresh()
        assert source.asked[1:] == [("stamps", 1_000), ("load", 1)]
        assert (await catalogs.rules(["t7"]))["t7"].registered

    check(body)


def test_known_tenants_do_not_ask_a_source_that_is_away() -> None:
    async def body(source: Source, copies: Copies, catalogs: CountingCatalogs) -> None:
        names = [f"t{n}" for n in range(200)]
        await catalogs.rules(names)
        source.away, source.now_s = True, source.now_s + 60
        source.asked.clear()
        assert set(await catalogs.rules(names)) == set(names)
        assert source.asked == []
        with pytest.raises(StoreUnavailable):
            await catalogs.refresh()
        assert set(await catalogs.rules(names)) == set(names)

    check(body)


def test_a_worker_that_starts_without_the_source_uses_copies_until_it_is_back() -> None:
    async def body(source: Source, copies: Copies, catalogs: CountingCatalogs) -> None:
        source.stamp_of["a"] = "1"
        await catalogs.rules(["a", "b", "c"])
        await catalogs.keep_copies(["a", "b"])
        started = CountingCatalogs(source, copies, monotonic=source.monotonic)
        source.away, source.types = True, TYPES | {"later"}
        assert (await started.rules(["a", "b"]))["a"].outcome_types == TYPES
        with pytest.raises(StoreUnavailable, match=r"away; new tenants .* wait for it: c$"):
            await started.rules(["a", "c"])
        source.away = False
        await started.refresh()
        assert (await started.rules(["a"]))["a"].outcome_types == TYPES | {"later"}
        assert set(await started.rules(["c"])) == {"c"}

    check(body)


def test_many_new_tenants_ask_a_source_that_is_away_once_per_retry() -> None:
    async def body(source: Source, copies: Copies, catalogs: CountingCatalogs) -> None:
        copies.kept = {f"t{n}": CountingRules(f"t{n}", "UTC", TYPES) for n in range(50)}
        source.away = True
        for n in range(50):
            await catalogs.rules([f"t{n}"])
        assert source.asked == [("load", 1)]

    check(body)


def test_a_type_that_is_not_known_is_asked_for_once_per_retry() -> None:
    async def body(source: Source, copies: Copies, catalogs: CountingCatalogs) -> None:
        await catalogs.rules(["a"])
        source.types, source.asked = TYPES | {"new"}, []
        assert "new" in (await catalogs.fresh_rules(["a"]))["a"].outcome_types
        source.types |= {"newer"}
        assert "newer" not in (await catalogs.fresh_rules(["a"]))["a"].outcome_types
        source.now_s += RETRY_S
        assert "newer" in (await catalogs.fresh_rules(["a"]))["a"].outcome_types
        assert source.asked == [("load", 1)] * 2
        source.away, source.now_s = True, source.now_s + RETRY_S
        assert "newer" in (await catalogs.fresh_rules(["a"]))["a"].outcome_types

    check(body)


def test_partitions_that_meet_a_new_type_at_the_same_time_share_one_load() -> None:
    """Else its events would be rejected in all partitions but the first."""

    async def body(source: Source, copies: Copies, catalogs: CountingCatalogs) -> None:
        await catalogs.rules(["a", "b"])
        source.types, source.asked = TYPES | {"new"}, []
        found = await asyncio.gather(*(catalogs.fresh_rules(["a"]) for _ in range(4)))
        assert all("new" in rules["a"].outcome_types for rules in found)
        assert source.asked == [("load", 1)]
        source.away, source.now_s = True, source.now_s + RETRY_S
        await asyncio.gather(*(catalogs.fresh_rules([tenant]) for tenant in "abab"))
        assert source.asked == [("load", 1)] * 2, "one attempt while the source is away"

    check(body)


def test_confirmed_rules_are_never_old_ones() -> None:
    """A tenant that is not registered may be by now, so it must not be judged by what is known."""

    async def body(source: Source, copies: Copies, catalogs: CountingCatalogs) -> None:
        await catalogs.rules(["a"])
        source.stamp_of["a"] = "1"
        assert not (await catalogs.confirmed_rules(["a"]))["a"].registered, "loaded a moment ago"
        source.now_s += RETRY_S
        source.away = True
        for _ in range(2):
            with pytest.raises(StoreUnavailable):
                await catalogs.confirmed_rules(["a"])
        assert not (await catalogs.rules(["a"]))["a"].registered
        source.away = False
        assert (await catalogs.confirmed_rules(["a"]))["a"].registered

    check(body)


def test_a_refresh_confirms_what_has_not_changed() -> None:
    async def body(source: Source, copies: Copies, catalogs: CountingCatalogs) -> None:
        await catalogs.rules(["a"])
        source.now_s += 60
        await catalogs.refresh()
        source.asked.clear()
        await catalogs.confirmed_rules(["a"])
        assert source.asked == []

    check(body)


def test_a_removed_tenant_has_no_copy_again() -> None:
    """The removal deletes the copy; the worker learns of it by its next refresh."""

    async def body(source: Source, copies: Copies, catalogs: CountingCatalogs) -> None:
        source.stamp_of |= {"a": "1", "b": "1"}
        await catalogs.rules(["a", "b"])
        await catalogs.keep_copies(["a", "b"])
        source.stamp_of = {"b": "2"}
        del copies.kept["a"]
        await catalogs.refresh()
        assert copies.kept == {"b": CountingRules("b", "UTC", TYPES, "2")}
        assert not (await catalogs.rules(["a"]))["a"].registered

    check(body)


def test_the_number_of_known_tenants_is_bounded() -> None:
    async def body(source: Source, copies: Copies, catalogs: CountingCatalogs) -> None:
        found = await catalogs.rules([f"t{n}" for n in range(30)])
        assert len(found) == 30
        await catalogs.refresh()
        assert source.asked[-1] == ("stamps", 10)

    check(body, tenants_max=10)
