"""What a worker believes of each tenant's counters, and how it comes to the truth.

The commit protocol lives here: `Ledger.commit` sends one batch of one tenant and partition, and
where the store refuses it takes the store's values and goes on: skips what is counted, recounts,
or says where reading must go back to.
"""

from __future__ import annotations

import asyncio
import dataclasses
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
from store.model import Grouping, SourcedEvent, StoreUnavailable
from store.windows import Calendar
from streams.aggregate import aggregate, by_slot, distinct
from streams.freshness import Freshness
from streams.retry import retried

log = get_logger("ledger")


class SeekBack(Exception):
    """The store has less than was read: it lost its tail, or everything. What it lacks must be
    read again."""


@dataclasses.dataclass
class Account:
    """One tenant, as this worker believes the store to be."""

    generation: Generation
    calendar: Calendar
    watermarks: dict[int, int]
    """Of the log that is read now."""


class HistoryView(Protocol):
    """What history can tell of its contents. Both raise StoreUnavailable."""

    async def covers(self, tenant: str, log: str, starts: Mapping[int, int]) -> bool:
        """Whether reading `log` from `starts` meets every row of the tenant; with no starts,
        whether there is no row."""
        ...

    async def positions(self, log: str) -> Mapping[int, int]:
        """Partition -> the offset below which the log is in history."""
        ...


