"""The command `status`: lag, freshness, generations, windows and sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cli.console import CliError, load_settings, print_result, run_async, stdout

if TYPE_CHECKING:
    from cli.status_document import Status, VisibleStatus


def status(
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document, with stable names.")
    ] = False,
) -> None:
    """Show lag per partition (0 = all counted), freshness, generations, windows and sizes.

    Exit code 1 if Kafka, Redis or Postgres is unavailable; the values of the others are shown.
    """
    settings = load_settings()
    from cli.status_report import gather_status

    report = run_async(gather_status(settings))
    if json:
        import msgspec

        print_result(msgspec.json.format(msgspec.json.encode(report)).decode())
    else:
        _print_tables(report)
    if report.errors:
        raise CliError("; ".join(report.errors.values()))


def _print_tables(report: Status) -> None:
    from rich.table import Table

    table = Table(title=f"topic {report.topic}", caption=f"topic id {report.topic_id or 'unknown'}")
    for column in ("partition", "end", "counted", "lag", "waits", "in history", "history lag"):
        table.add_column(column, justify="right")
    for p in report.partitions:
        table.add_row(
            str(p.partition),
            _number(p.end),
            _number(p.counted),
            _lag(p.lag),
            _wait(p.waiting_ms),
            _number(p.stored),
            _lag(p.history_lag),
        )
    table.add_section()
    table.add_row(
        "all", "", "", _lag(report.lag), _wait(report.waiting_ms), "", _lag(report.history_lag)
    )
    stdout.print(table)
    print_result(_visible(report.visible))
    if report.tenants:
        stdout.print(_tenant_table(report))
    if report.lost_offsets:
        print_result(
            f"retention deleted {report.lost_offsets:,} offsets before they were counted; if "
            "history has their events, `rebuild --from history` counts them"
        )
    for change in report.log_changes:
        kind = "truncated" if change.kind == "cut" else change.kind
        print_result(f"the topic was {kind} at {change.at}: topic id {change.topic_id}")
    sizes = report.sizes
    print_result(f"Redis {_bytes(sizes.redis_bytes)}, history {_bytes(sizes.history_bytes)}")


def _tenant_table(report: Status) -> object:
    from rich.table import Table

    table = Table(title="tenants")
    for column in ("tenant", "generation", "answers from", "windows end with"):
        table.add_column(column)
    for column in ("actions", "treatments", "channels", "customers"):
        table.add_column(column, justify="right")
    for tenant in report.tenants:
        end = f"{tenant.day} {tenant.timezone}"
        if tenant.rolled < tenant.day:
            end += f" [yellow](rolling, at {tenant.rolled})[/]"
        zone = tenant.catalog_timezone
        zone_changed = zone is not None and zone != tenant.timezone
        if zone_changed:
            end += f" [yellow](time zone is now {zone}: rebuild)[/]"
        table.add_row(
            tenant.tenant,
            str(tenant.generation),
            "counters" if tenant.complete and not zone_changed else "[yellow]history[/]",
            end,
            *(
                _number(tenant.groups.get(grouping))
                + (
                    " [yellow](limit reached: history answers)[/]"
                    if tenant.over.get(grouping)
                    else ""
                )
                for grouping in ("action", "treatment", "channel", "customer")
            ),
        )
    return table


def _number(n: int | None) -> str:
    return "?" if n is None else f"{n:,}"


def _lag(n: int | None) -> str:
    if n is None:
        return "[red]?[/]"
    return f"[yellow]{n:,}[/]" if n else "[green]0[/]"


def _wait(ms: int | None) -> str:
    if ms is None:
        return "[red]?[/]"
    return f"[yellow]{_seconds(ms)}[/]" if ms else "[green]0[/]"


def _seconds(ms: int) -> str:
    return f"{ms / 1_000:,.1f} s" if ms < 3_600_000 else f"{ms / 3_600_000:,.1f} h"


def _visible(visible: VisibleStatus | None) -> str:
    if visible is None:
        return "no event arrived and was counted in the last minute"
    return (
        f"from Kafka to visible: half of the last events within {visible.p50_ms:,} ms, "
        f"99% within {visible.p99_ms:,} ms, all within {visible.max_ms:,} ms"
    )


def _bytes(n: int | None) -> str:
    return "?" if n is None else f"{n / 1_048_576:,.1f} MiB"
