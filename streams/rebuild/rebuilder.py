"""Rebuild of counters: a new generation beside the active one, then one swap.

The live worker and the readers keep running. The new generation is filled from history, from the
topic, or from both without a seam; it follows the topic until it is ahead of the live counters, and
one script activates it. The worker's next commit is refused and continues in the new generation.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final, NamedTuple

from store.clock import system_clock_ms
from store.counters import Activated, Generation, Position, Shortfall
from store.logs import get_logger
from store.postgres.catalog import load_catalog
from store.postgres.history import HistoryWriter
from store.postgres.pool import Pool, open_pool
from store.postgres.sums import Below, HistorySums, open_sums
from store.records import Catalog, StoreUnavailable
from store.redis.counters import RedisCounters, open_counters
from store.redis.reports import PROGRESS_OLD_MS
from store.settings import Settings
from store.windows import DAY_MS, Calendar
from streams.kafka.topic_id import check_brokers
from streams.kafka.topic_scan import OffsetsGone, TopicChanged, TopicScan, open_scan
from streams.rebuild.builder import BUILD_LOG, Builder
from streams.rebuild.errors import RebuildError
from streams.rebuild.follow import Follower
from streams.rebuild.from_history import see_identities, write_identities, write_sums
from streams.rebuild.from_topic import TopicSummer
from streams.rebuild.identities import SeenIdentities
from streams.rebuild.lease import lease
from streams.rebuild.pace import Pace
from streams.rebuild.plan import (
    From,
    HistoryView,
    Offsets,
    Plan,
    TopicView,
    describe,
    make_plan,
    without,
)
from streams.rebuild.progress import ProgressMeter, Report
from streams.rebuild.records import RecordReader, Tally
from streams.rebuild.sums import EventSums
from streams.rebuild.work import Work

logger = get_logger("rebuild")

#: Share of Redis' time that a rebuild uses while a worker counts.
SHARE: Final = 0.4
#: With more records than this to read, the topic is summed in memory; with fewer it is followed.
TAIL_MAX: Final = 20_000
#: How often the records that arrived meanwhile are summed, before the rest is followed.
ROUNDS_MAX: Final = 5
#: Tenants whose generations are built at once from the topic, which is then read once for all.
TENANTS_MAX: Final = 1_000
BROKER_TIMEOUT_S: Final = 5.0


class Options(NamedTuple):
    """How to rebuild."""

    source: From = "auto"
    force: bool = False
    """Rebuild though counts are lost."""
    dry_run: bool = False
    """Build and compare, then drop the new generation."""
    events_per_s: float | None = None
    """Maximum rate; None = none beyond the share of Redis' time."""


class RebuildResult(NamedTuple):
    """Outcome of the rebuild of one tenant."""

    tenant: str
    generation: int
    previous_generation: int | None
    """The generation that was active before; kept for a rollback."""
    events: int
    previous_events: int | None
    """Events of the generation before; None = unknown, or there was none."""
    from_history: int
    """Events that came from history; the others came from the topic."""
    behind: Sequence[Shortfall] = ()
    """Empty: the generation is complete. Else history answers until a worker has caught up."""
    notes: Sequence[str] = ()


class RollbackResult(NamedTuple):
    """Outcome of the rollback of one tenant."""

    tenant: str
    generation: int
    behind: Sequence[Shortfall]
    """Empty: the generation is complete. Else history answers until a worker has caught up."""


class Failure(NamedTuple):
    """A tenant whose rebuild or rollback was not possible; its live counters are unchanged."""

    tenant: str
    reason: str


