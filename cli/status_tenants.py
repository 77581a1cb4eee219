"""Conversion of what the stores know of tenants into the `status` document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from cli.status_document import (
    AuditStatus,
    GapStatus,
    GenerationStatus,
    MissingStatus,
    RebuildStatus,
    RunningRebuildStatus,
    ShortfallStatus,
    TenantStatus,
)
from store.audit import AuditNote
from store.counters import GenerationState, Missing, TenantOverview
from store.offsets import Gap
from store.postgres.catalog import DEFAULT_TIMEZONE
from store.windows import PERIODS, date_of, window_of
from streams.decode.timestamps import format_ms
from streams.rebuild.publish import TOGETHER


class TenantFacts(NamedTuple):
    """What is known of all tenants beside their counters. None: the store did not answer."""

    timezones: Mapping[str, str] | None
    running: Mapping[str, Mapping[str, Any]]
    """Tenant -> progress of a rebuild."""
    results: Mapping[str, Mapping[str, Any]]
    """Tenant -> result of its last rebuild."""
    audits: Mapping[str, AuditNote]
    keep_ms: int
    """How long a replaced generation is kept."""


def tenant_status(overview: TenantOverview, facts: TenantFacts) -> TenantStatus:
    """Return the status of one tenant."""
    tenant = overview.tenant
    windows: dict[str, dict[str, str | None]] = {}
    for period in PERIODS:
        start, end = window_of(period, overview.day)
        windows[period] = {
            "start": None if start is None else date_of(start).isoformat(),
            "end": None if end is None else date_of(end).isoformat(),
        }
    active = next((state for state in overview.generations if state.active), None)
    is_rebuilding = tenant in facts.running or TOGETHER in facts.running
    result, note = facts.results.get(tenant), facts.audits.get(tenant)
    return TenantStatus(
        tenant=tenant,
        generation=overview.generation,
        complete=overview.complete,
        timezone=overview.timezone,
        catalog_timezone=(
            None if facts.timezones is None else facts.timezones.get(tenant, DEFAULT_TIMEZONE)
        ),
        day=date_of(overview.day).isoformat(),
        rolled=date_of(overview.rolled).isoformat(),
        windows=windows,
        groups={str(grouping): groups for grouping, groups in overview.groups.items()},
        over={str(limited): n for limited, n in overview.overflow.items()},
        customer_ranks=[period for period in PERIODS if period not in overview.unranked],
        events=active.events if active else None,
        missing=_missing(active.missing) if active else MissingStatus(),
        generations=[
            _generation(state, facts.keep_ms, is_rebuilding=is_rebuilding)
            for state in overview.generations
        ],
        shards=overview.shards,
        last_rebuild=None if result is None else rebuild_status(result),
        last_audit=None if note is None else _audit(note),
    )


def gap_status(gap: Gap) -> GapStatus:
    """Return a gap for the document."""
    return GapStatus(gap.topic_id, gap.partition, gap.first_offset, gap.next_offset)


def rebuild_status(result: Mapping[str, Any]) -> RebuildStatus:
    """Return the result of a rebuild, as `streams.rebuild.publish` stored it."""
    return RebuildStatus(
        result="done" if result["phase"] == "done" else "failed",
        at=format_ms(result["atMs"]),
        source=result["source"],
        seconds=result["seconds"],
        generation=result.get("generation"),
        events=result.get("events"),
        reason=result.get("reason"),
    )


def running_status(tenant: str, progress: Mapping[str, Any]) -> RunningRebuildStatus:
    """Return the progress of a rebuild, as `streams.rebuild.publish` stored it."""
    return RunningRebuildStatus(
        tenant=tenant,
        phase=progress["phase"],
        done=progress["done"],
        total=progress["total"],
        events_per_s=progress["eventsPerS"],
        lag=progress["lag"],
        eta_s=progress["etaS"],
    )


def _missing(missing: Missing) -> MissingStatus:
    return MissingStatus(
        behind=[ShortfallStatus(*b.source, b.watermark, b.target) for b in missing.behind],
        gaps=[gap_status(gap) for gap in missing.gaps],
        unproven=missing.unproven,
        evicted=missing.evicted,
        damaged=missing.damaged,
        outdated=missing.outdated,
        unsettled=missing.unsettled,
    )


def _generation(state: GenerationState, keep_ms: int, *, is_rebuilding: bool) -> GenerationStatus:
    replaced = None if state.active else state.replaced_ms
    return GenerationStatus(
        number=state.number,
        state=(
            "active"
            if state.active
            else "replaced"
            if not state.building
            else "building"
            if is_rebuilding
            else "abandoned"
        ),
        complete=state.complete,
        events=state.events,
        replaced_at=None if replaced is None else format_ms(replaced),
        kept_until=None if replaced is None else format_ms(replaced + keep_ms),
        shards=state.shards,
    )


def _audit(note: AuditNote) -> AuditStatus:
    return AuditStatus(
        result=note.result,
        at=format_ms(note.at_ms),
        groups=note.groups,
        cells=note.cells,
        source=note.source,
        sample=note.sample,
        generation=note.generation,
        reason=note.reason,
    )
