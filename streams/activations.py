"""Swaps and rollbacks by other processes, noticed without traffic."""

from __future__ import annotations

from store.redis.counters import RedisCounters
from streams.rollover import Rollover
from streams.tenant_state import TenantStates


class ActivationWatch:
    """Adopts generations that a rebuild or a rollback has activated.

    A tenant with events notices it at its next commit. Without events, its counters would stay at
    the watermarks of the new generation until the next check of all tenants.
    """

    def __init__(self, counters: RedisCounters, tenants: TenantStates, rollover: Rollover) -> None:
        self._counters = counters
        self._tenants = tenants
        self._rollover = rollover
        self._seen: dict[str, int] = {}
        """Tenant -> time in ms of its last activation, by the clock of Redis."""

    async def check_activations(self) -> None:
        """Adopt the generations activated since the last call; call this every half second.

        Raises RewindRequired if one of them has less than was read, and StoreUnavailable.
        """
        since_ms = max(self._seen.values(), default=0)
        found = await self._counters.reports.activations_since(since_ms)
        fresh = [tenant for tenant, at_ms in found.items() if self._seen.get(tenant) != at_ms]
        if not fresh:
            return
        # Before the first error: a rewind reads the generations of all tenants again.
        self._seen = dict(found)
        for tenant in fresh:
            self._rollover.forget(tenant)
        for tenant in fresh:
            generation = await self._counters.generation(tenant)
            if generation is not None:
                await self._tenants.adopt_generation(generation)
