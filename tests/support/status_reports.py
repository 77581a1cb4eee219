"""Reports of `status`, healthy and broken, without any store."""

from __future__ import annotations

import io
from typing import Any, Final

from rich.console import Console

from cli.status_document import (
    AuditStatus,
    GapStatus,
    GenerationStatus,
    LogChangeStatus,
    MissingStatus,
    PartitionStatus,
    RebuildStatus,
    RunningRebuildStatus,
    ShortfallStatus,
    Sizes,
    Status,
    TenantStatus,
    VisibleStatus,
)
from cli.status_output import parts_of
from cli.status_problems import problems_of
from tests.support.contract import LOG

AT: Final = "2026-11-26T12:00:00.000Z"


def text_of(report: Status, *, width: int = 100) -> str:
    """Return what `status` prints in a terminal of `width` columns."""
    console = Console(record=True, width=width, file=io.StringIO())
    for part in parts_of(report):
        console.print(part)
    return console.export_text()


def report_of(**fields: Any) -> Status:
    """Return a healthy report of one partition and one tenant, with some fields replaced."""
    healthy: dict[str, Any] = {
        "topic": "interactions",
        "topic_id": LOG,
        "lag": 0,
        "history_lag": 0,
        "waiting_ms": 0,
        "visible": VisibleStatus(40, 90, 120),
        "partitions": [partition()],
        "lost_offsets": 0,
        "log_changes": [],
        "tenants": [tenant()],
        "sizes": Sizes(3_355_443, 15_728_640),
        "errors": {},
        "at": AT,
        "counter_gaps": 0,
        "history_gaps": [],
        "history_gap_offsets": 0,
        "dead_letters": 0,
        "quarantined": 0,
    }
    report = Status(**(healthy | fields))
    report.attention = problems_of(report)
    return report


def partition(number: int = 0, **fields: Any) -> PartitionStatus:
    healthy: dict[str, Any] = {
        "partition": number,
        "end": 1_234_567,
        "counted": 1_234_567,
        "lag": 0,
        "stored": 1_234_567,
        "history_lag": 0,
        "waiting_ms": 0,
        "visible": VisibleStatus(40, 90, 120),
        "owner": "worker-0.internal:17",
        "offsets_per_s": 1_250.5,
        "reported_at": AT,
    }
    return PartitionStatus(**(healthy | fields))


def tenant(name: str = "acme", **fields: Any) -> TenantStatus:
    healthy: dict[str, Any] = {
        "tenant": name,
        "generation": 1,
        "complete": True,
        "timezone": "UTC",
        "catalog_timezone": "UTC",
        "day": "2026-11-26",
        "rolled": "2026-11-26",
        "windows": {},
        "groups": {"action": 20, "treatment": 40, "channel": 4, "customer": 1_886},
        "over": {},
        "events": 33_717,
        "generations": [GenerationStatus(1, "active", complete=True, events=33_717)],
    }
    return TenantStatus(**(healthy | fields))


def audit(result: Any = "clean", *, cells: int = 0, generation: int | None = 1) -> AuditStatus:
    return AuditStatus(
        result=result,
        at="2026-11-26T11:55:00.000Z",
        groups=1_200,
        cells=cells,
        source="worker",
        sample=200,
        generation=generation,
        reason="",
    )


def behind(*partitions: int, topic_id: str = LOG) -> MissingStatus:
    return MissingStatus(behind=[ShortfallStatus(topic_id, p, 3_800, 5_000) for p in partitions])


def gap(partition: int = 1, first: int = 0, end: int = 1_100) -> GapStatus:
    return GapStatus(LOG, partition, first, end)


def failed_rebuild(at: str = "2026-11-26T11:00:00.000Z") -> RebuildStatus:
    return RebuildStatus("failed", at, "auto", 3.5, reason="history has 1,100 events fewer")


def done_rebuild() -> RebuildStatus:
    return RebuildStatus("done", "2026-11-26T09:00:00.000Z", "auto", 12.0, 2, 33_717)


def running_rebuild(name: str = "acme") -> RunningRebuildStatus:
    return RunningRebuildStatus(name, "topic", 120_000, 500_000, 25_000.4, None, 15.2)


def broken_report(*, partitions: int = 4, tenants: int = 30) -> Status:
    """Return a report of a system in which nothing is as it should be."""
    kinds: list[dict[str, Any]] = [
        {"complete": False, "generation": 4, "missing": behind(2, 3)},
        {"complete": False, "missing": MissingStatus(gaps=[gap()])},
        {"complete": False, "missing": MissingStatus(unproven=True)},
        {"timezone": "UTC", "catalog_timezone": "America/Argentina/Buenos_Aires"},
        {"timezone": "America/Argentina/Buenos_Aires", "catalog_timezone": None,
         "rolled": "2026-11-20", "last_rebuild": failed_rebuild()},
        {"over": {"customer": 5_000}},
        {"last_audit": audit("drift", cells=3), "last_rebuild": done_rebuild()},
        {"day": "2026-11-20", "rolled": "2026-11-20"},
        {"generation": 2, "last_audit": audit("clean"), "generations": [
            GenerationStatus(1, "replaced", complete=True, events=30_000,
                             replaced_at="2026-11-26T09:00:00.000Z",
                             kept_until="2026-11-27T09:00:00.000Z"),
            GenerationStatus(2, "active", complete=True, events=33_717),
            GenerationStatus(3, "abandoned", complete=False, events=17),
            GenerationStatus(4, "building", complete=False, events=120_000)]},
    ]  # fmt: skip
    return report_of(
        lag=48_000,
        history_lag=150_000,
        waiting_ms=7_300_000,
        visible=None,
        partitions=[
            partition(n, lag=12_000, history_lag=37_500, waiting_ms=7_300_000, offsets_per_s=0.0)
            if n % 2 == 0
            else partition(
                n,
                owner=None,
                offsets_per_s=None,
                waiting_ms=None,
                lag=None,
                reported_at="2026-11-26T11:40:00.000Z",
            )
            for n in range(partitions)
        ],
        tenants=[tenant(f"tenant-{n}", **kinds[n % len(kinds)]) for n in range(tenants)],
        rebuilds=[running_rebuild("tenant-8")],
        failed_rebuilds={"tenant-4": failed_rebuild()},
        lost_offsets=1_100,
        counter_gaps=1_100,
        history_gaps=[gap(0), gap(3, 500, 700), gap(3, 900, 950)],
        history_gap_offsets=1_350,
        log_changes=[
            LogChangeStatus("recreated", LOG, "2026-11-26T11:00:00.000Z"),
            LogChangeStatus("cut", LOG, "2026-11-01T11:00:00.000Z"),
        ],
        sizes=Sizes(4_000_000_000, 150_000_000_000, 4_294_967_296, "allkeys-lru"),
        dead_letters=12,
        newest_dead_letter_at="2026-11-26T11:58:00.000Z",
    )
