"""Second part of a rebuild: what the topic has, catching up with its head, and the swap."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final

from store.counters import Activated
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
from streams.rebuild.work import Work

#: How often the records that arrived meanwhile are summed, before the rest is followed.
ROUNDS_MAX: Final = 5
#: Fewer records than this are followed.
ROUND_MIN: Final = 5_000


class Finisher:
    """Finishes the generations of some tenants together: the topic is read once for all."""

    def __init__(self, context: Context, works: Mapping[str, Work]) -> None:
        self._context = context
        self._works = works

    async def finish(self) -> AsyncIterator[RebuildResult | Failure]:
        """Write what the topic has, catch up with its head, and swap; yield each outcome."""
        works = self._works
        if not works:
            return
        reader = RecordReader(self._context.settings, {t: w.types for t, w in works.items()})
        meter = self._context.meter(_name(list(works)))
        pending = dict(works)
        try:
            await self._sum_topic(reader, meter)
            follower = Follower(self._context, works, reader, meter)
            await follower.catch_up()
            await self._check_topic()
            for work in list(works.values()):
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
        summed = {tenant: work for tenant, work in self._works.items() if work.sums is not None}
        if not summed or self._context.scan is None:
            return
        summer = TopicSummer(
            self._context.scan,
            summed,
            reader,
            self._context.pace,
            meter,
            slots_back=self._context.slots_back,
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
        for work in summed.values():
            if work.active is not None:  # also what it has remembered meanwhile
                work.slots |= await self._context.counters.identity_slots(work.active)
        await summer.finish(await self._context.oldest_slot(summer.positions))

    async def _activate(self, work: Work, follower: Follower) -> RebuildResult | Failure:
        previous = work.active.number if work.active else None
        swapped = Activated(work.builder.generation.number, previous, ())
        try:
            await follower.finish(work)
            follower.meter.begin("verifying", None)
            await self._check_rows(work)
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
            events=work.builder.events,
            previous_events=work.active_events,
            from_history=work.rows,
            behind=swapped.behind,
            notes=work.notes,
        )

    async def _check_rows(self, work: Work) -> None:
        """Raise RebuildError if the new generation lacks rows of history, unless forced."""
        missing = await check_rows(self._context, work)
        if not missing:
            return
        reason = (
            f"history has {missing:,} events that the new generation lacks: the topic no longer "
            "gives them, because it was truncated, or their type or size is not accepted any more"
        )
        if not self._context.options.force:
            raise RebuildError(
                f"tenant {work.tenant}: {reason}; use --from history, which has them; the live "
                "counters are unchanged"
            )
        work.notes.append(f"{reason}; history answers until a rebuild --from history")
        await work.builder.doubt()

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