class Rebuilder:
    """Rebuild and rollback of the counters of tenants. All methods raise StoreUnavailable."""

    def __init__(
        self,
        settings: Settings,
        counters: RedisCounters,
        pool: Pool,
        *,
        now_ms: Callable[[], int] = system_clock_ms,
        report: Report = lambda progress: None,
    ) -> None:
        """`report` is called with the progress of every phase."""
        self._settings = settings
        self._counters = counters
        self._pool = pool
        self._history = HistoryWriter(pool)
        self._now_ms = now_ms
        self._report = report

    async def tenants(self, tenant: str | None = None) -> list[str]:
        """Return the tenants to rebuild: `tenant` only, or all that have a history or counters.

        Raises RebuildError if `tenant` has neither.
        """
        known = {*await self._history.tenants(), *await self._counters.tenants()}
        if tenant is None:
            return sorted(known)
        if tenant not in known:
            raise RebuildError(f"tenant {tenant}: has neither a history nor counters")
        return [tenant]

    async def rebuild(
        self, tenants: Sequence[str], options: Options
    ) -> AsyncIterator[RebuildResult | Failure]:
        """Rebuild the counters of `tenants` and yield the outcome of each."""
        together = 1 if options.source == "history" else TENANTS_MAX
        for first in range(0, len(tenants), together):
            async for outcome in self._rebuild_together(tenants[first : first + together], options):
                yield outcome

    async def rebuild_inconsistent(self) -> AsyncIterator[RebuildResult | Failure]:
        """Rebuild the tenants whose counters do not match history, from history."""
        for tenant in await self.tenants():
            if not await self._is_consistent(tenant):
                options = Options(source="history", force=True)
                async for outcome in self.rebuild([tenant], options):
                    yield outcome

    async def roll_back(
        self, tenant: str | None = None, *, force: bool = False
    ) -> AsyncIterator[RollbackResult | Failure]:
        """Activate the previous generation of `tenant`, or of all tenants that have counters.

        Unless `force`, a generation is left alone if the topic no longer holds what it lacks.
        """
        async with self._open_topic() as scan:
            topic = None if scan is None else TopicView(scan.topic_id, await scan.earliest())
            for name in [tenant] if tenant else await self._counters.tenants():
                reason = await self._cannot_roll_back(name, topic) if not force else None
                done = None
                if reason is None:
                    done = await self._counters.rollback(name, now_ms=self._now_ms())
                    reason = "there is no generation before the active one"
                if done is None:
                    yield Failure(name, reason)
                else:
                    yield RollbackResult(name, done.generation, done.behind)

    async def _cannot_roll_back(self, tenant: str, topic: TopicView | None) -> str | None:
        active = await self._counters.generation(tenant)
        previous = active and await self._counters.previous(active)
        if active is None or previous is None or topic is None:
            return None
        counted = await self._counters.all_watermarks(previous)
        lost = []
        for source, end in (await self._counters.reach(active)).items():
            first = counted.get(source, 0)
            held = topic.earliest.get(source[1], 0) if source[0] == topic.topic_id else end
            if first < min(end, held):
                lost.append(Offsets(source, first, min(end, held)))
        if not lost:
            return None
        return (
            f"generation {previous.number} has not counted {describe(lost)}, which the topic no "
            "longer holds; rebuild instead, or use --force: history answers then until a rebuild"
        )

    async def _is_consistent(self, tenant: str) -> bool:
        generation = await self._counters.generation(tenant)
        if generation is None or not generation.complete:
            return False
        watermarks = await self._counters.all_watermarks(generation)
        return await self._history.matches_counters(tenant, watermarks)

    @asynccontextmanager
    async def _open_topic(self) -> AsyncIterator[TopicScan | None]:
        """Yield a scan of the topic, or None if Kafka does not answer or the topic is missing."""
        async with AsyncExitStack() as stack:
            scan = None
            try:
                await check_brokers(self._settings, timeout_s=BROKER_TIMEOUT_S)
                scan = await stack.enter_async_context(
                    open_scan(self._settings, client_id="interaction-summary-rebuild")
                )
            except StoreUnavailable as error:
                logger.warning("topic not readable", error=str(error))
            yield scan

    async def _rebuild_together(
        self, tenants: Sequence[str], options: Options
    ) -> AsyncIterator[RebuildResult | Failure]:
        async with self._open_topic() as scan, AsyncExitStack() as stack:
            if scan is None and options.source != "history":
                raise RebuildError(
                    f"--from {options.source} needs Kafka, which does not answer; "
                    "--from history does without it"
                )
            run = _Run(self._settings, self._counters, self._pool, scan, options, self._now_ms)
            run.report = self._report
            for tenant in tenants:
                token = uuid.uuid4().hex
                try:
                    await stack.enter_async_context(lease(self._counters.builds, tenant, token))
                    await run.prepare(tenant, token)
                except RebuildError as error:
                    yield Failure(tenant, str(error))
            async for outcome in run.finish():
                yield outcome


