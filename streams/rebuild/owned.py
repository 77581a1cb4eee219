"""Copies in the topic, as the active generation has decided: it counted another record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from store.postgres.refill import HistoryFiller
from store.records import SourcedEvent
from store.redis.counters import RedisCounters
from store.shards import by_shard
from store.windows import DAY_MS
from streams.copies import copies_among
from streams.rebuild.pace import Pace
from streams.rebuild.work import Work


class ActiveOwners:
    """Finds the copies among records of the topic, so that a rebuild counts what is counted now.

    Of two contents with one identity, on two partitions, the order of reading says nothing.
    """

    def __init__(
        self,
        counters: RedisCounters,
        filler: HistoryFiller,
        pace: Pace,
        topic_id: str,
        slots_back: int,
    ) -> None:
        """`filler`: of the topic that is read; it only tells which records have a row."""
        self._filler = filler
        self._counters = counters
        self._pace = pace
        self._topic_id = topic_id
        self._slots_back = slots_back

    async def copies(self, work: Work, partition: int, events: Sequence[SourcedEvent]) -> set[int]:
        """Return the offsets of the tenant's events of which another record was counted.

        `work`: that of shard 0. None where the new generation may lack that record: then the copy
        has to count. Nor where the rebuild counts the copy, as history has it.
        """
        if work.active is None or work.given_up or not work.slots or not self._slots_back:
            return set()
        oldest_slot = min(work.slots) - self._slots_back
        recent = [each for each in events if each.recorded_ms // DAY_MS >= oldest_slot]
        if not recent:
            return set()
        copies: set[int] = set()
        for name, part in by_shard(work.active.layout, recent).items():
            copies |= await self._pace.call(
                0, copies_among, self._counters, name, self._topic_id, partition, part
            )
        counted_from = work.since.counted_from[partition] if work.since is not None else 0
        stored = [e for e in recent if e.offset in copies and e.offset < counted_from]
        without_row = await self._filler.without_row_at_source(partition, stored)
        return copies - {e.offset for e in stored} | {e.offset for e in without_row}

    async def without_copies(
        self, works: Mapping[str, Work], partition: int, events: Sequence[SourcedEvent]
    ) -> list[SourcedEvent]:
        """Return the events of all tenants but for the copies."""
        by_tenant: dict[str, list[SourcedEvent]] = {}
        for each in events:
            by_tenant.setdefault(each.event.tenant, []).append(each)
        copies: set[int] = set()
        for tenant, of_tenant in by_tenant.items():
            if tenant in works:
                copies |= await self.copies(works[tenant], partition, of_tenant)
        return [each for each in events if each.offset not in copies] if copies else list(events)
