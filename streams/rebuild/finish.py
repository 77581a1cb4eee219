"""Second part of a rebuild: what the topic has, catching up with its head, and the swap."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Final

from store.counters import Activated
from store.postgres.history import HistoryWriter
from streams.kafka.topic_scan import OffsetsGone, TopicChanged
from streams.rebuild.context import Context
from streams.rebuild.errors import RebuildError
from streams.rebuild.follow import Follower
from streams.rebuild.from_topic import TopicSummer
from streams.rebuild.progress import ProgressMeter
from streams.rebuild.records import RecordReader
from streams.rebuild.results import Failure, RebuildResult
from streams.rebuild.takeover import sum_since
from streams.rebuild.verify import check_rows, compare_with_history
from streams.rebuild.work import Work, Works

#: How often the records that arrived meanwhile are summed, before the rest is followed.
ROUNDS_MAX: Final = 5
#: Fewer records than this are followed.
ROUND_MIN: Final = 5_000


class Finisher:
    """Finishes the generations of some tenants together: the topic is read once for all."""

    def __init__(self, context: Context, works: Works) -> None:
        self._context = context
        self._works = works

    async def finish(self) -> AsyncIterator[RebuildResult | Failure]:
        """Write what the topic has, catch up with its head, and swap; yield each outcome."""
        works = self._works
        if not works:
            return
        pending = works.tenants
        reader = RecordReader(self._context.settings, {t: w.types for t, w in pending.items()})
        meter = self._context.meter(_name(list(pending)))
        try:
            await self._sum_topic(reader, meter)
            follower = Follower(self._context, works, reader, meter)
            await follower.catch_up()
            await self._check_topic()
            for work in list(pending.values()):
                outcome = await self._activate(work, follower)
                if isinstance(outcome, RebuildResult) and not self._context.options.dry_run:
                    del pending[work.tenant]
                yield outcome
        except (OffsetsGone, TopicChanged) as error:
            for tenant in list(pending):
                yield Failure(tenant, f"{error}; the live counters are unchanged")
        finally:
            for work in pending.values():
                await work.builder.drop()

    async def _sum_topic(self, reader: RecordReader, meter: ProgressMeter) -> None:
        summed = Works({n: work for n, work in self._works.items() if work.sums is not None})
        if not summed or self._context.scan is None:
            return
        writer = HistoryWriter(self._context.pool)
        stored = await writer.positions(self._context.scan.topic_id)
        summer = TopicSummer(
            self._context.scan,
            summed,
            reader,
            self._context.pace,
            self._context.owners,
            meter,
            slots_back=self._context.slots_back,
            stored=stored,
            now_ms=self._context.now_ms,
        )
        await sum_since(summer, summed, await self._context.scan.ends())
        for _ in range(ROUNDS_MAX):
            ends = await self._context.scan.ends()
            await summer.sum_to(ends)
            # Written now: what arrives meanwhile is summed in the next round, which is several
            # times as fast as following it.
            await summer.write()
            ahead = await self._context.scan.ends()
            if sum(ahead.values()) - sum(ends.values()) <= ROUND_MIN:
                break
        shards = self._context.counters.shards
        for first in summed.tenants.values():
            if first.active is not None:  # also what it has remembered meanwhile
                slots = (await shards.state(first.active.layout)).slots
                for work in first.shards:
                    work.slots |= set(slots)
        await summer.finish(await self._context.oldest_slot(summer.positions))

    async def _activate(self, work: Work, follower: Follower) -> RebuildResult | Failure:
        """Activate the new generation of a tenant, given the work of its shard 0."""
        previous = work.active.number if work.active else None
        swapped = Activated(work.builder.generation.number, previous, ())
        try:
            for each in work.shards:
                await follower.finish(each)
            follower.meter.begin("verifying", None)
            for each in work.shards:
                work.notes += await self._check_rows(each)
            work.notes += await compare_with_history(self._context, work)
            if not self._context.options.dry_run:
                await follower.catch_up()
                await self._check_topic()  # the tenants before may have taken minutes
                swapped = await follower.swap(work, force=self._context.options.force)
                await self._drop_others(work)
        except RebuildError as error:
            return Failure(work.tenant, str(error))
        return RebuildResult(
            tenant=work.tenant,
            generation=swapped.generation,
            previous_generation=previous,
            events=sum(each.builder.events for each in work.shards),
            previous_events=work.active_events,
            from_history=sum(each.rows for each in work.shards),
            behind=swapped.behind,
            notes=work.notes,
            shards=work.shard.shards,
            previous_shards=work.active.shards if work.active else 1,
        )

    async def _check_rows(self, work: Work) -> list[str]:
        """Raise RebuildError if a new shard lacks rows of history; return a note if forced."""
        missing = await check_rows(self._context, work)
        if not missing:
            return []
        reason = (
            f"history has {missing:,} events that the new generation lacks: the topic no longer "
            "gives them, because it was truncated, or their type or size is not accepted any more"
        )
        if not self._context.options.force:
            raise RebuildError(
                f"tenant {work.tenant}: {reason}; use --from history, which has them; the live "
                "counters are unchanged"
            )
        await work.builder.doubt()
        return [f"{reason}; history answers until a rebuild --from history"]

    async def _check_topic(self) -> None:
        """Raise TopicChanged if the topic was recreated: its offsets are others then."""
        if self._context.scan is not None:
            await self._context.scan.check_topic_id()

    async def _drop_others(self, work: Work) -> None:
        """Drop all generations except the active one and the one before it."""
        new = work.builder.generation
        previous = work.active.number if work.active else None
        for each in await self._context.counters.generations(work.tenant):
            if each.number not in (new.number, previous) and not each.active:
                await self._context.counters.drop(new._replace(number=each.number))


def _name(tenants: Sequence[str]) -> str:
    return tenants[0] if len(tenants) == 1 else f"{len(tenants)} tenants"
