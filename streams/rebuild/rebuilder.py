"""Rebuild of counters: a new generation beside the active one, then one swap.

The live worker and the readers keep running. The new generation is filled from history, from the
topic, or from both without a seam; it follows the topic until it is ahead of the live counters, and
one script activates it. The worker's next commit is refused and continues in the new generation.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from store.clock import system_clock_ms
from store.offsets import Gap, describe
from store.postgres.history import HistoryWriter
from store.postgres.pool import Pool, open_pool
from store.redis.counters import RedisCounters, open_counters
from store.settings import Settings
from streams.kafka.topic_scan import TopicScan
from streams.rebuild.context import Context, open_topic
from streams.rebuild.errors import AlreadyRunningError, RebuildError
from streams.rebuild.finish import Finisher
from streams.rebuild.lease import lease
from streams.rebuild.pace import Pace
from streams.rebuild.plan import TopicView
from streams.rebuild.prepare import Preparer
from streams.rebuild.progress import Report
from streams.rebuild.publish import publishing
from streams.rebuild.results import Failure, Options, RebuildResult, Refused, RollbackResult
from streams.rebuild.work import Works

#: A rebuild repeats a call whose answer was lost. Each script does nothing the second time, or is
#: refused and then compared with what it was to do.
RETRIES: Final = 5
#: Tenants whose generations are built at once from the topic, which is then read once for all.
TENANTS_MAX: Final = 1_000


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
        async with open_topic(self._settings) as scan:
            topic = None if scan is None else TopicView(scan.topic_id, await scan.earliest())
            for name in [tenant] if tenant else await self._counters.tenants():
                reason = await self._cannot_roll_back(name, topic) if not force else None
                done = None
                if reason is None:
                    done = await self._counters.rollback(name, now_ms=self._now_ms())
                if done is None:
                    yield Failure(name, reason or await self._no_previous(name))
                else:
                    yield RollbackResult(name, done.generation, done.behind)

    async def _cannot_roll_back(self, tenant: str, topic: TopicView | None) -> str | None:
        active = await self._counters.generation(tenant)
        previous = active and await self._counters.previous(active)
        if active is None or previous is None or topic is None:
            return None
        shards = self._counters.shards
        before = await shards.layout(tenant, previous.number)
        counted = (await shards.state(before)).lowest
        lost = []
        for source, end in (await shards.state(active.layout)).reach.items():
            first = counted.get(source, 0)
            held = topic.earliest.get(source[1], 0) if source[0] == topic.topic_id else end
            if first < min(end, held):
                lost.append(Gap(*source, first, min(end, held)))
        if not lost:
            return None
        return (
            f"generation {previous.number} has not counted {describe(lost)}, which the topic no "
            "longer holds; rebuild instead, or use --force: history answers then until a rebuild"
        )

    async def _no_previous(self, tenant: str) -> str:
        active = await self._counters.generation(tenant)
        number = await self._counters.dropped_previous(active) if active else None
        if number is None:
            return "there is no generation before the active one"
        return (
            f"generation {number}, the one before the active one, is gone: workers drop replaced "
            f"generations after GENERATION_KEEP_H ({self._settings.generation_keep_h}) hours"
        )

    async def _is_consistent(self, tenant: str) -> bool:
        generation = await self._counters.generation(tenant)
        for name in generation.layout.names if generation else ():
            shard = await self._counters.generation(name)
            if shard is None or not shard.complete:
                return False
            watermarks = await self._counters.all_watermarks(shard)
            if not await self._history.matches_counters(tenant, watermarks):
                return False
        return generation is not None

    async def _rebuild_together(
        self, tenants: Sequence[str], options: Options
    ) -> AsyncIterator[RebuildResult | Failure]:
        began_ms = self._now_ms()
        async with (
            open_topic(self._settings) as scan,
            publishing(self._counters.builds, self._report, self._now_ms) as publisher,
            AsyncExitStack() as stack,
        ):
            if scan is None and options.source != "history":
                raise RebuildError(
                    f"--from {options.source} needs Kafka, which does not answer; "
                    "--from history does without it"
                )
            context = self._context(scan, options, publisher)
            await context.look_at_topic()
            async for outcome in self._outcomes(tenants, context, stack):
                if not (options.dry_run or isinstance(outcome, Refused)):
                    await publisher.finish(outcome, source=options.source, began_ms=began_ms)
                yield outcome

    async def _outcomes(
        self, tenants: Sequence[str], context: Context, stack: AsyncExitStack
    ) -> AsyncIterator[RebuildResult | Failure]:
        preparer = Preparer(context)
        works = Works()
        try:
            for tenant in tenants:
                token = uuid.uuid4().hex
                try:
                    await stack.enter_async_context(lease(self._counters.builds, tenant, token))
                    work = await preparer.prepare(tenant, token)
                    works.update({each.name: each for each in work.shards})
                except AlreadyRunningError as error:
                    yield Refused(tenant, str(error))
                except RebuildError as error:
                    yield Failure(tenant, str(error))
        except BaseException:
            for work in works.tenants.values():
                await work.builder.drop()
            raise
        if works:
            async for outcome in Finisher(context, works).finish():
                yield outcome

    def _context(self, scan: TopicScan | None, options: Options, report: Report) -> Context:
        return Context(
            settings=self._settings,
            counters=self._counters,
            pool=self._pool,
            scan=scan,
            options=options,
            pace=Pace(events_per_s=options.events_per_s, share=1.0),
            now_ms=self._now_ms,
            report=report,
        )


@asynccontextmanager
async def open_rebuilder(
    settings: Settings,
    *,
    now_ms: Callable[[], int] = system_clock_ms,
    report: Report = lambda progress: None,
) -> AsyncIterator[Rebuilder]:
    """Open the stores and yield a Rebuilder on them. No connection is made before it is needed."""
    async with (
        open_counters(settings, retries=RETRIES) as counters,
        open_pool(settings, max_size=2) as pool,
    ):
        yield Rebuilder(settings, counters, pool, now_ms=now_ms, report=report)


async def rebuild_inconsistent(
    settings: Settings, *, report: Report = lambda progress: None
) -> list[RebuildResult | Failure]:
    """Rebuild the tenants whose counters do not match history; return the outcomes.

    For a start on data that a crash may have left inconsistent, when the topic that could repair
    the counters is gone too.
    """
    async with open_rebuilder(settings, report=report) as rebuilder:
        return [outcome async for outcome in rebuilder.rebuild_inconsistent()]
