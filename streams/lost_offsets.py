"""Offsets that retention took before a store had them: which store lacks them, and the remedy.

Reading starts at the lower of both stores, so the other one may have the offsets. Gaps of the
counters are noted here, before anything after them is counted; those of history by the transaction
that passes them (see `store.postgres.gaps`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from store import metrics
from store.counters import CounterStore, Generation
from store.logs import get_logger
from store.offsets import Gap
from store.postgres.pool import bounded
from store.records import StoreUnavailable
from store.shards import lowest_of_tenants, tenant_of
from streams.completeness import HistoryView
from streams.retry import retry
from streams.tenant_state import TenantStates

logger = get_logger("lost_offsets")

#: How long counting waits for Postgres to say which of the offsets history has.
HISTORY_TIMEOUT_S: Final = 5.0


class LostOffsets:
    """Notes and reports offsets that retention took."""

    def __init__(self, counters: CounterStore, history: HistoryView, tenants: TenantStates) -> None:
        self._counters = counters
        self._history = history
        self._tenants = tenants
        self._reported: set[Gap] = set()

    async def note(self, gap: Gap) -> None:
        """Note `gap` for the counters that lack some of it, and report which store lacks what.

        Counters whose part history has, or may have, are not complete from now on. Where neither
        store has the offsets, both still hold the same events, so the counters stay complete. Safe
        to repeat, after a rewind.
        """
        lacking = await retry("counters", self._tenants.lacking, gap)
        stored = await self._stored(gap)
        held = await self._held(gap, lacking, stored)
        for generation, first_offset in lacking.items():
            if tenant_of(generation.tenant) in held:
                part = gap._replace(first_offset=first_offset)
                await retry("counters", self._counters.note_gap, generation, part)
        uncounted = gap.next_offset
        if lacking or not self._tenants.names:
            uncounted = min(lacking.values(), default=gap.first_offset)
            await retry(
                "counters",
                self._counters.note_lost,
                gap.topic_id,
                gap.partition,
                uncounted,
                gap.next_offset - uncounted,
            )
        if gap not in self._reported:
            self._reported.add(gap)
            metrics.LOST_OFFSETS.labels("counters").inc(gap.next_offset - uncounted)
            _report(gap, uncounted, stored, sorted(held))

    async def note_before_start(
        self,
        topic_id: str,
        partitions: Sequence[int],
        earliest_offsets: Mapping[int, int],
        stored: Mapping[int, int] | None,
        unread: Mapping[int, Sequence[Generation]],
    ) -> Sequence[Gap]:
        """Note what retention took of partitions of which a store has no watermark.

        Reading starts at their earliest offset, so no batch begins with these gaps. Return those of
        history. `stored`: history's watermarks; None where Postgres does not answer. `unread`: see
        `CounterCommitter`.
        """
        found = []
        for partition in partitions:
            end = earliest_offsets[partition]
            gap = Gap(topic_id, partition, 0, end)
            position = None if stored is None else stored.get(partition, 0)
            lacking = dict.fromkeys(unread.get(partition, ()), 0)
            held = await self._held(gap, lacking, position)
            for generation in lacking:
                if tenant_of(generation.tenant) in held:
                    await retry("counters", self._counters.note_gap, generation, gap)
            if held:
                _report(gap, 0, position, sorted(held))
            if end and stored is not None and partition not in stored:
                first = await retry("counters", self._first_counted, gap)
                if first < end:
                    found.append(gap._replace(first_offset=first))
                    _report_unstored(found[-1])
        return found

    async def _first_counted(self, gap: Gap) -> int:
        """Return the offset at which counting of the partition began, at most the gap's end."""
        first = gap.next_offset
        tenants = await self._counters.tenants()
        async for counted in self._counters.active_counted(tenants, gap.topic_id):
            first = min(first, counted.first_watermarks.get(gap.partition, first))
        return first

    async def _stored(self, gap: Gap) -> int | None:
        """Return history's watermark of the partition; None where Postgres does not answer."""
        try:
            positions = await bounded(self._history.positions(gap.topic_id), HISTORY_TIMEOUT_S)
        except StoreUnavailable:
            return None
        return positions.get(gap.partition, 0)

    async def _held(
        self, gap: Gap, lacking: Mapping[Generation, int], stored: int | None
    ) -> set[str]:
        """Return the tenants whose part of the gap history has, or may have."""
        first_offsets = lowest_of_tenants({g.tenant: first for g, first in lacking.items()})
        if stored is not None:
            first_offsets = {t: first for t, first in first_offsets.items() if first < stored}
            if first_offsets:
                asked = self._history.tenants_between(
                    gap.topic_id, gap.partition, first_offsets, gap.next_offset
                )
                try:
                    return await bounded(asked, HISTORY_TIMEOUT_S)
                except StoreUnavailable:
                    pass
        return set(first_offsets)


def _report(gap: Gap, uncounted: int, stored: int | None, tenants: list[str]) -> None:
    """Log which store lacks which offsets, from `uncounted` and `stored` on, and the remedy."""
    end = gap.next_offset
    if stored is None:
        logger.error(
            "retention took offsets while history is unavailable; `interaction-summary status` "
            "shows what each store lacks once history answers",
            partition=gap.partition,
            first=gap.first_offset,
            lost=end - gap.first_offset,
            lost_to_counters=end - uncounted,
        )
        return
    stored = min(max(stored, gap.first_offset), end)
    if uncounted < stored:
        _report_held(gap._replace(first_offset=uncounted, next_offset=stored), tenants)
    if stored < uncounted:
        _report_unstored(gap._replace(first_offset=stored, next_offset=uncounted))
    if (first := max(stored, uncounted)) < end:
        logger.error(
            "retention took offsets that neither store has; send their events again",
            partition=gap.partition,
            first=first,
            lost=end - first,
        )


def _report_held(gap: Gap, tenants: Sequence[str]) -> None:
    logger.error(
        "counters lack offsets that retention took, and history has them: "
        "`interaction-summary rebuild --from history` counts them",
        partition=gap.partition,
        first=gap.first_offset,
        lost=gap.next_offset - gap.first_offset,
        tenants=tenants[:10],
    )


def _report_unstored(gap: Gap) -> None:
    logger.error(
        "history lacks offsets that retention took: the counters have the only copy of their "
        "events, and a rebuild from history would delete it",
        partition=gap.partition,
        first=gap.first_offset,
        lost=gap.next_offset - gap.first_offset,
    )
