"""The groups that an audit compares: all of a grouping, or a sample."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence

from store.postgres.audit import AuditedHistory
from store.records import Grouping
from store.redis.audit import AuditedCounters
from store.windows import DAY_MS, TILE_DAYS


class AuditedGroups:
    """Ids of the groups that counters or history have. Every method raises StoreUnavailable."""

    def __init__(
        self, counters: AuditedCounters, history: AuditedHistory, now_ms: Callable[[], int]
    ) -> None:
        self._counters = counters
        self._history = history
        self._now_ms = now_ms

    async def all(self, tenant: str, grouping: Grouping, generation: int) -> list[str]:
        """Return all groups, sorted."""
        ids = {id_ async for id_ in self._counters.ids(tenant, generation, grouping)}
        ids.update([id_ async for id_ in self._history.ids(tenant, grouping)])
        return sorted(ids)

    async def sample(
        self, tenant: str, grouping: Grouping, generation: int, n: int, events_max: int | None
    ) -> list[str]:
        """Return about `n` groups, sorted; half from each store, as each may lack some.

        The groups together have at most `events_max` events, unless there is only one; None = no
        limit.
        """
        ids = set(await self._counters.sample(tenant, generation, grouping, n - n // 2))
        now_ms = self._now_ms()
        instants = [now_ms - random.randrange(TILE_DAYS * DAY_MS) for _ in range(n // 2)]
        ids.update(await self._history.sample(tenant, grouping, instants) if instants else ())
        if events_max is not None and ids:
            return sorted(await self._bounded(tenant, grouping, generation, list(ids), events_max))
        return sorted(ids)

    async def _bounded(
        self, tenant: str, grouping: Grouping, generation: int, ids: list[str], events_max: int
    ) -> Sequence[str]:
        random.shuffle(ids)
        sizes = await self._counters.sizes(tenant, generation, grouping, ids)
        fitting = [total <= events_max for total in itertools.accumulate(sizes)]
        return ids[: max(1, fitting.count(True))]
