"""Creation of a tenant's first generation: where it begins, and whether it is complete."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from store.counters import CounterStore, Position
from store.logs import get_logger
from store.records import StoreUnavailable
from store.shards import is_shard, tenant_of
from store.windows import Calendar
from streams.completeness import HistoryView

logger = get_logger("tenants")


class NewTenants:
    """Creates counters of tenants that have none. Every method raises StoreUnavailable."""

    def __init__(
        self,
        store: CounterStore,
        history: HistoryView,
        *,
        now_ms: Callable[[], int],
        timezone_of: Callable[[str], Awaitable[str]],
    ) -> None:
        self._store = store
        self._history = history
        self._now_ms = now_ms
        self._timezone_of = timezone_of

    async def create(
        self, tenant: str, topic_id: str, starts: Mapping[int, int], *, was_known: bool
    ) -> None:
        """Create the tenant's first generation, unless another worker has done it meanwhile.

        Or a shard, other than shard 0, that the store has lost.

        `starts`: partition -> offset below which every tenant was counted when the session began.
        `was_known`: this worker knew counters of the tenant. Unless it was removed, the store lost
        them: their events may be below the new watermarks, and history may have yet to store them.
        """
        is_lost = is_shard(tenant) or (
            was_known and not await self._store.counted_before_removal([tenant], topic_id)
        )
        plain = tenant_of(tenant)
        zone = await self._timezone_of(plain)
        removed: Mapping[int, int] = {}
        try:
            removed = await self._history.removed_through(plain, topic_id)
            complete = not is_lost and await self._history.covers(plain, topic_id, {})
        except StoreUnavailable as error:
            logger.warning("completeness not known yet", tenant=tenant, error=str(error))
            complete = False
        if not complete:
            logger.warning(
                "counters start empty though the tenant has history; history answers until the "
                "counters hold all of it",
                tenant=tenant,
                starts=starts,
            )
        instance = await self._store.instance()
        first = starts if is_lost else await self._first_offsets(topic_id, starts, instance)
        generation = await self._store.create(
            tenant,
            day=Calendar(zone).day_of(self._now_ms()),
            timezone=zone,
            complete=complete,
            watermarks=[
                Position(topic_id, partition, max(offset, removed.get(partition, 0)))
                for partition, offset in first.items()
            ],
        )
        if await self._store.instance() != instance:  # what was lost may be of this tenant
            await self._store.mark_evicted(generation, self._now_ms())

    async def _first_offsets(
        self, topic_id: str, starts: Mapping[int, int], instance: str
    ) -> Mapping[int, int]:
        """Return, by partition, an offset below which a tenant without counters has no event.

        A worker creates the counters of all tenants of a commit batch before it counts any of it.
        So that is every offset to which a worker has counted, unless the store has lost counters
        since: a report of a session that began with another instance is not used. The start of this
        session, which may be long ago, would send a worker that has restarted since back to it.
        """
        offsets = dict(starts)
        for partition, floor in (await self._store.floors(topic_id)).items():
            start = starts.get(partition)
            if start is None or floor.instance != instance:
                continue
            # A partition that ends before the start was truncated since the session began.
            was_truncated = floor.end_offset is not None and floor.end_offset < start
            offsets[partition] = floor.offset if was_truncated else max(start, floor.offset)
        return offsets
