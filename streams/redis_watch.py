"""Settings and memory of Redis, looked at while a worker runs; evicted counters are marked."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import Final

from store import metrics
from store.logs import get_logger
from store.redis.evictions import RedisEvictions
from store.redis.health import RedisHealth

logger = get_logger("redis")

#: Share of `maxmemory` above which a line is logged.
USED_RATIO_MAX: Final = 0.9


class RedisWatch:
    """Watch of Redis. Every worker may run it: a mark is safe to repeat."""

    def __init__(
        self,
        evictions: RedisEvictions,
        *,
        tenants_of: Collection[Callable[[], Awaitable[Collection[str]]]],
        now_ms: Callable[[], int],
    ) -> None:
        """`tenants_of`: lists of tenants. Each may lack some, as a list in Redis may be evicted."""
        self._evictions = evictions
        self._tenants_of = tenants_of
        self._now_ms = now_ms
        self._logged: set[str] = set()

    async def check(self) -> None:
        """Look at Redis once; call this every few seconds. Raises StoreUnavailable."""
        health = await self._evictions.health()
        metrics.REDIS_EVICTS.set(health.evicts_counters)
        metrics.REDIS_EVICTED_KEYS.set(_or_unknown(health.evicted_keys))
        metrics.REDIS_USED_RATIO.set(health.used_ratio or 0)
        metrics.REDIS_UNSAVED_SECONDS.set(_or_unknown(health.unsaved_s))
        self._log(health)
        if await self._evictions.unmarked(health):
            tenants = {tenant for names in self._tenants_of for tenant in await names()}
            if marked := await self._evictions.mark(sorted(tenants), self._now_ms()):
                logger.error(
                    "Redis may have evicted counters; history answers until they are rebuilt",
                    generations=marked,
                    evicted_keys=health.evicted_keys,
                    policy=health.policy,
                )
        await self._evictions.record(health)

    def _log(self, health: RedisHealth) -> None:
        """Log what is wrong, once until it is right again."""
        if self._is_new("evicts", health.evicts_counters):
            logger.error(
                "Redis may evict counters, so history answers; set maxmemory-policy to noeviction",
                policy=health.policy,
            )
        if self._is_new("full", (health.used_ratio or 0) >= USED_RATIO_MAX):
            logger.warning(
                "Redis is nearly full; when it is full, counting waits; raise maxmemory",
                used_bytes=health.used_bytes,
                max_bytes=health.max_bytes,
            )

    def _is_new(self, kind: str, wrong: bool) -> bool:
        is_new = wrong and kind not in self._logged
        (self._logged.add if wrong else self._logged.discard)(kind)
        return is_new


def _or_unknown(value: int | None) -> int:
    return -1 if value is None else value
