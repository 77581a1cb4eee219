"""What `audit` prints: a document for `--json`, and lines for people.

The JSON names are the field names in camel case. They are public: scripts read them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from msgspec import Struct

from streams.audit.auditor import Repair, TenantAudit
from streams.audit.segment import Difference


class CellDocument(Struct, rename="camel"):
    """One number that differs."""

    grouping: str
    id: str
    period: str
    """A period, or the date of a day from which windows are made."""
    column: str
    """An outcome type, `(rank)`, `(uniqueActions)` or `(record)`."""
    counters: int | None
    """None = the record cannot be read."""
    history: int


class DifferingDocument(Struct, rename="camel"):
    """Groups and cells that differ."""

    groups: int
    cells: int
    shown: list[CellDocument]
    """The first cells, up to the limit that was asked for."""


class RepairDocument(Struct, rename="camel"):
    """Outcome of a repair."""

    groups: int
    """Groups that were corrected."""
    left: DifferingDocument
    """Differences that remain in a second audit of these groups."""
    notes: list[str]


class TenantDocument(Struct, rename="camel"):
    """Audit of one tenant."""

    tenant: str
    generation: int | None
    at_ms: int
    duration_s: float
    sample: int | None
    groups: int
    """Groups that were compared."""
    differing: DifferingDocument
    notes: list[str]
    """What was not compared, and why."""
    repair: RepairDocument | None
    drift: bool
    """Whether counters and history differ, after the repair if there was one."""


class AuditDocument(Struct, rename="camel"):
    """Audit of all tenants that were asked for."""

    tenants: list[TenantDocument]
    drift: bool


def tenant_document(audit: TenantAudit, repair: Repair | None, max_cells: int) -> TenantDocument:
    """Return the document of one tenant, with at most `max_cells` cells in each list."""
    healed = repair and RepairDocument(
        repair.groups, _differing(repair.again.differing, max_cells), list(repair.again.notes)
    )
    return TenantDocument(
        tenant=audit.tenant,
        generation=audit.generation,
        at_ms=audit.at_ms,
        duration_s=round(audit.duration_s, 3),
        sample=audit.sample,
        groups=audit.groups,
        differing=_differing(audit.differing, max_cells),
        notes=list(audit.notes),
        repair=healed,
        drift=bool(audit.differing) if healed is None else bool(healed.left.cells or healed.notes),
    )


def _differing(differing: Sequence[Difference], max_cells: int) -> DifferingDocument:
    cells = [CellDocument(d.grouping, d.id, *cell) for d in differing for cell in d.cells]
    return DifferingDocument(len(differing), len(cells), cells[:max_cells])


def lines_of(document: TenantDocument) -> Iterator[str]:
    """Yield the lines about one tenant: the cells that differ, then a summary."""
    tenant = document.tenant
    yield from _cells(tenant, document.differing)
    for note in document.notes:
        yield f"tenant {tenant}: not compared: {note}"
    if document.groups:
        seconds = f"{document.duration_s:.1f} s"
        yield (
            f"tenant {tenant}: {document.groups} groups compared, {_found(document.differing)} "
            f"(generation {document.generation}, {seconds})"
        )
    if document.repair:
        yield from _cells(tenant, document.repair.left)
        for note in document.repair.notes:
            yield f"tenant {tenant}: not compared again: {note}"
        again = "" if document.repair.notes else f"; compared again: {_found(document.repair.left)}"
        yield f"tenant {tenant}: {document.repair.groups} groups corrected{again}"


def _cells(tenant: str, differing: DifferingDocument) -> Iterator[str]:
    for cell in differing.shown:
        counters = "unreadable" if cell.counters is None else cell.counters
        id_ = json.dumps(cell.id, ensure_ascii=False)
        yield (
            f"tenant {tenant}: {cell.grouping} {id_} {cell.period} {cell.column}: "
            f"counters {counters}, history {cell.history}"
        )
    if more := differing.cells - len(differing.shown):
        yield f"tenant {tenant}: and {more} more cells"


def _found(differing: DifferingDocument) -> str:
    if not differing.groups:
        return "all equal"
    return f"{differing.groups} differ in {differing.cells} cells"
