"""Cache of the tenants' catalogs, so that no request or event costs a query."""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from store.records import Catalog, StoreUnavailable

#: Minimum time between two loads of a version that the source lacks, or after a failed load.
RETRY_S: Final = 1.0
#: How long a caller waits for a newer catalog if an older one is cached: a slow source must not
#: slow down callers that can use the cached one.
MAX_WAIT_S: Final = 0.25


class _Entry(NamedTuple):
    """A cached catalog."""

    catalog: Catalog
    checked_s: float
    """Start of the load, or last failure: later changes may be missing."""
    asked: float
    """The version that the load was started for; infinite = the newest."""
    stale: bool = False
    """Whether the load after this one failed."""


class _Load(NamedTuple):
    """A load in flight."""

    task: asyncio.Task[Catalog]
    started_s: float
    asked: float


class CatalogCache:
    """Cache of catalogs by tenant, loaded on demand, with one load per tenant at a time.

    A catalog older than `refresh_s` is loaded again. While the source is unavailable the old one
    is returned; StoreUnavailable is raised only for a tenant that is not cached. The cache keeps
    the `tenants_max` most recently used tenants. For one event loop.
    """

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
        """Return the tenant's catalog.

        A cached one below `at_least_version` is loaded again: at once for a version that was not
        requested before, else once per RETRY_S. The version that the source then has is accepted.
        """
        entry = self._entries.get(tenant)
        if entry is None:
            return await self._loaded(tenant, at_least_version)
        self._entries.move_to_end(tenant)
        if not self._is_due(entry, at_least_version):
            return entry.catalog
        return await self._renewed(tenant, entry, at_least_version, MAX_WAIT_S)

    async def fresh(self, tenant: str) -> Catalog:
        """Return the tenant's current catalog, loaded again at most once per RETRY_S.

        Callers at the same time share one load. If the source is unavailable, return the cached
        catalog.
        """
        now_s = self._monotonic()
        entry = self._entries.get(tenant)
        if entry is None:
            return await self._loaded(tenant, math.inf)
        if now_s - self._forced_s.get(tenant, -math.inf) < RETRY_S:
            load = self._loads.get(tenant)
            if load is None or load.asked < math.inf:
                return await self.get(tenant)
            # Else an event of a new type would be rejected in all partitions but the first.
            return await self._renewed(tenant, entry, math.inf, None)
        self._forced_s[tenant] = now_s
        self._forced_s.move_to_end(tenant)
        while len(self._forced_s) > self._tenants_max:
            self._forced_s.popitem(last=False)
        return await self._renewed(tenant, entry, math.inf, None)

    def close(self) -> None:
        """Cancel the loads in flight. One that waits for a frozen server takes 10 s to end."""
        for load in list(self._loads.values()):
            load.task.cancel()

    def _is_due(self, entry: _Entry, version: int) -> bool:
        age_s = self._monotonic() - entry.checked_s
        if entry.stale:
            return age_s >= RETRY_S
        if entry.catalog.version < version:
            return entry.asked < version or age_s >= RETRY_S
        return age_s >= self._refresh_s

    async def _renewed(
        self, tenant: str, entry: _Entry, asked: float, wait_s: float | None
    ) -> Catalog:
        """Return a newer catalog, or that of `entry` if the source is unavailable or slow."""
        load = self._loads.get(tenant)
        if wait_s is not None and load is not None:
            wait_s -= self._monotonic() - load.started_s  # time that the load has already taken
            if wait_s <= 0:
                return entry.catalog
        try:
            async with asyncio.timeout(wait_s):
                return await self._loaded(tenant, asked)
        except (StoreUnavailable, TimeoutError):
            return entry.catalog

    async def _loaded(self, tenant: str, asked: float) -> Catalog:
        """Return the result of a load that was started for version `asked` or later."""
        while (load := self._loads.get(tenant)) is not None and load.asked < asked:
            await asyncio.wait([load.task])  # it may have read before that version existed
        if load is None:
            load = self._start_load(tenant, asked)
        # Shielded: a caller that stops waiting must not cancel the load of the others.
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
        known = self._entries.get(tenant)
        if known is not None and known.catalog == catalog:
            catalog = known.catalog  # the same object: what was made of it is still right
        self._entries[tenant] = _Entry(catalog, began_s, asked)
        self._entries.move_to_end(tenant)
        while len(self._entries) > self._tenants_max:
            self._entries.popitem(last=False)
        return catalog


def _retrieved(task: asyncio.Task[Catalog]) -> None:
    """Retrieve a failure that no caller waits for, or asyncio would log it."""
    if not task.cancelled():
        task.exception()
