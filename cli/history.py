"""The command `history prune`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from cli.console import CliError, UsageError, load_settings, print_note, print_result, run_async
from store.records import is_tenant

if TYPE_CHECKING:
    from store.settings import Settings
    from streams.prune import Pruned

app = typer.Typer(help="Keep the history of events small.", no_args_is_help=True)


@app.callback()
def history() -> None:
    """Keep the history of events small."""


@app.command("prune")
def prune(
    older_than: Annotated[
        int,
        typer.Option("--older-than", metavar="DAYS", help="Age in days of the events to sum up."),
    ],
    tenant: Annotated[str | None, typer.Option(help="One tenant only.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only count what would be summed up.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do not ask. Needed where there is no terminal to ask at.")
    ] = False,
) -> None:
    """Replace old events by sums per day. All answers stay as they are.

    What is left of an event is its day, customer, action, treatment, channel and outcome. Its id,
    context, campaign and all else is gone, and nothing brings it back. Events that the topic still
    holds stay, and so does a tenant whose counters are not complete (exit code 1). Workers and API
    may keep running. An interrupted run can be repeated.
    """
    from streams.prune import OLDER_THAN_DAYS_MIN

    if older_than < OLDER_THAN_DAYS_MIN:
        raise UsageError(
            f"--older-than {older_than}: at least {OLDER_THAN_DAYS_MIN} days, as younger events "
            "are in the windows of the counters, or in the days that these are compared with"
        )
    if tenant is not None and not is_tenant(tenant):
        raise UsageError(f"--tenant: {tenant!r} is not a tenant id (1-64 of A-Z a-z 0-9 _ . -)")
    if not (yes or dry_run):
        if not sys.stdin.isatty():
            raise UsageError("--yes: needed to prune where there is no terminal to ask at")
        whose = "all tenants" if tenant is None else f"tenant {tenant}"
        question = f"Sum up the events of {whose} that are older than {older_than} days, for ever?"
        if not typer.confirm(question, err=True):
            raise CliError("nothing is pruned")
    left = run_async(_prune(load_settings(), older_than, tenant, dry_run=dry_run))
    if left:
        raise CliError(f"not pruned: {', '.join(left)}")


async def _prune(
    settings: Settings, older_than_days: int, tenant: str | None, *, dry_run: bool
) -> list[str]:
    """Prune, and print a line for each tenant; return the tenants that were left as they are."""
    from store.clock import system_clock_ms
    from store.postgres.pool import open_pool
    from store.redis.counters import open_counters
    from streams.prune import HistoryPruning, NotPruned, prune_all

    left = []
    async with (
        open_counters(settings, retries=3) as counters,
        open_pool(settings, max_size=1) as pool,
    ):
        pruning = HistoryPruning(
            settings, counters, pool, now_ms=system_clock_ms, progress=_print_progress
        )
        async for each in prune_all(pruning, older_than_days, tenant, dry_run=dry_run):
            if isinstance(each, NotPruned):
                left.append(each.tenant)
                print_note(f"tenant {each.tenant}: not pruned: {each.reason}")
            else:
                print_result(_line_of(each, dry_run=dry_run))
    return left


def _print_progress(tenant: str, events: int, sums: int) -> None:
    print_note(f"tenant {tenant}: {events:,} events in {sums:,} sums so far")


def _line_of(pruned: Pruned, *, dry_run: bool) -> str:
    if dry_run:
        return f"tenant {pruned.tenant}: {pruned.events:,} events would be summed up"
    plural = "" if pruned.sums == 1 else "s"
    return f"tenant {pruned.tenant}: {pruned.events:,} events are now {pruned.sums:,} sum{plural}"
