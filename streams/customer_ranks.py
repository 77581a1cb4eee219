"""Ranks of customers by day, week and month: built once somebody asks, dropped when nobody does.

See ADR 0022. `api.asked_ranks` records who asks.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from typing import Final

from store.counters import Generation
from store.logs import get_logger
from store.records import StoreUnavailable
from store.redis.counters import RedisCounters
from store.redis.ranks import RANK_CODES, TenantRanks
from store.shards import tenant_of
from store.windows import DAY_MS, Period
from streams.rollover import turn_order

logger = get_logger("ranks")

#: Customers of one script: 1 to 2 ms of Redis.
BUILD_CUSTOMERS: Final = 100
#: Pause between two scripts, in which Redis serves others.
PAUSE_S: Final = 0.005
#: Longest time of one call, after which it looks again for what is wanted.
TURN_S: Final = 1.0


class CustomerRanks:
    """Builds and drops ranks. Every worker may run it: each script does a bounded part.

    Methods raise StoreUnavailable.
    """

    def __init__(
        self,
        counters: RedisCounters,
        *,
        kept_days: int,
        now_ms: Callable[[], int],
        worker: str = "",
    ) -> None:
        """`kept_days`: days for which a rank is kept after the last question; 0 = always.

        `worker` names this worker: each one handles the tenants in another order.
        """
        self._counters = counters
        self._ranks = counters.ranks
        self._kept_days = kept_days
        self._now_ms = now_ms
        self._worker = worker

    async def build_wanted(self) -> None:
        """Build the ranks that are wanted, for at most TURN_S; tenants and shards take turns."""
        wanted = await self._ranks.wanted()
        turns: deque[Generation] = deque()
        async for generation in self._counters.active_generations(turn_order(wanted, self._worker)):
            turns.append(generation)
        left = Counter(tenant_of(generation.tenant) for generation in turns)
        for tenant in wanted.keys() - left.keys():
            await self._ranks.unwant(tenant, wanted[tenant])  # it has no counters any more
        clock = asyncio.get_running_loop().time
        deadline_s = clock() + TURN_S
        while turns and clock() < deadline_s:
            generation = turns.popleft()
            tenant = tenant_of(generation.tenant)
            try:
                building = await self._ranks.build(
                    generation, wanted[tenant], customers_max=BUILD_CUSTOMERS
                )
            except StoreUnavailable as error:  # the others are not to wait for this one
                logger.warning("ranks of customers not built", tenant=tenant, error=str(error))
                continue
            if building is not None and building.left:
                turns.append(generation)
            elif building is not None:
                left[tenant] -= 1
                if not left[tenant]:  # all shards have them
                    await self._ranks.unwant(tenant, wanted[tenant])
                    logger.info(
                        "ranks of customers built", tenant=tenant, periods=sorted(wanted[tenant])
                    )
            # else: another generation is active now, and the next call finds it
            await asyncio.sleep(PAUSE_S)

    async def keep_or_drop(self) -> None:
        """Drop the ranks that nobody has asked for in days; want others. Call every few minutes."""
        async for ranks in self._ranks.of_tenants(await self._counters.tenants()):
            try:
                await self._keep_or_drop(ranks)
            except StoreUnavailable as error:  # the others are not to wait for this one
                tenant = tenant_of(ranks.generation.tenant)
                logger.warning("ranks of customers not dropped", tenant=tenant, error=str(error))

    async def _keep_or_drop(self, ranks: TenantRanks) -> None:
        tenant = tenant_of(ranks.generation.tenant)
        asked = self._asked(ranks)
        # Asked for before the generation began, say, which was rebuilt from an empty store.
        await self._ranks.want(tenant, asked - ranks.kept)
        unasked = ranks.kept - asked
        for period in unasked - ranks.last_asked_ms.keys():
            # Kept by a version that kept all: asked for from now on.
            await self._ranks.note_asked(tenant, period, at_ms=self._now_ms(), is_lacking=False)
        unasked &= ranks.last_asked_ms.keys()
        if unasked and (dropped := await self._ranks.drop(ranks.generation, unasked)):
            logger.info("ranks of customers dropped", tenant=tenant, periods=sorted(dropped))

    def _asked(self, ranks: TenantRanks) -> set[Period]:
        """Return the periods that are to be kept."""
        if self._kept_days == 0:
            return set(RANK_CODES)
        oldest_ms = self._now_ms() - self._kept_days * DAY_MS
        return {period for period, ms in ranks.last_asked_ms.items() if ms >= oldest_ms}