class _Run:
    """Rebuild of some tenants together, from their plans to their swaps."""

    def __init__(
        self,
        settings: Settings,
        counters: RedisCounters,
        pool: Pool,
        scan: TopicScan | None,
        options: Options,
        now_ms: Callable[[], int],
    ) -> None:
        self._settings = settings
        self._counters = counters
        self._pool = pool
        self._scan = scan
        self._options = options
        self._now_ms = now_ms
        self._slots_back = -(-settings.dedup_horizon_h // 24)
        self._works: dict[str, Work] = {}
        self._pace = Pace(events_per_s=options.events_per_s, share=1.0)
        self._topic: TopicView | None = None
        self._ends: Mapping[int, int] = {}
        self.report: Report = lambda progress: None

    # ---- the source that is not live

    async def prepare(self, tenant: str, token: str) -> None:
        """Create the tenant's new generation and write what history has of it.

        Raises RebuildError if counts would be lost, unless the options force it.
        """
        await self._look_at_topic()
        catalog = await load_catalog(self._pool, tenant)
        active = await self._counters.generation(tenant)
        reach = await self._counters.reach(active) if active else {}
        notes = await self._drop_unfinished(tenant)
        async with open_sums(self._pool, tenant) as history:
            plan = make_plan(
                self._options.source, self._topic, HistoryView(history.positions), reach
            )
            gaps = await self._check_lost(tenant, plan, history, active)
            builder = await self._create(catalog, token, plan, gaps)
            work = Work(
                tenant=tenant,
                types=frozenset(catalog.outcome_types),
                active=active,
                active_events=await self._counters.events(active) if active else None,
                builder=builder,
                starts=plan.topic_starts,
                given_up={each.source for each in plan.lost},
                notes=notes,
            )
            self._works[tenant] = work
            try:
                await self._fill(work, plan, history)
            except BaseException:
                del self._works[tenant]
                await builder.drop()
                raise

    async def _fill(self, work: Work, plan: Plan, history: HistorySums) -> None:
        meter = self._meter(work.tenant)
        below = None
        if not plan.whole_history and self._topic is not None:
            below = Below(self._topic.topic_id, work.starts)
        if plan.uses_history:
            work.rows = await write_sums(history, work.builder, below, meter)
        tail = sum(max(0, self._ends[p] - start) for p, start in work.starts.items())
        oldest_slot = await self._oldest_slot(work.starts)
        if self._options.source == "history" and tail <= TAIL_MAX:
            await write_identities(history, work.builder, oldest_slot, below, meter)
            return
        work.seen = SeenIdentities(self._slots_back)
        work.sums = EventSums(work.builder.calendar, work.builder.generation.day)
        if plan.uses_history:
            await see_identities(history, work.seen, oldest_slot, below)

    async def _look_at_topic(self) -> None:
        progress = await self._counters.reports.progress()
        now_ms = self._now_ms()
        is_live = any(now_ms - report.at_ms < PROGRESS_OLD_MS for report in progress)
        self._pace.share = SHARE if is_live else 1.0
        if self._scan is not None:
            self._topic = TopicView(self._scan.topic_id, await self._scan.earliest())
            self._ends = await self._scan.ends()

    async def _check_lost(
        self, tenant: str, plan: Plan, history: HistorySums, active: Generation | None
    ) -> list[Offsets]:
        """Return the ranges that make the new generation incomplete: history has rows in them.

        Raises RebuildError where the options do not allow a loss.
        """
        lost = list(plan.lost)
        unused = 0
        if not plan.uses_history and self._topic is not None:
            unused = await history.rows(Below(self._topic.topic_id, plan.topic_starts))
            if not unused:  # history has passed these offsets, and the tenant has nothing there
                known = [Offsets(key, 0, offset) for key, offset in history.positions.items()]
                lost = without(lost, known)
        if not lost:
            return []
        number = active.number if active else 0
        reason = (
            f"tenant {tenant}: history has {unused:,} events that the topic no longer holds; "
            "use --from auto"
            if unused
            else f"tenant {tenant}: counts would be lost: generation {number} has counted up to "
            f"{describe(lost)}, which neither the topic nor history has"
        )
        if not self._options.force:
            raise RebuildError(f"{reason}; --force rebuilds without them")
        logger.warning("rebuilding with a loss of counts", tenant=tenant, lost=describe(lost))
        return lost if unused else []

    async def _create(
        self, catalog: Catalog, token: str, plan: Plan, gaps: Sequence[Offsets]
    ) -> Builder:
        calendar = Calendar(catalog.timezone)
        generation = await self._counters.build(
            catalog.tenant,
            day=calendar.day_of(self._now_ms()),
            timezone=catalog.timezone,
            token=token,
            watermarks=[*plan.watermarks, Position(BUILD_LOG, 0, 0)],
            gaps={Position(*gap.source, gap.first): gap.end for gap in gaps},
        )
        return Builder(
            self._counters,
            self._counters.builds,
            self._pace,
            generation=generation,
            calendar=calendar,
            watermarks=plan.topic_starts,
        )

    async def _drop_unfinished(self, tenant: str) -> list[str]:
        """Drop what a killed rebuild has left; return a note about it."""
        numbers = await self._counters.unfinished(tenant)
        for number in numbers:
            await self._counters.drop(Generation(tenant, number, 0, "", False))
        if not numbers:
            return []
        return [f"started afresh: dropped generation {numbers[-1]} of an interrupted rebuild"]

    async def _oldest_slot(self, starts: Mapping[int, int]) -> int:
        """Return the oldest slot whose identities the records from `starts` on may repeat."""
        arrived_ms = self._now_ms()
        if self._scan is None:
            arrivals = (await self._counters.reports.arrivals()).values()
            arrived_ms = min(arrivals, default=0) or arrived_ms
        else:
            first_ms = await self._scan.first_arrival_ms(starts, self._ends)
            arrived_ms = arrived_ms if first_ms is None else min(arrived_ms, first_ms)
        return arrived_ms // DAY_MS - self._slots_back

    # ---- the topic

    async def finish(self) -> AsyncIterator[RebuildResult | Failure]:
        """Write what the topic has, catch up with its head, and swap; yield each outcome."""
        works = self._works
        if not works:
            return
        tally = Tally()
        reader = RecordReader(self._settings, {t: w.types for t, w in works.items()}, tally)
        meter = self._meter(next(iter(works)) if len(works) == 1 else f"{len(works)} tenants")
        pending = dict(works)
        try:
            await self._sum_topic(reader, tally, meter)
            follower = Follower(
                self._scan, works, reader, self._counters, meter, now_ms=self._now_ms
            )
            await follower.catch_up()
            if self._scan is not None:
                await self._scan.check_topic_id()
            for work in list(works.values()):
                outcome = await self._activate(work, follower)
                if isinstance(outcome, RebuildResult) and not self._options.dry_run:
                    del pending[work.tenant]
                yield outcome
        except (OffsetsGone, TopicChanged) as error:
            for tenant in list(pending):
                yield Failure(tenant, f"{error}; the live counters are unchanged")
        finally:
            for work in pending.values():
                await work.builder.drop()

    async def _sum_topic(self, reader: RecordReader, tally: Tally, meter: ProgressMeter) -> None:
        summed = {tenant: work for tenant, work in self._works.items() if work.sums is not None}
        if not summed or self._scan is None:
            return
        summer = TopicSummer(
            self._scan,
            summed,
            reader,
            tally,
            self._pace,
            meter,
            slots_back=self._slots_back,
            now_ms=self._now_ms,
        )
        for _ in range(ROUNDS_MAX):
            ends = await self._scan.ends()
            await summer.sum_to(ends)
            ahead = await self._scan.ends()
            if sum(ahead.values()) - sum(ends.values()) <= TAIL_MAX:
                break
        await summer.finish(await self._oldest_slot(summer.positions))

    async def _activate(self, work: Work, follower: Follower) -> RebuildResult | Failure:
        previous = work.active.number if work.active else None
        swapped = Activated(work.builder.generation.number, previous, ())
        try:
            if self._options.dry_run:
                await follower.finish(work)
            else:
                swapped = await follower.swap(work, force=self._options.force)
                await self._drop_others(work)
        except RebuildError as error:
            return Failure(work.tenant, str(error))
        return RebuildResult(
            tenant=work.tenant,
            generation=swapped.generation,
            previous_generation=previous,
            events=work.builder.events,
            previous_events=work.active_events,
            from_history=work.rows,
            behind=swapped.behind,
            notes=work.notes,
        )

    async def _drop_others(self, work: Work) -> None:
        """Drop all generations except the active one and the one before it."""
        new = work.builder.generation
        for number in range(1, new.number):
            if work.active is None or number != work.active.number:
                await self._counters.drop(new._replace(number=number))

    def _meter(self, tenant: str) -> ProgressMeter:
        return ProgressMeter(tenant, self.report, self._now_ms)


@asynccontextmanager
async def open_rebuilder(
    settings: Settings, *, report: Report = lambda progress: None
) -> AsyncIterator[Rebuilder]:
    """Open the stores and yield a Rebuilder on them. No connection is made before it is needed."""
    async with (
        open_counters(settings) as counters,
        open_pool(settings, max_size=2) as pool,
    ):
        yield Rebuilder(settings, counters, pool, report=report)


async def rebuild_inconsistent(
    settings: Settings, *, report: Report = lambda progress: None
) -> list[RebuildResult | Failure]:
    """Rebuild the tenants whose counters do not match history; return the outcomes.

    For a start on data that a crash may have left inconsistent, when the topic that could repair
    the counters is gone too.
    """
    async with open_rebuilder(settings, report=report) as rebuilder:
        return [outcome async for outcome in rebuilder.rebuild_inconsistent()]