class Ledger:
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
        self._accounts: dict[str, Account] = {}
        self._opening: dict[str, asyncio.Lock] = {}
        self._log = ""
        self._starts: dict[int, int] = {}
        self._over: set[tuple[str, Grouping]] = set()
        self.freshness = Freshness()

    def open_log(self, log_id: str, starts: Mapping[int, int]) -> None:
        """Forgets all beliefs. `starts`: the offset that each partition of the log is known to be
        counted up to, for tenants that the store has not heard of."""
        self._log = log_id
        self._starts = dict(starts)
        self._accounts.clear()
        self._over.clear()
        self.freshness.begin(self._now_ms())

    @property
    def tenants(self) -> Sequence[str]:
        return list(self._accounts)

    async def refused(self, tenants: Iterable[str]) -> set[str]:
        """Of these tenants those that are new, and one too many. They must not be counted."""
        new = [tenant for tenant in tenants if tenant not in self._accounts]
        if not new:
            return set()
        return set(await retried("counters", lambda: self._store.refused(new, self.tenants_max)))

    async def account(self, tenant: str) -> Account:
        """The tenant's account; creates its first generation where the store has none."""
        known = self._accounts.get(tenant)
        if known is not None:
            return known
        async with self._opening.setdefault(tenant, asyncio.Lock()):
            if tenant not in self._accounts:
                self._accounts[tenant] = await retried("counters", lambda: self._open(tenant))
            return self._accounts[tenant]

    async def _open(self, tenant: str) -> Account:
        generation = await self._store.generation(tenant)
        if generation is None:
            generation = await self._create(tenant)
        marks = await self._store.watermarks(generation, self._log)
        return Account(generation, Calendar(generation.timezone), dict(marks))

    async def _create(self, tenant: str) -> Generation:
        zone = await self._timezone_of(tenant)
        starts = dict(self._starts)
        try:
            complete = await self._history.covers(tenant, self._log, {})
        except StoreUnavailable as error:
            log.warning("completeness unknown yet", tenant=tenant, error=str(error))
            complete = False
        if not complete:
            log.warning(
                "counters start afresh though the tenant has a history; history answers until "
                "they hold all of it",
                tenant=tenant,
                starts=starts,
            )
        return await self._store.create(
            tenant,
            day=Calendar(zone).day_of(self._now_ms()),
            timezone=zone,
            complete=complete,
            # The tenant has nothing counted, and so nothing below what all tenants have counted.
            watermarks=[Position(self._log, p, offset) for p, offset in starts.items()],
        )

    async def settle(self, tenant: str) -> bool:
        """Looks whether counters that started afresh hold everything by now, and lets them answer
        if so. False where the log does not reach back to all of the tenant's history: only a
        rebuild from history completes these."""
        account = await self.account(tenant)
        generation = account.generation
        if generation.complete:
            return True
        starts = await self._store.first_watermarks(generation, self._log)
        if not await self._history.covers(tenant, self._log, starts):
            return False
        lost = await self._store.last_lost(self._log)
        if any(first >= starts.get(partition, 0) for partition, first in lost.items()):
            return False  # history may have of them what reading did not meet
        counted = await self._store.watermarks(generation, self._log)
        stored = await self._history.positions(self._log)
        if all(counted.get(p, 0) >= offset for p, offset in stored.items()):
            await self._store.mark_complete(generation)
            account.generation = generation._replace(complete=True)
            log.info("counters are complete", tenant=tenant)
        return True

    async def commit(
        self, tenant: str, partition: int, events: Sequence[SourcedEvent], next_offset: int
    ) -> None:
        """Counts `events`, all that the tenant has of the partition from its watermark to
        `next_offset`. Raises SeekBack when the store has less than that watermark."""
        events, repeated = distinct(events)
        metrics.DUPLICATES.inc(repeated)
        events = by_slot(events)
        account = await self.account(tenant)
        while True:
            believed = account.watermarks.get(partition)
            if believed is not None:
                if believed >= next_offset:
                    return
                events = [e for e in events if e.offset >= believed]
            generation = account.generation
            deltas = aggregate(events, account.calendar)
            answer = await retried(
                "counters",
                lambda g=generation, b=believed, d=deltas: self._store.commit(  # type: ignore[misc]
                    g,
                    log=self._log,
                    partition=partition,
                    believed=b,
                    next_offset=next_offset,
                    deltas=d,
                ),
            )
            if isinstance(answer, Committed):
                account.watermarks[partition] = next_offset
                metrics.COUNTED.inc(len(events))
                arrived_ms = [e.recorded_ms for e in events]
                self.freshness.note(partition, arrived_ms, self._now_ms())
                if answer.over:
                    self._tell_over(tenant, answer.over)
                return
            if isinstance(answer, Duplicates):
                places = set(answer.places)
                events = [e for i, e in enumerate(events) if i not in places]
                metrics.DUPLICATES.inc(len(places))
                continue
            metrics.REFUSED.inc()
            if answer.generation is None:
                raise SeekBack(f"the counters of tenant {tenant} are gone")
            if answer.generation != generation.number:
                log.info("new generation", tenant=tenant, number=answer.generation)
                self._accounts.pop(tenant, None)
                account = await self.account(tenant)
                if believed is not None and account.watermarks.get(partition, 0) < believed:
                    raise SeekBack(f"generation {answer.generation} of tenant {tenant} is behind")
                continue
            if answer.day is not None and answer.day != generation.day:
                account.generation = generation._replace(day=answer.day)
            if answer.watermark != believed:
                if answer.watermark is None or (
                    believed is not None and answer.watermark < believed
                ):
                    raise SeekBack(
                        f"the counters of tenant {tenant} are at {answer.watermark} of partition "
                        f"{partition}, not at {believed}"
                    )
                account.watermarks[partition] = answer.watermark

    def _tell_over(self, tenant: str, over: Sequence[tuple[Grouping, int]]) -> None:
        for grouping, interactions in over:
            metrics.OVER_LIMIT.labels(grouping).inc(interactions)
            if (tenant, grouping) not in self._over:
                self._over.add((tenant, grouping))
                log.warning(
                    "too many groups: new ones are counted as one, and history answers for this "
                    "grouping until KEYS_PER_GROUPING_MAX is raised and the counters are rebuilt",
                    tenant=tenant,
                    grouping=grouping,
                )

    async def reset(self, partition: int, offset: int) -> None:
        """Takes the watermarks of all tenants back to `offset` where they are after it: the log
        was cut, and what comes from there on is new."""
        for tenant in await self._store.tenants():
            account = await self.account(tenant)
            while (believed := account.watermarks.get(partition, 0)) > offset:
                answer = await self._store.commit(
                    account.generation,
                    log=self._log,
                    partition=partition,
                    believed=believed,
                    next_offset=offset,
                    deltas=Deltas(),
                )
                if isinstance(answer, Committed):
                    break
                self._accounts.pop(tenant, None)
                account = await self.account(tenant)
