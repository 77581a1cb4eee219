"""Pruning of history: old events become sums, where no answer, rebuild or audit needs them.

A tenant is left alone while its counters lack events: history is then the only place that has them,
and a rebuild finds them by their offsets.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable
from typing import Final, NamedTuple

from store.postgres.catalog import load_catalog
from store.postgres.history import HistoryWriter
from store.postgres.pool import Pool
from store.postgres.prune import HistoryPruner, TopicStart
from store.redis.counters import RedisCounters
from store.settings import Settings
from store.windows import TILE_DAYS, Calendar
from streams.kafka.topic_scan import open_scan
from streams.rebuild.errors import AlreadyRunningError
from streams.rebuild.lease import lease

#: Smallest age of events that are pruned: counters have tiles of TILE_DAYS, comparisons look at as
#: many days before, and identities are remembered for at most TILE_DAYS.
OLDER_THAN_DAYS_MIN: Final = 2 * TILE_DAYS + 1


class Pruned(NamedTuple):
    """What was done for one tenant."""

    tenant: str
    events: int
    """Rows of single events that were summed up, or would be."""
    sums: int
    """Rows in their place; 0 if nothing was to be changed."""


class NotPruned(NamedTuple):
    """A tenant whose history was left as it is."""

    tenant: str
    reason: str


Progress = Callable[[str, int, int], None]


class HistoryPruning:
    """Prunes the history of tenants. Every method raises StoreUnavailable."""

    def __init__(
        self,
        settings: Settings,
        counters: RedisCounters,
        pool: Pool,
        *,
        now_ms: Callable[[], int],
        progress: Progress = lambda tenant, events, sums: None,
    ) -> None:
        """`progress` is called after each transaction, with what was done for the tenant so far."""
        self._settings = settings
        self._counters = counters
        self._pool = pool
        self._history = HistoryWriter(pool)
        self._now_ms = now_ms
        self._progress = progress

    async def tenants(self) -> list[str]:
        """Return the tenants that have a history, sorted."""
        return await self._history.tenants()

    async def topic_start(self) -> TopicStart:
        """Return what the topic holds; later it holds no more than that of the past."""
        async with open_scan(self._settings, client_id="interaction-summary-prune") as scan:
            return TopicStart(scan.topic_id, await scan.earliest())

    async def prune(
        self, tenant: str, older_than_days: int, held: TopicStart, *, dry_run: bool
    ) -> Pruned | NotPruned:
        """Sum up what occurred and arrived more than `older_than_days` (whole) days ago."""
        if dry_run:
            pruner = await self._pruner(tenant, older_than_days, held)
            if isinstance(pruner, NotPruned):
                return pruner
            return Pruned(tenant, await pruner.count(), 0)
        try:
            async with lease(self._counters.builds, tenant, uuid.uuid4().hex):
                # Only now: a rebuild or a removal could change what is checked here.
                pruner = await self._pruner(tenant, older_than_days, held)
                if isinstance(pruner, NotPruned):
                    return pruner
                return await self._prune(tenant, pruner)
        except AlreadyRunningError as error:
            return NotPruned(tenant, str(error))

    async def _pruner(
        self, tenant: str, older_than_days: int, held: TopicStart
    ) -> HistoryPruner | NotPruned:
        """Return what sums up the tenant's days, or why it must not."""
        timezone = (await load_catalog(self._pool, tenant)).timezone
        if (reason := await self._needed(tenant, timezone)) is not None:
            return NotPruned(tenant, reason)
        calendar = Calendar(timezone)
        before_ms = calendar.midnight_ms(calendar.day_of(self._now_ms()) - older_than_days)
        return HistoryPruner(self._pool, tenant, calendar, before_ms=before_ms, held=held)

    async def _prune(self, tenant: str, pruner: HistoryPruner) -> Pruned:
        events = sums = 0
        async for part in pruner.prune():
            events, sums = events + part.events, sums + part.sums
            self._progress(tenant, events, sums)
        return Pruned(tenant, events, sums)

    async def _needed(self, tenant: str, timezone: str) -> str | None:
        """Return why the tenant's single events are needed; None = they are not."""
        generation = await self._counters.generation(tenant)
        if generation is None:
            return "it has no counters: history is all there is; run `rebuild` first"
        if generation.timezone != timezone:
            # Sums of the days of one time zone are wrong in the other.
            return (
                f"its counters have days of time zone {generation.timezone}, its catalog has "
                f"{timezone}; run `rebuild` first"
            )
        for name in generation.layout.names:
            shard = await self._counters.generation(name)
            if shard is None or not shard.complete:
                return "its counters are not complete; see `status`"
            counted = await self._counters.all_watermarks(shard)
            if await self._history.has_uncounted(tenant, counted):
                return "its counters have yet to reach events of history; see `status`"
        return None


async def prune_all(
    pruning: HistoryPruning, older_than_days: int, tenant: str | None, *, dry_run: bool
) -> AsyncIterator[Pruned | NotPruned]:
    """Prune `tenant`, or all tenants in order; yield what was done for each."""
    held = await pruning.topic_start()
    for each in await pruning.tenants() if tenant is None else [tenant]:
        yield await pruning.prune(each, older_than_days, held, dry_run=dry_run)
