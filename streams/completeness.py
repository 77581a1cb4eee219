"""Whether a generation holds everything that history has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from store.counters import CounterStore, Generation
from store.logs import get_logger
from store.offsets import Gap
from store.shards import is_shard, tenant_of

logger = get_logger("tenants")


class HistoryView(Protocol):
    """What the completeness check asks of history. Every method raises StoreUnavailable."""

    async def covers(self, tenant: str, topic_id: str, starts: Mapping[int, int]) -> bool:
        """Return whether reading the topic from `starts` meets every row of the tenant.

        With no starts: whether the tenant has no row.
        """
        ...

    async def removed_through(self, tenant: str, topic_id: str) -> Mapping[int, int]:
        """Return partition -> offset below which the tenant's events were removed with it.

        They must not be counted or stored again.
        """
        ...

    async def positions(self, topic_id: str) -> Mapping[int, int]:
        """Return, by partition, the offset below which the topic is in history."""
        ...

    async def rows(self, tenant: str) -> int:
        """Return the number of the tenant's rows. Reads all of them, from an index."""
        ...

    async def tenants_between(
        self, topic_id: str, partition: int, first_offsets: Mapping[str, int], end: int
    ) -> set[str]:
        """Return the tenants that have a row in their part of a range of offsets.

        `first_offsets` is tenant -> first offset of its part; every part ends before `end`.
        """
        ...


async def complete_all(
    store: CounterStore, history: HistoryView, known: Sequence[Generation], topic_id: str
) -> bool:
    """Mark shards of a tenant complete as `complete` does; False where only a rebuild helps."""
    answers = []
    for each in known:
        generation = await store.generation(each.tenant)  # its `complete` may have changed
        if generation is None or generation.number != each.number:
            return False
        answers.append(await complete(store, history, generation, topic_id))
    return all(answers)


async def complete(
    store: CounterStore, history: HistoryView, generation: Generation, topic_id: str
) -> bool:
    """Mark an incomplete generation complete if it now holds everything that history has.

    Return False where only a rebuild from history completes it. Targets (the watermarks of the
    generation before) are left to the commits that reach them. Raises StoreUnavailable.
    """
    if generation.complete:
        return True
    missing = await store.missing(generation)
    if missing.unsettled:
        await store.settle(generation.tenant)
    if missing.evicted or missing.damaged or missing.outdated:
        return False
    if missing.gaps:
        tenant = tenant_of(generation.tenant)
        empty = [gap for gap in missing.gaps if await _is_empty(history, tenant, gap)]
        if empty and await store.close_gaps(generation, empty):
            logger.info("counters are complete", tenant=generation.tenant)
            return True
        if len(empty) < len(missing.gaps):
            return False
    if missing.unproven and (is_shard(generation.tenant) or generation.shards > 1):
        return False  # history does not say which of its events were counted in which shard
    if missing.unproven:
        return await _prove(store, history, generation, topic_id)
    return True


async def _is_empty(history: HistoryView, tenant: str, gap: Gap) -> bool:
    """Return whether history has no event of the tenant in the gap, and gets none any more.

    It has passed the gap, or has never had anything of a partition whose beginning is lost: then it
    passes it with the first event of the partition, which may be long in coming.
    """
    position = (await history.positions(gap.topic_id)).get(gap.partition, 0)
    if position < gap.next_offset and (position or gap.first_offset):
        return False
    first = {tenant: gap.first_offset}
    return not await history.tenants_between(gap.topic_id, gap.partition, first, gap.next_offset)


async def _prove(
    store: CounterStore, history: HistoryView, generation: Generation, topic_id: str
) -> bool:
    """Mark a generation that started empty as complete if it has all of history now.

    Return False where Kafka does not reach back to all of the tenant's history.
    """
    starts = await store.first_watermarks(generation, topic_id)
    if not await history.covers(generation.tenant, topic_id, starts):
        return False
    removed = await history.removed_through(generation.tenant, topic_id)
    if any(starts.get(partition, 0) < end for partition, end in removed.items()):
        return False  # it may have counted removed events
    lost = await store.last_lost(topic_id)
    if any(offset >= starts.get(partition, 0) for partition, offset in lost.items()):
        return False  # history may hold events of the lost offsets, which were never read
    counted = await store.watermarks(generation, topic_id)
    stored = await history.positions(topic_id)
    if any(counted.get(partition, 0) < offset for partition, offset in stored.items()):
        return True
    # The topic may hold the offsets of all rows and no longer have their events: it was truncated
    # and written again, or a limit was lowered. Each row is an event of its own. The rows are
    # counted first, because each event is counted before it has a row.
    rows = await history.rows(generation.tenant)
    events = await store.events(generation)
    if events is not None and events < rows:
        return False
    await store.mark_complete(generation)
    logger.info("counters are complete", tenant=generation.tenant)
    return True
