"""Comparison of a sample of the new generation with history, before it is activated."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from store.postgres.audit import AuditedHistory
from store.postgres.catalog import load_catalog
from store.postgres.history import HistoryWriter
from store.postgres.sums import Below, open_sums
from store.redis.audit import AuditedCounters
from store.shards import Shard
from streams.audit.auditor import Auditor, TenantAudit, make_auditor
from streams.audit.shards import joined
from streams.rebuild.context import Context
from streams.rebuild.work import Work

#: Groups of each grouping that are compared.
SAMPLE: Final = 20
#: Events of each grouping that history reads for that, unless one group alone has more.
SAMPLE_EVENTS: Final = 50_000
#: How long history may take to store what the new generation has read, if it makes progress.
WAIT_S: Final = 10.0
#: A worker stores twice a second; history that stands still for longer has no worker.
STILL_S: Final = 1.5
POLL_S: Final = 0.1
#: Cells that a note names.
CELLS_SHOWN: Final = 10


async def check_rows(context: Context, work: Work) -> int:
    """Return how many events history has, below the new watermarks, that the generation lacks.

    The topic may hold their offsets and yet not give them: it was truncated and written again, an
    outcome type is gone, a limit was lowered. Each row is an event of its own, so the generation
    has at least as many. A generation of all rows is not asked. Raises StoreUnavailable.
    """
    if context.topic is None or context.options.source == "history" or work.since is not None:
        return 0
    below = Below(context.topic.topic_id, work.builder.watermarks)
    async with open_sums(context.pool, work.tenant, shard=work.shard) as history:
        return max(0, await history.rows(below) - work.builder.events)


async def compare_with_history(context: Context, work: Work) -> list[str]:
    """Return notes on how a sample of the new generation compares with history.

    In a dry run also on how the active generation compares: as far as the new one equals history,
    that is what a rebuild would change. Raises StoreUnavailable.
    """
    if work.since is not None:
        return ["not compared with history: the days before are taken over, whatever it has"]
    missing = await _missing_offsets(context, work)
    if missing:
        return [
            f"not compared with history: {missing:,} offsets of the new generation are not there"
        ]
    auditors = {each.name: _auditor(context, each) for each in work.shards}
    notes = _notes("the new generation", await _audit(auditors))
    if context.options.dry_run and work.active is not None:
        layout = work.active.layout
        history, counters = AuditedHistory(context.pool), context.counters.audited()
        auditors = {
            name: _make_auditor(context, counters, history.of_shard(Shard(index, layout.shards)))
            for index, name in enumerate(layout.names)
        }
        notes += _notes("the live counters", await _audit(auditors))
    return notes


async def _missing_offsets(context: Context, work: Work) -> int:
    """Wait until history has what the new generation has; return how many offsets are missing."""
    if context.topic is None:
        return 0
    history = HistoryWriter(context.pool)
    clock = asyncio.get_running_loop().time
    deadline_s = clock() + WAIT_S
    least, since_s = None, clock()
    while True:
        positions = await history.positions(context.topic.topic_id)
        behind = {p: end - positions.get(p, 0) for p, end in work.builder.watermarks.items()}
        missing = sum(max(0, offsets) for offsets in behind.values())
        if least is None or missing < least:
            least, since_s = missing, clock()
        if not missing or clock() > min(deadline_s, since_s + STILL_S):
            return missing
        await asyncio.sleep(POLL_S)


def _auditor(context: Context, work: Work) -> Auditor:
    """Return the auditor of a shard of the new generation."""
    counters = context.counters.audited(work.builder.generation.number)
    history = AuditedHistory(context.pool).of_shard(work.shard)
    return _make_auditor(context, counters, history, is_building=True)


def _make_auditor(
    context: Context,
    counters: AuditedCounters,
    history: AuditedHistory,
    *,
    is_building: bool = False,
) -> Auditor:
    async def timezone_of(tenant: str) -> str:
        return (await load_catalog(context.pool, tenant)).timezone

    return make_auditor(
        counters,
        history,
        timezone_of=timezone_of,
        now_ms=context.now_ms,
        wait_s=STILL_S,
        is_building=is_building,
    )


async def _audit(auditors: Mapping[str, Auditor]) -> TenantAudit:
    """Audit a sample of each shard, all together of SAMPLE groups of each grouping or a bit more.

    `auditors`: by the name of the shard.
    """
    sample = -(-SAMPLE // len(auditors))
    return joined(
        [
            await auditor.audit(name, sample=sample, events_max=SAMPLE_EVENTS // len(auditors))
            for name, auditor in auditors.items()
        ]
    )


def _notes(subject: str, audit: TenantAudit) -> list[str]:
    if not audit.groups:
        return [f"{subject} could not be compared with history: {'; '.join(audit.notes)}"]
    if not audit.differing:
        return [f"{audit.groups:,} groups of {subject} compared with history: equal"]
    cells = [
        f"{difference.grouping} {difference.id} {cell.period} {cell.column}: counters "
        f"{cell.counters}, history {cell.history}"
        for difference in audit.differing
        for cell in difference.cells
    ]
    more = f" (first {CELLS_SHOWN} of {len(cells):,})" if len(cells) > CELLS_SHOWN else ""
    return [
        f"{len(audit.differing):,} of {audit.groups:,} groups of {subject} differ from history"
        f"{more}: " + "; ".join(cells[:CELLS_SHOWN])
    ]
