"""Removal of a tenant: its catalog, its counters, and its history if asked for.

The steps are in an order in which workers may go on, and the whole may be interrupted and repeated:

1. The lease of rebuilds is taken: none may run, as it would make the counters again.
2. The catalog is deleted.
3. The counters end in one script, which notes the offsets that they had counted. Workers notice
   that within a second. A later event makes the tenant again; one that is read again does not.
4. What is left of the counters is deleted, and the reports on them.
5. Once history has all that the counters had counted, its rows below these offsets are deleted:
   rows that a worker had yet to store would come after the deletion. PostgreSQL notes the offsets,
   so that nothing takes the removed events from the topic again: see `HistoryView.removed_through`.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from store.postgres.catalog import list_tenants
from store.postgres.history import HistoryWriter
from store.postgres.pool import Pool
from store.postgres.removal import note_removed, remove_catalog, remove_history
from store.redis.counters import RedisCounters
from store.redis.removals import Ended
from streams.rebuild.lease import lease

#: How long history may stand still before the removal gives up waiting for it, in seconds.
STALLED_S: Final = 30.0
_POLL_S: Final = 0.25

#: `progress(phase, done, total)`. Phases: `counters`, in groups, whose total is not known and 0;
#: `waiting`, in offsets that history has yet to store; `history`, in rows.
Progress = Callable[[str, int, int], None]


class RemovalError(Exception):
    """A part of a removal is not possible now; the message says which, and what to do."""


class Holdings(NamedTuple):
    """What a tenant has."""

    counters: bool
    catalog: bool
    rows: int
    """Rows of its history."""


class Removed(NamedTuple):
    """What was removed, in numbers."""

    generations: int
    groups: int
    """Groups of all generations."""
    catalog: Mapping[str, int]
    """Table -> rows."""
    rows: int
    """Rows of history that were deleted."""


class TenantRemoval:
    """Finds and removes what a tenant has. Every method raises StoreUnavailable."""

    def __init__(
        self,
        counters: RedisCounters,
        pool: Pool,
        *,
        progress: Progress = lambda phase, done, total: None,
        stalled_s: float = STALLED_S,
    ) -> None:
        self._counters = counters
        self._pool = pool
        self._history = HistoryWriter(pool)
        self._progress = progress
        self._stalled_s = stalled_s

    async def holdings(self, tenant: str) -> Holdings | None:
        """Return what the tenant has, also what an interrupted removal left; None = nothing."""
        found = Holdings(
            counters=tenant in await self._counters.tenants(),
            catalog=tenant in await list_tenants(self._pool),
            rows=await self._history.rows(tenant),
        )
        has_identities = tenant in await self._history.tenants()
        return found if any(found) or has_identities else None

    async def remove(self, tenant: str, *, history: bool) -> Removed:
        """Remove the tenant, its history only with `history`. Safe to interrupt and to repeat.

        Raises AlreadyRunningError while a rebuild of the tenant runs, and RemovalError if history
        does not get the events that were counted.
        """
        async with lease(self._counters.builds, tenant, uuid.uuid4().hex):
            catalog = await remove_catalog(self._pool, tenant)
            ended = await self._counters.removals.end(tenant, await self._history.all_positions())
            generations, groups = await self._counters.removals.delete(
                ended, progress=lambda done: self._progress("counters", done, 0)
            )
            rows = await self._remove_history(ended) if history else 0
        return Removed(generations, groups, catalog, rows)

    async def _remove_history(self, ended: Ended) -> int:
        topic_id = await self._current_topic()
        ends = {p: offset for (of, p), offset in ended.counted.items() if of == topic_id}
        if topic_id is not None:
            await self._wait_stored(topic_id, ends)
        await note_removed(self._pool, ended.tenant, ended.counted)
        total = await self._history.rows(ended.tenant)
        done = 0
        async for rows in remove_history(self._pool, ended.tenant, topic_id=topic_id, ends=ends):
            done += rows
            self._progress("history", done, total)
        return done

    async def _current_topic(self) -> str | None:
        """Return the id of the topic that workers read, or read last; None = none ever did."""
        reports = await self._counters.reports.progress()
        return max(reports, key=lambda report: report.at_ms).topic_id if reports else None

    async def _wait_stored(self, topic_id: str, ends: Mapping[int, int]) -> None:
        """Wait until history has the topic up to `ends`; raise RemovalError if it stands still."""
        least, since_s = -1, time.monotonic()
        while True:
            stored = await self._history.positions(topic_id)
            missing = sum(max(0, end - stored.get(p, 0)) for p, end in ends.items())
            if not missing:
                return
            self._progress("waiting", missing, 0)
            if least < 0 or missing < least:
                least, since_s = missing, time.monotonic()
            elif time.monotonic() - since_s > self._stalled_s:
                raise RemovalError(
                    f"history has yet to store {missing:,} offsets that are counted, and does not "
                    "go on: the tenant's history is not removed, all else is; look at workers and "
                    "PostgreSQL, and run the command again"
                )
            await asyncio.sleep(_POLL_S)
