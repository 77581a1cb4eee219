"""The part of a rebuild that history answers: sums and identities of one snapshot."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection

from store.identity_owners import ENTRY_BYTES, ID_BYTES, OWNER_BYTES
from store.postgres.sums import Below, HistorySums, first_tile_day
from store.records import Grouping
from streams.rebuild.builder import Builder
from streams.rebuild.errors import RebuildError
from streams.rebuild.identities import SeenIdentities
from streams.rebuild.pace import Pace
from streams.rebuild.progress import ProgressMeter
from streams.rebuild.sums import RowSums
from streams.rebuild.work import Work

_GROUPINGS: tuple[Grouping, ...] = ("action", "treatment", "channel")


async def write_sums(
    history: HistorySums,
    builder: Builder,
    below: Below | None,
    *,
    meter: ProgressMeter,
    pace: Pace,
) -> int:
    """Write the sums of the rows into the new generation; return the number of rows.

    Raises RebuildError if the sums of the groupings do not have as many events as there are rows.
    """
    rows = await history.rows(below)
    written_before = builder.events
    meter.begin("history", rows)
    day, calendar = builder.generation.day, builder.calendar
    sums = RowSums(first_tile_day(day))
    of_actions = of_customers = 0
    for grouping in _GROUPINGS:
        async for part in history.groups(grouping, calendar, day, below):
            await builder.write(sums.add_groups(grouping, part))
            if grouping == "action":
                of_actions += sum(row[3] for row in part)
        await builder.write(sums.end_grouping(grouping))
    async for part in history.customers(calendar, day, below):
        await builder.write(sums.add_customers(part))
        events = sum(row[4] for row in part)
        of_customers += events
        meter.update(of_customers)
        await pace.pause(events)
    await builder.write(sums.end_grouping("customer"))
    await builder.write(sums.rest())
    written = builder.events - written_before
    if not rows == of_actions == of_customers == written:
        raise RebuildError(
            f"tenant {builder.tenant}: history has {rows:,} events, but the sums of its actions "
            f"have {of_actions:,}, those of the customers {of_customers:,}, and {written:,} "
            "were written; the live counters are unchanged"
        )
    return rows


async def write_identities(
    history: HistorySums,
    work: Work,
    oldest_slot: int,
    below: Below | None,
    meter: ProgressMeter,
) -> None:
    """Write the identities of the rows that arrived in `oldest_slot` or later, or `work.slots`."""
    meter.begin("identities", None)
    done = 0
    async for slot, packed in _slots(history.identities(oldest_slot, below, work.slots)):
        await work.builder.remember(slot, packed)
        done += len(packed) // ENTRY_BYTES
        meter.update(done)


async def see_identities(
    history: HistorySums,
    seen: SeenIdentities,
    oldest_slot: int,
    below: Below | None,
    also: Collection[int],
) -> None:
    """Add the same identities to `seen`, for the records of the topic that are read next."""
    async for slot, packed in history.identities(oldest_slot, below, also):
        for at in range(0, len(packed), ENTRY_BYTES):
            owner_at = at + ID_BYTES
            seen.add(packed[at:owner_at], slot, packed[owner_at : owner_at + OWNER_BYTES])
        await asyncio.sleep(0)


async def _slots(parts: AsyncIterator[tuple[int, bytes]]) -> AsyncIterator[tuple[int, bytes]]:
    """Join the parts of each slot, which follow each other."""
    slot: int | None = None
    joined: list[bytes] = []
    async for of, packed in parts:
        if slot is not None and of != slot:
            yield slot, b"".join(joined)
            joined = []
        slot = of
        joined.append(packed)
    if slot is not None:
        yield slot, b"".join(joined)
