"""Events of a topic that was replaced: counters lack some of them, and history has them.

Redis was restored from a backup that is older than the end of that topic, or lost its last writes
shortly before the topic was recreated. The present topic does not have these events, so reading it
never completes the counters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from store.counters import Generation, Source
from store.logs import get_logger
from store.offsets import Gap
from store.postgres.pool import bounded
from store.records import StoreUnavailable
from store.shards import lowest_of_tenants, tenant_of
from streams.lost_offsets import HISTORY_TIMEOUT_S
from streams.retry import retry

logger = get_logger("replaced_topics")


class Counters(Protocol):
    """What is asked of the counters. Every method raises StoreUnavailable."""

    async def tenants(self) -> Sequence[str]:
        """Return the tenants that have a generation, sorted."""
        ...

    async def generation(self, tenant: str) -> Generation | None:
        """Return the tenant's active generation, or None if it has none."""
        ...

    async def all_watermarks(self, generation: Generation) -> Mapping[Source, int]:
        """Return (topic id, partition) -> next offset, of every topic id ever counted."""
        ...

    async def note_gap(self, generation: Generation, gap: Gap) -> bool:
        """Record offsets that these counters never saw, and that history has or may have."""
        ...


class History(Protocol):
    """What is asked of history. Every method raises StoreUnavailable."""

    async def all_positions(self) -> Mapping[Source, int]:
        """Return (topic id, partition) -> offset below which history has everything."""
        ...

    async def tenants_between(
        self, topic_id: str, partition: int, first_offsets: Mapping[str, int], end: int
    ) -> set[str]:
        """Return the tenants that have a row between their first offset and `end`."""
        ...


async def note_uncounted(counters: Counters, history: History, topic_id: str) -> None:
    """Make the counters incomplete that lack events of another topic than `topic_id`.

    Retries the counters until they answer. Without history nothing is noted.
    """
    try:
        positions = await bounded(history.all_positions(), HISTORY_TIMEOUT_S)
    except StoreUnavailable as error:
        logger.info("retrying later", work="note_uncounted", error=str(error))
        return
    others = {source: end for source, end in positions.items() if source[0] != topic_id and end}
    if not others:
        return
    generations: dict[str, Generation] = {}
    watermarks: dict[str, Mapping[Source, int]] = {}
    for tenant in await retry("counters", counters.tenants):
        active = await retry("counters", counters.generation, tenant)
        for name in active.layout.names if active is not None else ():
            generation = await retry("counters", counters.generation, name)
            if generation is not None:
                generations[name] = generation
                watermarks[name] = await retry("counters", counters.all_watermarks, generation)
    for (other, partition), end in sorted(others.items()):
        firsts = {name: marks.get((other, partition), 0) for name, marks in watermarks.items()}
        firsts = {name: first for name, first in firsts.items() if first < end}
        if not firsts:
            continue
        try:
            found = await bounded(
                history.tenants_between(other, partition, lowest_of_tenants(firsts), end),
                HISTORY_TIMEOUT_S,
            )
        except StoreUnavailable as error:
            logger.info("retrying later", work="note_uncounted", error=str(error))
            return
        for name in sorted(name for name in firsts if tenant_of(name) in found):
            gap = Gap(other, partition, firsts[name], end)
            await retry("counters", counters.note_gap, generations[name], gap)
            logger.error(
                "counters lack events of a topic that was replaced, and history has them: "
                "`interaction-summary rebuild` counts them",
                tenant=name,
                topic_id=other,
                partition=partition,
                first=gap.first_offset,
                end=end,
            )
