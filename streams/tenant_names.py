"""Names of all tenants, asked for several times a second."""

from __future__ import annotations

from collections.abc import Callable, Set
from typing import Final

from store.redis.counters import RedisCounters

#: Longest time, in ms, for which a name that took the place of another one may be missing.
NAMES_OLD_MS: Final = 5_000


class TenantNames:
    """Names of the tenants that have counters. Reads all only if their number has changed.

    For one event loop.
    """

    def __init__(self, counters: RedisCounters, *, now_ms: Callable[[], int]) -> None:
        self._counters = counters
        self._now_ms = now_ms
        self._names: Set[str] = frozenset()
        self._read_ms = 0

    async def get(self) -> Set[str]:
        """Return the names, at most NAMES_OLD_MS old. Raises StoreUnavailable."""
        count = await self._counters.tenant_count()
        age_ms = self._now_ms() - self._read_ms
        if count != len(self._names) or not 0 <= age_ms < NAMES_OLD_MS:
            await self.read()
        return self._names

    async def read(self) -> Set[str]:
        """Return the names as they are now. Raises StoreUnavailable."""
        self._read_ms = self._now_ms()
        self._names = frozenset(await self._counters.tenants())
        return self._names
