"""The catalogs of tenants, kept for a while, so that no request or event costs a query."""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from store.records import Catalog, StoreUnavailable

#: How often, at most, the source is asked again for what it did not have, or did not answer.
RETRY_S: Final = 1.0
#: Who has an older catalog in hand waits this long for the newer one: a slow source must not slow
#: down those who can do without.
PATIENCE_S: Final = 0.25


class _Entry(NamedTuple):
    catalog: Catalog
    checked_s: float
    """When the load began, or last failed: what was registered later may be missing."""
    asked: float
    """The version that was wanted then; infinite = the newest."""
    stale: bool = False
    """The load after it failed."""


class _Load(NamedTuple):
    task: asyncio.Task[Catalog]
    started_s: float
    asked: float


class CatalogCache:
    """Catalogs by tenant, loaded when asked for, one load of a tenant at a time.

    A catalog older than `refresh_s` is loaded again. While the source is away the old one is
    served; StoreUnavailable comes only to who asks for a tenant that is not here. At most
    `tenants_max` are kept, those asked for last. For one event loop."""

    def __init__(
        self,
        load: Callable[[str], Awaitable[Catalog]],
        *,
        refresh_s: float,
        monotonic: Callable[[], float],
        tenants_max: int = 10_000,
    ) -> None:
        self._load = load
        self._refresh_s = refresh_s
        self._monotonic = monotonic
        self._tenants_max = tenants_max
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._loads: dict[str, _Load] = {}
        self._forced_s: OrderedDict[str, float] = OrderedDict()

    async def get(self, tenant: str, *, at_least_version: int = 0) -> Catalog:
        """The tenant's catalog. One below `at_least_version` is loaded again, at once for a version
        not wanted before, else once in RETRY_S; what the source then has is accepted."""
        entry = self._entries.get(tenant)
        if entry is None:
            return await self._loaded(tenant, at_least_version)
        self._entries.move_to_end(tenant)
        if not self._is_due(entry, at_least_version):
            return entry.catalog
        return await self._renewed(tenant, entry, at_least_version, PATIENCE_S)

    async def fresh(self, tenant: str) -> Catalog:
        """The tenant's catalog as it is now: loaded again, but at most once in RETRY_S. With the
        source away, the one in hand."""
        now_s = self._monotonic()
        entry = self._entries.get(tenant)
        if entry is None:
            return await self._loaded(tenant, math.inf)
        if now_s - self._forced_s.get(tenant, -math.inf) < RETRY_S:
            return await self.get(tenant)
        self._forced_s[tenant] = now_s
        self._forced_s.move_to_end(tenant)
        while len(self._forced_s) > self._tenants_max:
            self._forced_s.popitem(last=False)
        return await self._renewed(tenant, entry, math.inf, None)

    def _is_due(self, entry: _Entry, version: int) -> bool:
        age_s = self._monotonic() - entry.checked_s
        if entry.stale:
            return age_s >= RETRY_S
        if entry.catalog.version < version:
            return entry.asked < version or age_s >= RETRY_S
        return age_s >= self._refresh_s

    async def _renewed(
        self, tenant: str, entry: _Entry, asked: float, patience_s: float | None
    ) -> Catalog:
        """A newer catalog than `entry`'s; its own when the source is away or too slow."""
        load = self._loads.get(tenant)
        if patience_s is not None and load is not None:
            patience_s -= self._monotonic() - load.started_s  # others have waited for it already
            if patience_s <= 0:
                return entry.catalog
        try:
            async with asyncio.timeout(patience_s):
                return await self._loaded(tenant, asked)
        except (StoreUnavailable, TimeoutError):
            return entry.catalog

    async def _loaded(self, tenant: str, asked: float) -> Catalog:
        """What a load brings that began no earlier than somebody wanted `asked`."""
        while (load := self._loads.get(tenant)) is not None and load.asked < asked:
            await asyncio.wait([load.task])  # it may have read before there was such a version
        if load is None:
            load = self._start_load(tenant, asked)
        # Shielded: who gives up waiting must not take the load from the others.
        return await asyncio.shield(load.task)

    def _start_load(self, tenant: str, asked: float) -> _Load:
        task = asyncio.create_task(self._load_and_keep(tenant, asked), name=f"catalog-{tenant}")
        load = self._loads[tenant] = _Load(task, self._monotonic(), asked)
        task.add_done_callback(_retrieved)
        return load

    async def _load_and_keep(self, tenant: str, asked: float) -> Catalog:
        began_s = self._monotonic()
        try:
            catalog = await self._load(tenant)
        except BaseException:
            if (entry := self._entries.get(tenant)) is not None:
                self._entries[tenant] = entry._replace(checked_s=self._monotonic(), stale=True)
            raise
        finally:
            del self._loads[tenant]
        self._entries[tenant] = _Entry(catalog, began_s, asked)
        self._entries.move_to_end(tenant)
        while len(self._entries) > self._tenants_max:
            self._entries.popitem(last=False)
        return catalog


def _retrieved(task: asyncio.Task[Catalog]) -> None:
    """Nobody may be left to see a failure; asyncio would complain about it."""
    if not task.cancelled():
        task.exception()
