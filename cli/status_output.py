"""Output of `status` for people: problems first, then partitions, tenants and the rest. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from cli.status_document import (
    AuditStatus,
    GenerationStatus,
    PartitionStatus,
    RebuildStatus,
    Status,
    TenantStatus,
    VisibleStatus,
)
from cli.status_words import ago, duration, joined, number, progress_of, size

#: Lines of each part; `--json` has all.
PROBLEMS_MAX: Final = 20
PARTITIONS_MAX: Final = 50
TENANTS_MAX: Final = 50
GENERATIONS_MAX: Final = 10
OWNER_WIDTH_MAX: Final = 32
#: A longer name of a time zone takes two lines.
ZONE_WIDTH_MAX: Final = 16
MORE: Final = "`status --json` has all"


def parts_of(report: Status) -> Iterator[RenderableType]:
    """Yield the parts of the output, from top to bottom."""
    yield from _attention(report)
    yield from _partitions(report)
    yield from _rebuilds(report)
    yield from _tenants(report)
    yield from _generations(report)
    yield from _stores(report)


# --- attention


def _attention(report: Status) -> Iterator[RenderableType]:
    if not report.attention:
        yield Text("nothing needs attention", style="green")
        return
    yield Text(f"needs attention ({len(report.attention):,})", style="bold red")
    for problem in report.attention[:PROBLEMS_MAX]:
        yield _indented(2, Text(problem.problem, style="yellow"))
        yield _indented(6, Text(f"-> {problem.remedy}"))
    if len(report.attention) > PROBLEMS_MAX:
        yield _indented(2, _more(len(report.attention) - PROBLEMS_MAX))


def _indented(spaces: int, text: Text) -> Padding:
    return Padding(text, (0, 0, 0, spaces), expand=False)


def _more(n: int) -> Text:
    return Text(f"and {n:,} more: {MORE}")


# --- partitions


def _partitions(report: Status) -> Iterator[RenderableType]:
    yield _heading(f"topic {report.topic}, topic id {report.topic_id or 'unknown'}")
    table = _table()
    for column in ("partition", "end", "lag", "rate", "waits", "history lag"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("counted by", max_width=OWNER_WIDTH_MAX, overflow="fold")
    shown = sorted(report.partitions, key=_importance)[:PARTITIONS_MAX]
    for p in sorted(shown, key=lambda p: p.partition):
        table.add_row(
            str(p.partition),
            number(p.end),
            _lag(p.lag),
            _rate(p.offsets_per_s),
            _wait(p.waiting_ms),
            _lag(p.history_lag),
            _owner(report, p),
        )
    if len(report.partitions) > 1:
        table.add_section()
        table.add_row(
            "all",
            "",
            _lag(report.lag),
            _rate(_sum_of_rates(report.partitions)),
            _wait(report.waiting_ms),
            _lag(report.history_lag),
        )
    yield table
    if len(report.partitions) > PARTITIONS_MAX:
        yield _more(len(report.partitions) - PARTITIONS_MAX)
    yield Text(_visible(report.visible))


def _importance(p: PartitionStatus) -> tuple[bool, int, int]:
    """Sort partitions without a worker first, then those with the most lag."""
    return p.owner is not None, -(p.lag or 0), p.partition


def _owner(report: Status, p: PartitionStatus) -> Text:
    if p.owner is not None:
        return Text(p.owner or "a worker")
    if "redis" in report.errors:
        return Text("?", style="red")
    return Text("no worker", style="red")


def _sum_of_rates(partitions: Sequence[PartitionStatus]) -> float | None:
    known = [p.offsets_per_s for p in partitions if p.offsets_per_s is not None]
    return sum(known) if known else None


def _rate(offsets_per_s: float | None) -> Text:
    return Text("-" if offsets_per_s is None else f"{offsets_per_s:,.0f}/s")


def _lag(n: int | None) -> Text:
    if n is None:
        return Text("?", style="red")
    return Text(f"{n:,}", style="yellow" if n else "green")


def _wait(ms: int | None) -> Text:
    if ms is None:
        return Text("?", style="red")
    return Text(duration(ms / 1e3), style="yellow") if ms else Text("0", style="green")


def _visible(visible: VisibleStatus | None) -> str:
    if visible is None:
        return "no event arrived and was counted in the last minute"
    return (
        f"from Kafka to visible: half of the last events within {visible.p50_ms:,} ms, "
        f"99% within {visible.p99_ms:,} ms, all within {visible.max_ms:,} ms"
    )


# --- rebuilds and tenants


def _rebuilds(report: Status) -> Iterator[RenderableType]:
    for rebuild in report.rebuilds[:GENERATIONS_MAX]:
        whose = "several tenants" if rebuild.tenant == "*" else f"tenant {rebuild.tenant}"
        yield Text(f"rebuild of {whose} runs: {progress_of(rebuild)}", style="cyan")
    if len(report.rebuilds) > GENERATIONS_MAX:
        yield _more(len(report.rebuilds) - GENERATIONS_MAX)


def _tenants(report: Status) -> Iterator[RenderableType]:
    if not report.tenants:
        if "redis" not in report.errors:
            yield _heading("no tenant has counters yet")
        return
    yield _heading("tenants")
    table = _table()
    table.add_column("tenant", overflow="fold")
    table.add_column("gen", justify="right", no_wrap=True)
    table.add_column("answers", no_wrap=True)
    table.add_column("window day", overflow="fold")
    table.add_column("events", justify="right", no_wrap=True)
    table.add_column("customers", justify="right", no_wrap=True)
    table.add_column("last rebuild", no_wrap=True)
    table.add_column("last audit", no_wrap=True)
    shown = _tenants_shown(report)
    for tenant in shown:
        customers = Text(number(tenant.groups.get("customer")))
        if "customer" in tenant.over:
            customers = Text(f"{customers.plain}+", style="yellow")
        table.add_row(
            Text(tenant.tenant + (f" ({tenant.shards} shards)" if tenant.shards > 1 else "")),
            str(tenant.generation),
            _answers(tenant),
            _windows(tenant),
            number(tenant.events),
            customers,
            _rebuilt(report, tenant.last_rebuild),
            _audited(report, tenant.last_audit),
        )
    yield table
    if len(report.tenants) > len(shown):
        yield _more(len(report.tenants) - len(shown))


def _tenants_shown(report: Status) -> list[TenantStatus]:
    """Return the tenants to show: those with problems first, then those with the most events."""
    troubled = {tenant for problem in report.attention for tenant in problem.tenants}
    return sorted(
        report.tenants, key=lambda t: (t.tenant not in troubled, -(t.events or 0), t.tenant)
    )[:TENANTS_MAX]


def _answers(tenant: TenantStatus) -> Text:
    zone_changed = tenant.catalog_timezone not in (None, tenant.timezone)
    if not tenant.complete or zone_changed:
        return Text("history", style="yellow")
    if tenant.over:
        return Text("both", style="yellow")
    return Text("counters", style="green")


def _windows(tenant: TenantStatus) -> Text:
    zone = tenant.timezone
    if len(zone) > ZONE_WIDTH_MAX:
        area, slash, place = zone.rpartition("/")
        zone = f"{area}{slash}\n{place}"
    text = Text(f"{tenant.day} {zone}")
    if tenant.rolled < tenant.day:
        text.append(f" (rolling, at {tenant.rolled})", style="yellow")
    return text


def _rebuilt(report: Status, rebuild: RebuildStatus | None) -> Text:
    if rebuild is None:
        return Text("-")
    style = "red" if rebuild.result == "failed" else ""
    return Text(f"{rebuild.result} {ago(report.at, rebuild.at)}", style=style)


def _audited(report: Status, audit: AuditStatus | None) -> Text:
    if audit is None:
        return Text("-")
    style = {"drift": "red", "skipped": "yellow"}.get(audit.result, "")
    return Text(f"{audit.result} {ago(report.at, audit.at)}", style=style)


def _generations(report: Status) -> Iterator[RenderableType]:
    lines = []
    for tenant in _tenants_shown(report):
        for each in tenant.generations:
            events = "" if each.events is None else f", {each.events:,} events"
            name = f"tenant {tenant.tenant}, generation {each.number}{events}"
            if each.state == "replaced":
                lines.append(f"{name}: {_kept(report, each)}")
            elif each.state == "building":
                lines.append(f"{name}: being built")
            elif each.state == "abandoned":
                lines.append(f"{name}: left by a rebuild that has ended; a worker deletes it")
    if lines:
        yield _heading("other generations")
    for line in lines[:GENERATIONS_MAX]:
        yield Text(line)
    if len(lines) > GENERATIONS_MAX:
        yield Text(f"and {len(lines) - GENERATIONS_MAX:,} more generations: {MORE}")


def _kept(report: Status, replaced: GenerationStatus) -> str:
    if replaced.replaced_at is None or replaced.kept_until is None:
        return "replaced"  # by an older version
    until = replaced.kept_until[:16].replace("T", " ")
    return f"replaced {ago(report.at, replaced.replaced_at)}, kept until {until} UTC"


# --- stores


def _stores(report: Status) -> Iterator[RenderableType]:
    sizes = report.sizes
    limit = "" if sizes.redis_max_bytes is None else f" of {size(sizes.redis_max_bytes)}"
    yield Text()
    events = [tenant.events for tenant in report.tenants if tenant.events is not None]
    word = "tenant" if len(report.tenants) == 1 else "tenants"
    counted = f"{len(report.tenants):,} {word}, {sum(events):,} events"
    if "redis" in report.errors and not report.tenants:
        counted = "? tenants, ? events"
    yield Text(
        f"{counted}; Redis {size(sizes.redis_bytes)}{limit}, history {size(sizes.history_bytes)}"
    )
    lost = ""
    if report.lost_offsets:
        lost = f"; {report.lost_offsets:,} were gone before counting"
    yield Text(
        f"offsets that retention took: counters lack {number(report.counter_gaps)}, "
        f"history lacks {number(report.history_gap_offsets)}{lost}"
    )
    newest = report.newest_dead_letter_at
    yield Text(
        f"dead letters: {number(report.dead_letters)}"
        + ("" if newest is None else f", the newest {ago(report.at, newest)}")
        + (f"; quarantined records: {report.quarantined:,}" if report.quarantined else "")
    )
    changes = [
        f"{'truncated' if change.kind == 'cut' else change.kind} at {change.at[:16]}Z "
        f"(topic id {change.topic_id})"
        for change in report.log_changes
    ]
    if changes:
        yield Text(f"the topic was {joined(changes[::-1], shown_max=3)}")


def _table() -> Table:
    return Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), pad_edge=False)


def _heading(text: str) -> Text:
    return Text(f"\n{text}", style="bold")
