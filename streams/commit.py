"""What a worker believes of each tenant's counters, and how it comes to the truth.

The commit protocol lives here: `CounterCommitter.commit` sends one batch of one tenant and
partition, and where the store refuses it takes the store's values and goes on: skips what is counted, recounts,
or says where reading must go back to.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Protocol

from store import metrics
from store.counters import (
    Committed,
    CounterStore,
    Deltas,
    Duplicates,
    Generation,
    Position,
)
from store.logs import get_logger
from store.records import Grouping, SourcedEvent, StoreUnavailable
from store.windows import Calendar
from streams.aggregate import aggregate, by_slot, distinct
from streams.freshness import Freshness
from streams.retry import retried

logger = get_logger("ledger")


class RewindRequired(Exception):
    """The store has less than was read: it lost its tail, or everything. What it lacks must be
    read again."""


@dataclasses.dataclass
class TenantState:
    """One tenant, as this worker believes the store to be."""

    generation: Generation
    calendar: Calendar
    watermarks: dict[int, int]
    """Of the log that is read now."""


@dataclasses.dataclass(frozen=True)
class ReadSession:
    """One time of reading, from an assignment or a step back to the next."""

    topic_id: str
    starts: Mapping[int, int]
    """Partition -> the offset up to which all tenants were counted when it began."""
    first: Mapping[int, int]
    """Partition -> the first offset that the log had then."""
    committed_through: dict[tuple[str, int], int]
    """(tenant, partition) -> the offset up to which its events were handed over and are counted; of
    those that are not here, none came since `starts`."""

    def check_not_behind(self, account: TenantState, partition: int) -> None:
        """A batch holds what a tenant has since the batch before. So its counters must have all
        before that, whichever generation they are: a rebuild or a rollback may have put one in
        place that is behind, in this partition or another. Raises RewindRequired where it is."""
        tenant, number = account.generation.tenant, account.generation.number
        read = self.committed_through.get((tenant, partition), self.starts.get(partition, 0))
        mark = account.watermarks.get(partition, self.first.get(partition, 0))
        if mark < read:
            raise RewindRequired(
                f"generation {number} of tenant {tenant} is at {mark} of partition {partition}, "
                f"not at {read}"
            )


class HistoryView(Protocol):
    """What history can tell of its contents. Both raise StoreUnavailable."""

    async def covers(self, tenant: str, topic_id: str, starts: Mapping[int, int]) -> bool:
        """Whether reading `log` from `starts` meets every row of the tenant; with no starts,
        whether there is no row."""
        ...

    async def positions(self, topic_id: str) -> Mapping[int, int]:
        """Partition -> the offset below which the log is in history."""
        ...


class CounterCommitter:
    def __init__(
        self,
        store: CounterStore,
        history: HistoryView,
        *,
        now_ms: Callable[[], int],
        timezone_of: Callable[[str], Awaitable[str]],
        tenants_max: int = 10_000,
    ) -> None:
        """`timezone_of(tenant)`: its IANA name. `tenants_max`: how many may have counters."""
        self.tenants_max = tenants_max
        self._store = store
        self._history = history
        self._now_ms = now_ms
        self._timezone_of = timezone_of
        self._accounts: dict[str, TenantState] = {}
        self._opening: dict[str, asyncio.Lock] = {}
        self._reading = ReadSession("", {}, {}, {})
        self._over: set[tuple[str, Grouping]] = set()
        self.freshness = Freshness()

    async def counted(self, topic_id: str, first: Mapping[int, int]) -> dict[int, int]:
        """Partition -> the offset up to which the log is counted for every tenant there is.
        `first`: the first offset that each partition still has: counters without a watermark of it
        have counted nothing of it."""
        lowest: dict[int, int] = {}
        for tenant in await self._store.tenants():
            generation = await self._store.generation(tenant)
            if generation is not None:
                marks = await self._store.watermarks(generation, topic_id)
                for partition, offset in first.items():
                    mark = marks.get(partition, offset)
                    lowest[partition] = min(mark, lowest.get(partition, mark))
        # Where nothing is counted yet, counting begins where the log does: retention may have taken
        # what was before, and counters that lack it must not pass for complete.
        return {partition: lowest.get(partition, offset) for partition, offset in first.items()}

    def start_session(
        self, topic_id: str, starts: Mapping[int, int], first: Mapping[int, int] | None = None
    ) -> None:
        """Forgets all beliefs. `starts`: what `counted` answered; reading begins there or before.
        `first`: as there."""
        self._reading = ReadSession(topic_id, dict(starts), dict(first or {}), {})
        self._accounts.clear()
        self._over.clear()
        self.freshness.begin(self._now_ms())

    @property
    def tenants(self) -> Sequence[str]:
        return list(self._accounts)

    def behind(self, partition: int, offset: int) -> list[str]:
        """The tenants that are believed to be counted up to less than `offset` of the partition,
        those furthest behind first."""
        marks = {
            tenant: account.watermarks.get(partition, 0)
            for tenant, account in self._accounts.items()
        }
        return sorted((t for t, mark in marks.items() if mark < offset), key=marks.__getitem__)

    async def refused(self, tenants: Iterable[str]) -> set[str]:
        """Of these tenants those that are new, and one too many. They must not be counted. The
        others have counters from here on: before anything of a slice is counted for one tenant, all
        of its tenants must be there. Else, after a crash in between, nobody knows that of a tenant
        without counters there are events below what every tenant has counted."""
        new = [tenant for tenant in tenants if tenant not in self._accounts]
        if not new:
            return set()
        refused = set(await retried("counters", lambda: self._store.refused(new, self.tenants_max)))
        await asyncio.gather(*(self.account(tenant) for tenant in new if tenant not in refused))
        return refused

    async def account(self, tenant: str) -> TenantState:
        """The tenant's account; creates its first generation where the store has none. Raises
        RewindRequired where that has less than was read."""
        known = self._accounts.get(tenant)
        if known is not None:
            return known
        async with self._opening.setdefault(tenant, asyncio.Lock()):
            while tenant not in self._accounts:
                reading = self._reading
                account = await retried("counters", functools.partial(self._open, tenant, reading))
                if reading is self._reading:  # else it is of a log, or a time, that is over
                    for partition in reading.starts:
                        reading.check_not_behind(account, partition)
                    self._accounts[tenant] = account
            return self._accounts[tenant]

    async def adopt_generation(self, active: Generation) -> None:
        """Takes up that `active` is the tenant's generation now. Without it, a tenant that has no
        events would not learn of a rebuild or a rollback. Raises RewindRequired."""
        if not self._reading.topic_id:
            return
        known = self._accounts.get(active.tenant)
        if known is not None and known.generation.number != active.number:
            self._accounts.pop(active.tenant)
        await self.account(active.tenant)

    async def _open(self, tenant: str, reading: ReadSession) -> TenantState:
        generation = await self._store.generation(tenant)
        if generation is None:
            generation = await self._create(tenant, reading)
        marks = await self._store.watermarks(generation, reading.topic_id)
        return TenantState(generation, Calendar(generation.timezone), dict(marks))

    async def _create(self, tenant: str, reading: ReadSession) -> Generation:
        zone = await self._timezone_of(tenant)
        try:
            complete = await self._history.covers(tenant, reading.topic_id, {})
        except StoreUnavailable as error:
            logger.warning("completeness unknown yet", tenant=tenant, error=str(error))
            complete = False
        if not complete:
            logger.warning(
                "counters start afresh though the tenant has a history; history answers until "
                "they hold all of it",
                tenant=tenant,
                starts=reading.starts,
            )
        return await self._store.create(
            tenant,
            day=Calendar(zone).day_of(self._now_ms()),
            timezone=zone,
            complete=complete,
            # The tenant has nothing counted, and so nothing below what all tenants have counted.
            watermarks=[
                Position(reading.topic_id, p, offset) for p, offset in reading.starts.items()
            ],
        )

    async def try_mark_complete(self, tenant: str) -> bool:
        """Looks whether counters that started afresh hold everything by now, and lets them answer
        if so. False where the log does not reach back to all of the tenant's history: only a
        rebuild from history completes these."""
        topic_id = self._reading.topic_id
        if not topic_id:
            return False
        account = await self.account(tenant)
        generation = account.generation
        if generation.complete:
            return True
        starts = await self._store.first_watermarks(generation, topic_id)
        if not await self._history.covers(tenant, topic_id, starts):
            return False
        lost = await self._store.last_lost(topic_id)
        if any(first >= starts.get(partition, 0) for partition, first in lost.items()):
            return False  # history may have of them what reading did not meet
        counted = await self._store.watermarks(generation, topic_id)
        stored = await self._history.positions(topic_id)
        if all(counted.get(p, 0) >= offset for p, offset in stored.items()):
            await self._store.mark_complete(generation)
            account.generation = generation._replace(complete=True)
            logger.info("counters are complete", tenant=tenant)
        return True

    async def commit(
        self, tenant: str, partition: int, events: Sequence[SourcedEvent], next_offset: int
    ) -> None:
        """Counts `events`, all that the tenant has of the partition from its watermark to
        `next_offset`. Raises RewindRequired when the store has less than that watermark."""
        reading = self._reading
        events, repeated = distinct(events)
        metrics.DUPLICATES.inc(repeated)
        events = by_slot(events)
        account = await self.account(tenant)
        while True:
            reading.check_not_behind(account, partition)
            expected_offset = account.watermarks.get(partition)
            if expected_offset is not None:
                if expected_offset >= next_offset:
                    reading.committed_through[tenant, partition] = next_offset
                    return
                events = [e for e in events if e.offset >= expected_offset]
            generation = account.generation
            deltas = aggregate(events, account.calendar)
            answer = await retried(
                "counters",
                lambda g=generation, b=expected_offset, d=deltas: self._store.commit(  # type: ignore[misc]
                    g,
                    topic_id=reading.topic_id,
                    partition=partition,
                    expected_offset=b,
                    next_offset=next_offset,
                    deltas=d,
                ),
            )
            if isinstance(answer, Committed):
                account.watermarks[partition] = next_offset
                reading.committed_through[tenant, partition] = next_offset
                metrics.COUNTED.inc(len(events))
                arrived_ms = [e.recorded_ms for e in events]
                self.freshness.note(partition, arrived_ms, self._now_ms())
                if answer.overflow:
                    self._tell_over(tenant, answer.overflow)
                return
            if isinstance(answer, Duplicates):
                places = set(answer.indexes)
                events = [e for i, e in enumerate(events) if i not in places]
                metrics.DUPLICATES.inc(len(places))
                continue
            metrics.REFUSED.inc()
            if answer.generation is None:
                raise RewindRequired(f"the counters of tenant {tenant} are gone")
            if answer.generation != generation.number:
                logger.info("new generation", tenant=tenant, number=answer.generation)
                if self._accounts.get(tenant) is account:
                    self._accounts.pop(tenant)
                account = await self.account(tenant)
                if reading is not self._reading:
                    raise RewindRequired("reading has begun anew meanwhile")
                continue
            if answer.day is not None and answer.day != generation.day:
                account.generation = generation._replace(day=answer.day)
            if answer.watermark != expected_offset:
                if answer.watermark is None or (
                    expected_offset is not None and answer.watermark < expected_offset
                ):
                    raise RewindRequired(
                        f"the counters of tenant {tenant} are at {answer.watermark} of partition "
                        f"{partition}, not at {expected_offset}"
                    )
                account.watermarks[partition] = answer.watermark

    def _tell_over(self, tenant: str, over: Sequence[tuple[Grouping, int]]) -> None:
        for grouping, interactions in over:
            metrics.OVER_LIMIT.labels(grouping).inc(interactions)
            if (tenant, grouping) not in self._over:
                self._over.add((tenant, grouping))
                logger.warning(
                    "too many groups: new ones are counted as one, and history answers for this "
                    "grouping until KEYS_PER_GROUPING_MAX is raised and the counters are rebuilt",
                    tenant=tenant,
                    grouping=grouping,
                )

    async def reset(self, partition: int, offset: int) -> None:
        """Takes the watermarks of all tenants back to `offset` where they are after it: the log
        was cut, and what comes from there on is new."""
        reading = self._reading
        for tenant in await self._store.tenants():
            account = await self._open(tenant, reading)
            while (expected_offset := account.watermarks.get(partition, 0)) > offset:
                answer = await self._store.commit(
                    account.generation,
                    topic_id=reading.topic_id,
                    partition=partition,
                    expected_offset=expected_offset,
                    next_offset=offset,
                    deltas=Deltas(),
                )
                if isinstance(answer, Committed):
                    break
                account = await self._open(tenant, reading)
