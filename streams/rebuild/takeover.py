"""Takes the counts of the days before one over from the active generation, while it counts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final

from store.counters import Generation, Source
from store.postgres.sums import Below, HistorySums
from store.records import GROUPINGS, Grouping
from store.redis.audit import READ_GROUPS, AuditedCounters, Chunk, GenerationState, decode
from store.windows import DAY_MS, TILE_DAYS, Calendar, date_of
from streams.kafka.topic_scan import TopicChanged, first_arrivals
from streams.rebuild.base import Base, CopiedGroups, OpenOffers, base_of
from streams.rebuild.builder import Builder
from streams.rebuild.context import Context
from streams.rebuild.errors import RebuildError
from streams.rebuild.from_history import see_identities
from streams.rebuild.from_topic import TopicSummer
from streams.rebuild.identities import SeenIdentities
from streams.rebuild.late import SinceSums, Takeover
from streams.rebuild.plan import Plan
from streams.rebuild.since import (
    TopicTimes,
    day_of,
    narrow,
    why_no_day,
    why_not_from,
    why_not_read,
)
from streams.rebuild.sums import DayCounts, EventSums
from streams.rebuild.work import Work

#: Offers whose last day is found in history, of one write.
_OFFERS_MAX: Final = 5_000


class SinceRebuild:
    """What a rebuild since a day takes over from one tenant's active generation.

    Methods raise RebuildError and StoreUnavailable.
    """

    def __init__(
        self, context: Context, active: Generation, since_day: int, calendar: Calendar
    ) -> None:
        self.since_ms: Final = calendar.midnight_ms(since_day)
        self.counted_from: Mapping[int, int] = {}
        """Partition -> offset from which the topic's events of the day or later count."""
        self._context = context
        self._audited: AuditedCounters = context.counters.audited()
        self._active = active
        self._since_day = since_day
        self._first: Mapping[Source, int] = {}

    @property
    def _topic_id(self) -> str:
        assert self._context.topic is not None
        return self._context.topic.topic_id

    async def narrow(self, plan: Plan) -> Plan:
        """Return the plan for the days from the given one on."""
        scan, topic = self._context.scan, self._context.topic
        assert scan is not None and topic is not None
        self._first = (await self._state()).watermarks
        first = _of_topic(self._first, topic.topic_id)
        if reason := why_not_read(topic.topic_id, topic.earliest, first):
            raise self._error(reason)
        from_ms = self.since_ms - self._context.settings.future_tolerance_s * 1_000
        late_from = {p: max(held, first.get(p, 0)) for p, held in topic.earliest.items()}
        oldest_slot = min(
            await self._context.oldest_slot(late_from),
            int(from_ms // DAY_MS) - self._context.slots_back,
        )
        arrivals = await first_arrivals(scan, topic.earliest, self._context.ends)
        times = TopicTimes(
            topic.topic_id,
            topic.earliest,
            older={p for p, arrived_ms in arrivals.items() if arrived_ms < from_ms},
            identities_from=await scan.offsets_at(oldest_slot * DAY_MS),
            day_from=await scan.offsets_at(int(from_ms)),
        )
        plan, self.counted_from = narrow(plan, times, self._first)
        return plan

    async def fill(self, work: Work, history: HistorySums) -> None:
        """Write the counts that are taken over; prepare the sums of the topic."""
        builder, written = work.builder, work.builder.events
        takeover = await self._copy(builder, history)
        work.notes.append(
            f"{builder.events - written:,} events of the days before {date_of(self._since_day)} "
            f"are taken over from generation {self._active.number}"
        )
        day = builder.generation.day
        work.seen = SeenIdentities(self._context.slots_back)
        work.sums = EventSums(builder.calendar, day)
        work.since = SinceSums(
            takeover, builder.calendar, day, self.counted_from, work.seen, work.sums
        )
        oldest_slot = await self._context.oldest_slot(work.starts)
        below = Below(self._topic_id, work.starts)
        await see_identities(history, work.seen, oldest_slot, below, work.slots)

    async def _copy(self, builder: Builder, history: HistorySums) -> Takeover:
        """Write the counts of the days before into the new generation."""
        meter = self._context.meter(builder.tenant)
        meter.begin("counters", None)
        groups, offers = CopiedGroups(), OpenOffers()
        names: dict[bytes, str] = {}
        done = 0
        for grouping in GROUPINGS:
            async for ids in self._ids(grouping, groups):
                chunk = await self._read(grouping, ids)
                watermarks = _of_topic(chunk.generation.watermarks, self._topic_id)
                groups.add(grouping, list(chunk.groups), watermarks)
                bases = await self._bases(chunk, grouping, builder.generation.day, names)
                await builder.write(_sums_of(grouping, bases, offers).take())
                done += len(bases)
                meter.update(done)
        await self._find_offers(builder, history, offers)
        last = await self._state()
        return Takeover(
            self._since_day,
            first=_of_topic(self._first, self._topic_id),
            last=_of_topic(last.watermarks, self._topic_id),
            groups=groups,
            offers=offers,
        )

    async def _ids(self, grouping: Grouping, groups: CopiedGroups) -> AsyncIterator[Sequence[str]]:
        """Yield ids that are not copied yet; the reader may copy only the first of them."""
        waiting: dict[str, None] = {}

        async def copied() -> None:
            for id_ in [i for i in waiting if groups.watermarks_of(grouping, i) is not None]:
                del waiting[id_]

        found = self._audited.ids(self._active.tenant, self._active.number, grouping)
        async for id_ in found:
            if groups.watermarks_of(grouping, id_) is None:
                waiting[id_] = None
            if len(waiting) >= READ_GROUPS:
                yield list(waiting)
                await copied()
        while waiting:
            yield list(waiting)
            await copied()

    async def _read(self, grouping: Grouping, ids: Sequence[str]) -> Chunk:
        chunk = await self._context.pace.call(
            0, self._audited.read, self._active.tenant, grouping, ids
        )
        if chunk is None or chunk.generation.number != self._active.number:
            raise self._error("another generation was activated meanwhile; start again")
        state = chunk.generation
        if state.overflow:
            raise self._error(
                "ids beyond KEYS_PER_GROUPING_MAX or OFFERS_PER_CUSTOMER_MAX are not all known, "
                "and cannot be taken over; "
                "raise it and rebuild without --since"
            )
        if self._since_day <= state.day - TILE_DAYS:
            raise self._error("midnight passed, and the counters no longer have that day alone")
        return chunk

    async def _state(self) -> GenerationState:
        return (await self._read("action", ())).generation

    async def _bases(
        self, chunk: Chunk, grouping: Grouping, day: int, names: dict[bytes, str]
    ) -> Mapping[str, Base]:
        bases = {}
        for id_, group in chunk.groups.items():
            state = decode(group, chunk.generation, names)
            if state is None and grouping == "customer":
                # An offer has its number before it is in a record.
                names |= await self._audited.offers(self._active.tenant, self._active.number)
                state = decode(group, chunk.generation, names)
            try:
                if state is None:
                    raise ValueError("its record cannot be read")
                bases[id_] = base_of(state, self._since_day, day - TILE_DAYS)
            except ValueError as error:
                raise self._error(
                    f"{grouping} {id_}: {error}; repair it (audit --repair), or rebuild without "
                    "--since"
                ) from None
        return bases

    async def _find_offers(
        self, builder: Builder, history: HistorySums, offers: OpenOffers
    ) -> None:
        """Write the last days of open offers that history has."""
        if not offers:
            return
        sums, waiting = DayCounts(), 0
        async for rows in history.last_before(self.since_ms):
            for customer, offer, at_ms in rows:
                if (customer, offer) in offers:
                    sums.add_offer(customer, offer, builder.calendar.day_of(at_ms))
                    waiting += 1
            if waiting >= _OFFERS_MAX:
                await builder.write(sums.take())
                waiting = 0
        await builder.write(sums.take())

    def _error(self, reason: str) -> RebuildError:
        return RebuildError(f"tenant {self._active.tenant}: {reason}")


async def since_rebuild(
    context: Context, active: Generation | None, tenant: str, calendar: Calendar
) -> SinceRebuild | None:
    """Return the part of the rebuild that takes counts over; None if the options have no `since`.

    Raises RebuildError if the counts of the days before cannot be taken over.
    """
    since = context.options.since
    if since is None:
        return None
    if max(context.shards(active), active.shards if active else 1) > 1:
        raise RebuildError(f"tenant {tenant}: --since is not possible with several shards")
    if context.topic is None:
        raise RebuildError("--since needs Kafka, which does not answer")
    missing = await context.counters.missing(active) if active else None
    day, today = day_of(since, calendar), calendar.day_of(context.now_ms())
    reason = why_not_from(active, missing, context.topic.topic_id, calendar.zone)
    if reason is None and active is not None:
        reason = why_no_day(day, active.day, today)
    if reason is not None:
        raise RebuildError(f"tenant {tenant}: {reason}")
    assert active is not None
    return SinceRebuild(context, active, day, calendar)


async def sum_since(
    summer: TopicSummer, works: Mapping[str, Work], ends: Mapping[int, int]
) -> None:
    """Sum the records that the active generations may have counted while they were copied.

    Raises what the summer raises, RebuildError for too many late events, and TopicChanged.
    """
    since = {work.tenant: work.since for work in works.values() if work.since is not None}
    if not since:
        return
    # What history has is read first in all partitions: it may have a copy of a later record.
    for offsets in (
        [each.counted_from for each in since.values()],
        [each.takeover.last for each in since.values()],
    ):
        bounds = {p: max((o.get(p, 0) for o in offsets), default=0) for p in ends}
        for partition, bound in bounds.items():
            if bound > ends[partition]:
                raise TopicChanged(
                    f"partition {partition} ends before offset {bound}, which is counted or stored"
                )
        await summer.sum_to(bounds)
    for tenant, each in since.items():
        await works[tenant].builder.write(each.decide())


def _sums_of(grouping: Grouping, bases: Mapping[str, Base], offers: OpenOffers) -> DayCounts:
    sums = DayCounts()
    for id_, base in bases.items():
        for (day, outcome), n in base.counts.items():
            sums.add(grouping, id_, day, outcome, n)
        if base.counts:
            for offer, day in base.offers.items():
                sums.add_offer(id_, offer, day)
            for offer in base.open_offers:
                offers.add(id_, offer)
    return sums


def _of_topic(watermarks: Mapping[Source, int], topic_id: str) -> dict[int, int]:
    return {p: offset for (topic, p), offset in watermarks.items() if topic == topic_id}
