"""What counting needs of the tenants' catalogs, for thousands of tenants.

Counting never waits for the catalog of a tenant that is known. `refresh` learns of all changes by
one query. A tenant that is not known yet is loaded, together with the others of its commit
batch. While the source is unavailable, the copies that workers keep beside the counters are used.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from store.postgres.catalog import load_rules, load_stamps
from store.postgres.pool import Pool, bounded
from store.records import CountingRules, StoreUnavailable

#: Minimum time between two loads of a catalog that lacks a type, and between attempts to reach an
#: unavailable source.
RETRY_S: Final = 1.0
#: How long counting waits for the source where it can do without.
SOURCE_WAIT_S: Final = 1.0
#: Bound of a load that nothing can take the place of. The largest takes a tenth of it.
LOAD_TIMEOUT_S: Final = 15.0
#: Tenants of one load.
LOAD_TENANTS_MAX: Final = 500
#: Tenants that an error names.
NAMED_MAX: Final = 5


class CatalogSource(Protocol):
    """Where catalogs are registered. Every method raises StoreUnavailable."""

    async def load(self, tenants: Sequence[str]) -> Mapping[str, CountingRules]:
        """Return the rules of every given tenant, also of those without a catalog."""
        ...

    async def stamps(self, tenants: Sequence[str]) -> Mapping[str, str]:
        """Return tenant -> stamp, of those that have a catalog; see `CountingRules.stamp`."""
        ...


class CatalogCopies(Protocol):
    """Copies beside the counters. Every method raises StoreUnavailable."""

    async def read(self, tenants: Sequence[str]) -> Mapping[str, CountingRules]:
        """Return the copies that exist."""
        ...

    async def write(self, rules: Iterable[CountingRules]) -> None:
        """Write copies, replacing earlier ones."""
        ...


class NoCopies:
    """No copies: for programs that need the source anyway."""

    async def read(self, tenants: Sequence[str]) -> Mapping[str, CountingRules]:
        """Return nothing."""
        return {}

    async def write(self, rules: Iterable[CountingRules]) -> None:
        """Do nothing."""


@dataclass(slots=True)
class _Entry:
    rules: CountingRules
    loaded_s: float
    """Start of the load; minus infinity = a copy, or known to be old."""
    has_copy: bool = False


class CountingCatalogs:
    """Rules of the tenants that were met, the newest `tenants_max`. For one event loop."""

    def __init__(
        self,
        source: CatalogSource,
        copies: CatalogCopies,
        *,
        monotonic: Callable[[], float],
        tenants_max: int = 20_000,
    ) -> None:
        self._source = source
        self._copies = copies
        self._monotonic = monotonic
        self._tenants_max = tenants_max
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._all_checked_s = -math.inf
        """Start of the last refresh: what was loaded before it and not old then, is as of then."""
        self._forced_s: dict[str, float] = {}
        self._forcing = asyncio.Lock()
        self._unavailable_until_s = -math.inf

    async def rules(self, tenants: Collection[str]) -> dict[str, CountingRules]:
        """Return the rules of each tenant as they are known. Raises StoreUnavailable.

        It is raised if the source is unavailable and a tenant is neither known nor has a copy.
        """
        found = {t: self._entries[t].rules for t in tenants if t in self._entries}
        if missing := [tenant for tenant in tenants if tenant not in found]:
            found |= await self._load_or_copy(missing)
        return found

    async def fresh_rules(self, tenants: Collection[str]) -> dict[str, CountingRules]:
        """Return the current rules, loaded again at most once per RETRY_S for each tenant.

        Callers at the same time share a load. While the source is unavailable, the known rules
        are returned. Raises StoreUnavailable as `rules` does.
        """
        async with self._forcing:
            now_s = self._monotonic()
            due = [t for t in tenants if now_s - self._forced_s.get(t, -math.inf) >= RETRY_S]
            if due and now_s >= self._unavailable_until_s:
                self._forced_s = {t: at for t, at in self._forced_s.items() if now_s - at < RETRY_S}
                self._forced_s |= dict.fromkeys(due, now_s)
                try:
                    await self._load(due, SOURCE_WAIT_S)
                except StoreUnavailable:
                    self._unavailable_until_s = self._monotonic() + RETRY_S
        return await self.rules(tenants)

    async def confirmed_rules(self, tenants: Collection[str]) -> dict[str, CountingRules]:
        """Return the rules as the source had them at most RETRY_S ago.

        Raises StoreUnavailable while the source is unavailable, also for tenants that are known.
        """
        old = [t for t in tenants if self._monotonic() - self._checked_s(t) >= RETRY_S]
        loaded = await self._load(old, LOAD_TIMEOUT_S) if old else {}
        return {t: loaded.get(t) or self._entries[t].rules for t in tenants}

    async def keep_copies(self, tenants: Iterable[str]) -> None:
        """Write a copy of each tenant's rules, if there is none of this process yet.

        Only for tenants that have counters: others may be made up. An error is ignored: the copy
        serves only in an outage of another store.
        """
        entries = [e for t in tenants if (e := self._entries.get(t)) is not None and not e.has_copy]
        if entries:
            with contextlib.suppress(StoreUnavailable):
                await self._copies.write([e.rules for e in entries if e.loaded_s > -math.inf])
                for entry in entries:
                    entry.has_copy = True

    async def refresh(self) -> None:
        """Learn of all changes since the last call, by one query; load what has changed.

        Call this every few seconds. Raises StoreUnavailable.
        """
        began_s, tenants = self._monotonic(), list(self._entries)
        if not tenants:
            return
        stamps = await bounded(self._source.stamps(tenants), LOAD_TIMEOUT_S)
        self._unavailable_until_s = -math.inf
        changed = []
        for tenant in tenants:
            entry = self._entries.get(tenant)
            if entry is None or entry.loaded_s > began_s:
                continue
            if entry.loaded_s == -math.inf or entry.rules.stamp != stamps.get(tenant, ""):
                entry.loaded_s = -math.inf
                changed.append(tenant)
        self._all_checked_s = began_s
        for first in range(0, len(changed), LOAD_TENANTS_MAX):
            part = changed[first : first + LOAD_TENANTS_MAX]
            # A removal has deleted the copy, and the catalog with it.
            copied = [t for t in part if stamps.get(t) and self._has_copy(t)]
            await self._load(part, LOAD_TIMEOUT_S)
            await self.keep_copies(copied)

    async def _load_or_copy(self, tenants: Sequence[str]) -> dict[str, CountingRules]:
        if self._monotonic() >= self._unavailable_until_s:
            try:
                return await self._load(tenants, SOURCE_WAIT_S)
            except StoreUnavailable:
                self._unavailable_until_s = self._monotonic() + RETRY_S
        found = dict(await self._copies.read(tenants))
        for rules in found.values():
            self._keep(rules, -math.inf)
        if waiting := [tenant for tenant in tenants if tenant not in found]:
            try:
                found |= await self._load(waiting, LOAD_TIMEOUT_S)
            except StoreUnavailable as error:
                names = ", ".join(waiting[:NAMED_MAX])
                more = f" and {len(waiting) - NAMED_MAX} more" if len(waiting) > NAMED_MAX else ""
                raise StoreUnavailable(
                    f"{error}; new tenants whose catalog is not known wait for it: {names}{more}"
                ) from error
        return found

    async def _load(self, tenants: Sequence[str], timeout_s: float) -> dict[str, CountingRules]:
        loaded: dict[str, CountingRules] = {}
        for first in range(0, len(tenants), LOAD_TENANTS_MAX):
            began_s, part = self._monotonic(), tenants[first : first + LOAD_TENANTS_MAX]
            for rules in (await bounded(self._source.load(part), timeout_s)).values():
                loaded[rules.tenant] = rules
                self._keep(rules, began_s)
        return loaded

    def _keep(self, rules: CountingRules, loaded_s: float) -> None:
        self._entries[rules.tenant] = _Entry(rules, loaded_s)
        while len(self._entries) > self._tenants_max:
            self._entries.popitem(last=False)

    def _has_copy(self, tenant: str) -> bool:
        entry = self._entries.get(tenant)
        return entry is not None and entry.has_copy

    def _checked_s(self, tenant: str) -> float:
        """Return when the source had the tenant's rules as they are known."""
        entry = self._entries.get(tenant)
        if entry is None or entry.loaded_s == -math.inf:
            return -math.inf
        return max(entry.loaded_s, self._all_checked_s)


class PostgresCatalogs:
    """The catalogs in Postgres."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def load(self, tenants: Sequence[str]) -> Mapping[str, CountingRules]:
        """Return the rules of every given tenant."""
        return await load_rules(self._pool, tenants)

    async def stamps(self, tenants: Sequence[str]) -> Mapping[str, str]:
        """Return tenant -> stamp, of those that have a catalog."""
        return await load_stamps(self._pool, tenants)
