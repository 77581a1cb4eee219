"""Rebuild of the counters from history: a new generation beside the active one, then one swap.

The live worker keeps running. Its first commit after the swap is refused: the answer names the new
generation and that generation's watermarks, which are those of the history snapshot. The worker
reads the topic again from there, so that nothing is missing and nothing is counted twice.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

from store.clock import system_clock_ms
from store.counters import Committed, CounterStore, Deltas, Duplicates, Generation, Position
from store.postgres.catalog import load_catalog
from store.postgres.history import HistoryWriter
from store.postgres.pool import Pool, open_pool
from store.postgres.replay import replay
from store.records import Catalog
from store.redis.counters import RedisCounters, open_counters
from store.settings import Settings
from store.windows import DAY_MS, Calendar
from streams.aggregate import aggregate, by_slot

#: A generation under construction stores its progress as the watermark of this "topic id".
BUILD_LOG: Final = "rebuild"

#: `progress(tenant, done, total)`, in events.
Progress = Callable[[str, int, int], None]


class RebuildResult(NamedTuple):
    """Outcome of the rebuild of one tenant."""

    tenant: str
    generation: int
    previous_generation: int | None
    """The generation that was active before; kept for a rollback."""
    events: int


class RollbackResult(NamedTuple):
    """Outcome of the rollback of one tenant."""

    tenant: str
    generation: int


class RebuildError(Exception):
    """A rebuild or a rollback was not possible; the active generation is unchanged."""


def _no_progress(tenant: str, done: int, total: int) -> None:
    """Ignore the progress of a rebuild."""


class Rebuilder:
    """Rebuild and rollback of the counters of several tenants, one tenant after the other.

    All methods raise RebuildError and StoreUnavailable.
    """

    def __init__(
        self,
        settings: Settings,
        counters: RedisCounters,
        pool: Pool,
        *,
        now_ms: Callable[[], int] = system_clock_ms,
    ) -> None:
        self._settings = settings
        self._counters = counters
        self._pool = pool
        self._history = HistoryWriter(pool)
        self._now_ms = now_ms

    async def tenants(self, tenant: str | None = None) -> list[str]:
        """Return the tenants to rebuild: `tenant` only, or all tenants that have a history.

        A tenant that is named but has only counters is rebuilt too: from an empty history. Raises
        RebuildError if the tenant has neither.
        """
        tenants = await self._history.tenants()
        if tenant is None:
            return tenants
        if tenant not in tenants and await self._counters.generation(tenant) is None:
            raise RebuildError(f"tenant {tenant}: has neither a history nor counters")
        return [tenant]

    async def rebuild(
        self,
        tenants: Sequence[str],
        *,
        dry_run: bool = False,
        progress: Progress = _no_progress,
    ) -> AsyncIterator[RebuildResult]:
        """Rebuild the counters of `tenants` and yield the result of each as soon as it is done."""
        arrived_ms = (
            min((await self._counters.reports.arrivals()).values(), default=0) or self._now_ms()
        )
        for tenant in tenants:

            def report(done: int, total: int, tenant: str = tenant) -> None:
                progress(tenant, done, total)

            yield await rebuild_from_history(
                self._counters,
                self._pool,
                await load_catalog(self._pool, tenant),
                now_ms=self._now_ms,
                batch_events=self._settings.commit_batch_events,
                dedup_horizon_h=self._settings.dedup_horizon_h,
                arrived_ms=arrived_ms,
                dry_run=dry_run,
                progress=report,
            )

    async def rebuild_inconsistent(
        self, *, progress: Progress = _no_progress
    ) -> AsyncIterator[RebuildResult]:
        """Rebuild the tenants whose counters do not match history and yield the result of each."""
        for tenant in await self._history.tenants():
            if not await self._is_consistent(tenant):
                async for result in self.rebuild([tenant], progress=progress):
                    yield result

    async def roll_back(self, tenant: str | None = None) -> AsyncIterator[RollbackResult]:
        """Activate the previous generation of `tenant`, or of all tenants that have counters.

        Yields the result of each. Raises RebuildError at the first tenant without a previous
        generation; the tenants before it stay rolled back.
        """
        for name in [tenant] if tenant else await self._counters.tenants():
            done = await self._counters.rollback(name, now_ms=self._now_ms())
            if done is None:
                raise RebuildError(f"tenant {name}: there is no generation before the active one")
            yield RollbackResult(name, done.generation)

    async def _is_consistent(self, tenant: str) -> bool:
        generation = await self._counters.generation(tenant)
        if generation is None or not generation.complete:
            return False
        watermarks = await self._counters.all_watermarks(generation)
        return await self._history.matches_counters(tenant, watermarks)


@asynccontextmanager
async def open_rebuilder(settings: Settings) -> AsyncIterator[Rebuilder]:
    """Open the stores and yield a Rebuilder on them. No connection is made before it is needed."""
    async with (
        open_counters(settings, retries=3) as counters,
        open_pool(settings, max_size=2) as pool,
    ):
        yield Rebuilder(settings, counters, pool)


async def rebuild_inconsistent(
    settings: Settings, *, progress: Progress = _no_progress
) -> list[RebuildResult]:
    """Rebuild the tenants whose counters do not match history; return the results.

    For a start on data that a crash may have left inconsistent, when the topic that could repair
    the counters is gone too. Raises RebuildError and StoreUnavailable.
    """
    async with open_rebuilder(settings) as rebuilder:
        return [result async for result in rebuilder.rebuild_inconsistent(progress=progress)]


async def rebuild_from_history(
    counters: CounterStore,
    pool: Pool,
    catalog: Catalog,
    *,
    now_ms: Callable[[], int],
    batch_events: int,
    dedup_horizon_h: int,
    arrived_ms: int,
    dry_run: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> RebuildResult:
    """Rebuild the counters of `catalog.tenant` in the catalog's time zone.

    `batch_events` is the number of events per commit. `arrived_ms` is an arrival watermark: every
    record that the worker has yet to read arrived after it, so only identities from the dedup
    horizon before it are remembered. `dry_run` builds the generation and drops it again.
    `progress(done, total)` is called after each commit, in events.

    Raises RebuildError and StoreUnavailable; the new generation is dropped then.
    """
    tenant = catalog.tenant
    previous = await counters.generation(tenant)
    calendar = Calendar(catalog.timezone)
    oldest_slot = arrived_ms // DAY_MS - -(-dedup_horizon_h // 24)
    async with replay(pool, tenant, batch_events=batch_events) as history:
        building = await counters.build(
            tenant,
            day=calendar.day_of(now_ms()),
            timezone=catalog.timezone,
            token=uuid.uuid4().hex,
            watermarks=[*history.positions, Position(BUILD_LOG, 0, 0)],
        )
        try:
            done = 0
            async for batch in history.batches:
                deltas = _recent_identities(aggregate(by_slot(batch), calendar), oldest_slot)
                await _commit(counters, building, deltas, done, done + len(batch))
                done += len(batch)
                progress(done, history.rows)
            if done != history.rows:
                raise RebuildError(f"tenant {tenant}: built {done} of {history.rows} events")
            if not dry_run and (
                await counters.swap(building, now_ms=now_ms(), behind=True, fewer=True) is None
            ):
                raise RebuildError(f"tenant {tenant}: the new generation no longer exists")
        except BaseException:
            await counters.drop(building)
            raise
    if dry_run:
        await counters.drop(building)
    elif previous is not None:
        await _drop_others(counters, previous, building)
    return RebuildResult(tenant, building.number, previous.number if previous else None, done)


async def _commit(
    counters: CounterStore,
    building: Generation,
    deltas: Deltas,
    expected_offset: int,
    next_offset: int,
) -> None:
    """Add `deltas` to the generation under construction; raise RebuildError if that is refused."""
    while True:
        answer = await counters.commit(
            building,
            topic_id=BUILD_LOG,
            partition=0,
            expected_offset=expected_offset,
            next_offset=next_offset,
            deltas=deltas,
        )
        if not isinstance(answer, Duplicates):
            break
        # History knows that they are distinct events; only the truncated identities are equal.
        deltas = _without_identities(deltas, set(answer.indexes))
    if not isinstance(answer, Committed):
        raise RebuildError(
            f"tenant {building.tenant}: another rebuild or a daily roll changed the new generation "
            f"({answer}); run the rebuild again"
        )


def _recent_identities(deltas: Deltas, oldest_slot: int) -> Deltas:
    """Return `deltas` with only the identities that may still arrive again.

    History holds each identity once, so the older ones need not be remembered.
    """
    kept: list[Any] = []
    flat: Sequence[Any] = deltas.identities
    for i in range(0, len(flat), 2):
        if flat[i] >= oldest_slot:
            kept += flat[i : i + 2]
    return deltas._replace(identities=kept)


def _without_identities(deltas: Deltas, indexes: set[int]) -> Deltas:
    """Return `deltas` without the identities at `indexes`, counted over all slots."""
    kept: list[Any] = []
    start = 0
    flat: Sequence[Any] = deltas.identities
    for i in range(0, len(flat), 2):
        slot, identities = flat[i : i + 2]
        kept += (slot, [x for j, x in enumerate(identities, start) if j not in indexes])
        start += len(identities)
    return deltas._replace(identities=kept)


async def _drop_others(counters: CounterStore, previous: Generation, active: Generation) -> None:
    """Drop all generations except the active one and the one before it.

    That includes gaps in the numbers, and a newer generation that a rollback had left.
    """
    for number in range(1, active.number):
        if number != previous.number:
            await counters.drop(previous._replace(number=number))
