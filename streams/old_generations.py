"""Old generations: dropped some time after another one was activated in their place."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from store.counters import Generation
from store.logs import get_logger
from store.redis.counters import RedisCounters
from store.redis.old_generations import DROP_PAUSE_S

logger = get_logger("old_generations")

#: Longest time that one call spends on deletions; the next call continues.
TURN_S: Final = 20.0
#: A build that has had no lease for this long was left by a rebuild that was killed.
ABANDONED_MS: Final = 3_600_000
_HOUR_MS: Final = 3_600_000


class OldGenerations:
    """Drops generations that are not needed any more. Every worker may run it."""

    def __init__(self, counters: RedisCounters, *, keep_h: int, now_ms: Callable[[], int]) -> None:
        """`keep_h`: hours for which a replaced generation stays, for a rollback."""
        self._counters = counters
        self._keep_ms = keep_h * _HOUR_MS
        self._now_ms = now_ms

    async def drop_old(self) -> None:
        """Drop generations for at most TURN_S; call this every few minutes.

        Raises StoreUnavailable.
        """
        deadline_s = asyncio.get_running_loop().time() + TURN_S
        for tenant in await self._counters.with_several(await self._counters.tenants()):
            for generation in await self._counters.expired(
                tenant, now_ms=self._now_ms(), keep_ms=self._keep_ms, abandoned_ms=ABANDONED_MS
            ):
                if not await self._drop(generation, deadline_s):
                    return

    async def _drop(self, generation: Generation, deadline_s: float) -> bool:
        """Drop the generation; return False if the time was over before."""
        for each in await self._counters.with_shards(generation):
            while await self._counters.drop_some(each):
                if asyncio.get_running_loop().time() > deadline_s:
                    return False
                await asyncio.sleep(DROP_PAUSE_S)
        logger.info("old generation dropped", tenant=generation.tenant, number=generation.number)
        return True
