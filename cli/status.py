"""`status`: lag, generations, windows and sizes at a glance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cli.console import CliError, load_settings, print_result, run_async, stdout

if TYPE_CHECKING:
    from cli.status_report import Status, VisibleStatus


def status(
    json: Annotated[
        bool, typer.Option("--json", help="As one JSON document, with stable names.")
    ] = False,
) -> None:
    """Shows lag per partition (0 = all counted), freshness, generations, windows and sizes.

    Exit code 1 when Kafka, Redis or Postgres does not answer; what the others say is shown."""
    settings = load_settings()
    from cli.status_report import gather_status

    state = run_async(gather_status(settings))
    if json:
        import msgspec

        print_result(msgspec.json.format(msgspec.json.encode(state)).decode())
    else:
        _show(state)
    if state.errors:
        raise CliError("; ".join(state.errors.values()))


def _show(state: Status) -> None:
    from rich.table import Table

    table = Table(title=f"topic {state.topic}", caption=f"log {state.topic_id or 'unknown'}")
    for column in ("partition", "end", "counted", "lag", "waits", "in history", "history lag"):
        table.add_column(column, justify="right")
    for p in state.partitions:
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
        "all", "", "", _lag(state.lag), _wait(state.waiting_ms), "", _lag(state.history_lag)
    )
    stdout.print(table)
    print_result(_visible(state.visible))
    if state.tenants:
        stdout.print(_tenants(state))
    if state.lost_offsets:
        print_result(
            f"{state.lost_offsets:,} offsets were gone before they were counted; where "
            "history has them, `rebuild --from history` counts them"
        )
    for change in state.log_changes:
        print_result(f"the log was {change.kind} at {change.at}: {change.topic_id}")
    sizes = state.sizes
    print_result(f"Redis {_bytes(sizes.redis_bytes)}, history {_bytes(sizes.history_bytes)}")


def _tenants(state: Status) -> object:
    from rich.table import Table

    table = Table(title="tenants")
    for column in ("tenant", "generation", "answers from", "windows end with"):
        table.add_column(column)
    for column in ("actions", "treatments", "channels", "customers"):
        table.add_column(column, justify="right")
    for tenant in state.tenants:
        end = f"{tenant.day} {tenant.timezone}"
        if tenant.rolled < tenant.day:
            end += f" [yellow](rolling, at {tenant.rolled})[/]"
        zone = tenant.catalog_timezone
        moved = zone is not None and zone != tenant.timezone
        if moved:
            end += f" [yellow](the tenant is in {zone} now: rebuild)[/]"
        table.add_row(
            tenant.tenant,
            str(tenant.generation),
            "counters" if tenant.complete and not moved else "[yellow]history[/]",
            end,
            *(
                _number(tenant.groups.get(grouping))
                + (" [yellow](full: history answers)[/]" if tenant.over.get(grouping) else "")
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


def _visible(seen: VisibleStatus | None) -> str:
    if seen is None:
        return "no event arrived and was counted in the last minute"
    return (
        f"from Kafka to visible: half of the last events within {seen.p50_ms:,} ms, "
        f"99% within {seen.p99_ms:,} ms, all within {seen.max_ms:,} ms"
    )


def _bytes(n: int | None) -> str:
    return "?" if n is None else f"{n / 1_048_576:,.1f} MiB"
