"""First part of a rebuild: the plan, the new generation, and what history has of it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Final

from store.counters import Generation, Position
from store.logs import get_logger
from store.offsets import Gap, describe, without
from store.postgres.catalog import load_catalog
from store.postgres.gaps import HistoryGaps
from store.postgres.sums import Below, HistorySums, open_sums
from store.records import Catalog
from store.redis.shards import LayoutState
from store.redis.watermarks import BUILD_LOG
from store.shards import Layout, Shard
from store.windows import Calendar
from streams.rebuild.builder import Builder
from streams.rebuild.context import Context
from streams.rebuild.errors import RebuildError
from streams.rebuild.from_history import see_identities, write_identities, write_sums
from streams.rebuild.identities import SeenIdentities
from streams.rebuild.plan import HistoryView, Plan, make_plan
from streams.rebuild.sums import EventSums
from streams.rebuild.takeover import SinceRebuild, since_rebuild
from streams.rebuild.work import Work

logger = get_logger("rebuild")

#: With more records than this to read, the topic is summed in memory; with fewer it is followed.
TAIL_MAX: Final = 20_000


class Preparer:
    """Prepares tenants, one after the other. Methods raise RebuildError and StoreUnavailable."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def prepare(self, tenant: str, token: str) -> Work:
        """Create the tenant's new generation and write what history has of it.

        Return the work of shard 0, which has those of all shards. Raises RebuildError if counts
        would be lost, unless the options force it.
        """
        catalog = await load_catalog(self._context.pool, tenant)
        await self._context.counters.settle(tenant)  # what a swap that was killed has left
        active = await self._context.counters.generation(tenant)
        state = await self._context.counters.shards.state(active.layout) if active else None
        context = await self._context.of_tenant(tenant)
        since = await since_rebuild(context, active, tenant, Calendar(catalog.timezone))
        notes = await self._drop_unfinished(tenant)
        since_ms = since.since_ms if since else None
        async with AsyncExitStack() as undo:
            # Left before `undo` ends: closing the snapshot may fail, or be cancelled.
            async with open_sums(self._context.pool, tenant, since_ms) as history:
                plan = make_plan(
                    self._context.options.source,
                    context.topic,
                    HistoryView(history.positions, await HistoryGaps(self._context.pool).gaps()),
                    state.reach if state else {},
                )
                if since is not None:
                    plan = await since.narrow(plan)
                gaps = await self._check_lost(tenant, plan, history, state)
                layout = Layout(tenant, 0, self._context.shards(active))
                works: list[Work] = []
                for index in range(layout.shards):
                    builder = await self._create(catalog, token, plan, gaps, layout, index)
                    if index == 0:
                        undo.push_async_callback(builder.drop)  # that of all shards
                        layout = layout._replace(generation=builder.generation.number)
                    shard = Shard(index, layout.shards)
                    works.append(_work(catalog, shard, active, state, builder, plan))
                    await self._fill(works[-1], plan, history.of_shard(shard), since)
            undo.pop_all()
        first = works[0]
        first.notes, first.shards = [*notes, *first.notes], works
        return first

    async def _fill(
        self, work: Work, plan: Plan, history: HistorySums, since: SinceRebuild | None
    ) -> None:
        meter = self._context.meter(work.tenant)
        below = None
        if not plan.whole_history and self._context.topic is not None:
            below = Below(self._context.topic.topic_id, work.starts)
        if plan.uses_history:
            work.rows = await write_sums(
                history, work.builder, below, meter=meter, pace=self._context.pace
            )
        if since is not None:
            await since.fill(work, history)
            return
        tail = sum(max(0, self._context.ends[p] - start) for p, start in work.starts.items())
        oldest_slot = await self._context.oldest_slot(work.starts)
        if self._context.options.source == "history" and tail <= TAIL_MAX:
            await write_identities(history, work, oldest_slot, below, meter)
            return
        work.seen = SeenIdentities(self._context.slots_back)
        work.sums = EventSums(work.builder.calendar, work.builder.generation.day)
        if plan.uses_history:
            await see_identities(history, work.seen, oldest_slot, below, work.slots)

    async def _check_lost(
        self, tenant: str, plan: Plan, history: HistorySums, active: LayoutState | None
    ) -> list[Gap]:
        """Return the ranges that make the new generation incomplete: history has rows in them.

        Raises RebuildError where the options do not allow a loss.
        """
        lost = list(plan.lost)
        unused = 0
        if not plan.uses_history and self._context.topic is not None:
            unused = await history.rows(Below(self._context.topic.topic_id, plan.topic_starts))
            if not unused:  # history has passed these offsets, and the tenant has nothing there
                known = [Gap(*key, 0, offset) for key, offset in history.positions.items()]
                lost = without(lost, known)
        if active is not None:
            lost = without(lost, await self._counter_gaps(active))
        if not lost:
            return []
        number = active.layout.generation if active else 0
        reason = (
            f"tenant {tenant}: history has {unused:,} events that the topic no longer holds; "
            "use --from auto"
            if unused
            else f"tenant {tenant}: counts would be lost: generation {number} has counted up to "
            f"{describe(lost)}, which neither the topic nor history has"
        )
        if not self._context.options.force:
            raise RebuildError(f"{reason}; --force rebuilds without them")
        logger.warning("rebuilding with a loss of counts", tenant=tenant, lost=describe(lost))
        return lost if unused else []

    async def _counter_gaps(self, active: LayoutState) -> list[Gap]:
        """Return what the active counters lack themselves, so that it cannot be lost with them."""
        return [*active.gaps, *await self._context.counters.reports.lost()]

    async def _create(
        self,
        catalog: Catalog,
        token: str,
        plan: Plan,
        gaps: Sequence[Gap],
        layout: Layout,
        index: int,
    ) -> Builder:
        """Create one shard of the new generation."""
        calendar = Calendar(catalog.timezone)
        if index:
            await self._context.counters.drop_shard(layout.name(index))
        generation = await self._context.counters.build(
            layout.name(index),
            day=calendar.day_of(self._context.now_ms()),
            timezone=catalog.timezone,
            token=token,
            watermarks=[*plan.watermarks, Position(BUILD_LOG, 0, 0)],
            gaps=gaps,
            shards=1 if index else layout.shards,
        )
        return Builder(
            self._context.counters,
            self._context.pace,
            generation=generation,
            calendar=calendar,
            watermarks=plan.topic_starts,
        )

    async def _drop_unfinished(self, tenant: str) -> list[str]:
        """Drop what a killed rebuild has left; return a note about it."""
        generations = await self._context.counters.generations(tenant)
        numbers = [each.number for each in generations if each.building]
        for number in numbers:
            await self._context.counters.drop(Generation(tenant, number, 0, "", False))
        if not numbers:
            return []
        return [f"started afresh: dropped generation {numbers[-1]} of an interrupted rebuild"]


def _work(
    catalog: Catalog,
    shard: Shard,
    active: Generation | None,
    state: LayoutState | None,
    builder: Builder,
    plan: Plan,
) -> Work:
    return Work(
        tenant=catalog.tenant,
        shard=shard,
        types=frozenset(catalog.outcome_types),
        active=active,
        active_events=state.events if state else None,
        builder=builder,
        starts=plan.topic_starts,
        given_up={each.source for each in plan.lost},
        slots=set(state.slots) if state else set(),
    )
