"""Rebuilds a tenant's counters from history: a new generation beside the live one, and one swap.

The live worker goes on meanwhile. Its first commit after the swap is refused by the fence, which
tells it the new generation and that generation's watermarks: those of history when it was read.
From there it reads the log again, so nothing is missing and nothing is counted twice.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from store.counters import Committed, CounterStore, Deltas, Duplicates, Generation, Position
from store.postgres.pool import Pool
from store.postgres.replay import replay
from store.records import Catalog
from store.windows import DAY_MS, Calendar
from streams.aggregate import aggregate, by_slot

#: The name under which a generation that is being built notes how far it is.
BUILD_LOG: Final = "rebuild"


class Rebuilt(NamedTuple):
    tenant: str
    generation: int
    before: int | None
    """The generation that was active; kept for `--rollback`."""
    events: int


class RebuildFailed(Exception):
    """The new generation was not swapped in; the live one is as it was."""


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
) -> Rebuilt:
    """Rebuilds the counters of `catalog.tenant`, in the catalog's time zone. `progress(done,
    total)` in events. `arrived_ms`: what the worker has yet to read arrived after that. With
    `dry_run` all is built and dropped again. Raises RebuildFailed and StoreUnavailable."""
    tenant = catalog.tenant
    before = await counters.generation(tenant)
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
                while True:
                    answer = await counters.commit(
                        building,
                        topic_id=BUILD_LOG,
                        partition=0,
                        expected_offset=done,
                        next_offset=done + len(batch),
                        deltas=deltas,
                    )
                    if not isinstance(answer, Duplicates):
                        break
                    # History knows that they are two, though their remembered halves are alike.
                    deltas = _without_identities(deltas, set(answer.indexes))
                if not isinstance(answer, Committed):
                    raise RebuildFailed(
                        f"tenant {tenant}: another rebuild or a roll came between ({answer}); "
                        "run it again"
                    )
                done += len(batch)
                progress(done, history.rows)
            if done != history.rows:
                raise RebuildFailed(f"tenant {tenant}: built {done} of {history.rows} events")
            if not dry_run and not await counters.swap(building):
                raise RebuildFailed(f"tenant {tenant}: the new generation is gone")
        except BaseException:
            await counters.drop(building)
            raise
    if dry_run:
        await counters.drop(building)
    elif before is not None:
        await _drop_others(counters, before, building)
    return Rebuilt(tenant, building.number, before.number if before else None, done)


def _recent_identities(deltas: Deltas, oldest_slot: int) -> Deltas:
    """History holds each identity once; only those that may still come again are remembered."""
    kept: list[Any] = []
    flat: Sequence[Any] = deltas.identities
    for i in range(0, len(flat), 2):
        if flat[i] >= oldest_slot:
            kept += flat[i : i + 2]
    return deltas._replace(identities=kept)


def _without_identities(deltas: Deltas, places: set[int]) -> Deltas:
    kept: list[Any] = []
    place = 0
    flat: Sequence[Any] = deltas.identities
    for i in range(0, len(flat), 2):
        slot, identities = flat[i : i + 2]
        kept += (slot, [x for j, x in enumerate(identities, place) if j not in places])
        place += len(identities)
    return deltas._replace(identities=kept)


async def _drop_others(counters: CounterStore, before: Generation, active: Generation) -> None:
    """Beside the active generation only the one before it stays: not older ones, however many
    numbers lie between, nor one that a rollback had left."""
    for number in range(1, active.number):
        if number != before.number:
            await counters.drop(before._replace(number=number))
