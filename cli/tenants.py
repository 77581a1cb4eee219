"""The commands `tenants list` and `tenants remove`."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Final

import typer

from cli.console import CliError, UsageError, load_settings, print_result, run_async, stderr, stdout
from store.records import is_tenant

if TYPE_CHECKING:
    from store.counters import TenantOverview
    from store.settings import Settings
    from streams.removal import Holdings, Progress, Removed, TenantRemoval

app = typer.Typer(
    help="List tenants, or remove one with its counters, catalog and reports.", no_args_is_help=True
)

#: Table of the catalog -> its name in the output.
_PARTS: Final = {
    "offers": "offers",
    "creatives": "treatments",
    "channels": "channels",
    "outcome_types": "outcome types",
    "api_keys": "API keys",
}


@app.command("list")
def list_(
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document, with stable names.")
    ] = False,
) -> None:
    """Show every tenant, and which of counters, history and catalog it has."""
    tenants = run_async(_list(load_settings()))
    if json:
        import msgspec

        print_result(msgspec.json.format(msgspec.json.encode({"tenants": tenants})).decode())
        return
    from rich.table import Table

    table = Table("tenant", "counters", "history", "catalog")
    for each in tenants:
        counters = each["counters"]
        table.add_row(
            str(each["tenant"]),
            _describe_counters(counters) if isinstance(counters, dict) else "–",
            "yes" if each["history"] else "–",
            "yes" if each["catalog"] else "–",
        )
    if tenants:
        stdout.print(table)
    print_result(f"{len(tenants):,} tenants")


@app.command("remove")
def remove(
    tenant: Annotated[str, typer.Argument(help="Tenant to remove.")],
    history: Annotated[
        bool, typer.Option("--history", help="Remove its history, too. Nothing brings it back.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do not ask. Needed where there is no terminal to ask at.")
    ] = False,
) -> None:
    """Remove the counters and the catalog of a tenant, and print how much that was.

    Workers and API may keep running. The history stays without --history; it answers questions, and
    `rebuild` makes counters from it again. An event that arrives later makes the tenant again.
    Refused while a rebuild of the tenant runs. An interrupted removal can be repeated.
    """
    if not is_tenant(tenant):
        raise UsageError(f"TENANT: {tenant!r} is not a tenant id (1-64 of A-Z a-z 0-9 _ . -)")
    if not yes and not sys.stdin.isatty():
        raise UsageError("--yes: needed to remove a tenant where there is no terminal to ask at")
    settings = load_settings()
    holdings = run_async(_holdings(settings, tenant))
    if holdings is None:
        raise UsageError(f"TENANT: {tenant} has neither counters, nor a history, nor a catalog")
    if not yes and not typer.confirm(_question(tenant, holdings, history=history), err=True):
        raise CliError("nothing is removed")
    removed = run_async(_remove(settings, tenant, history=history))
    for line in _lines_of(tenant, removed, holdings, history=history):
        print_result(line)


def _question(tenant: str, holdings: Holdings, *, history: bool) -> str:
    parts = ["its counters and its catalog"]
    if history:
        parts.append(f"its history of {holdings.rows:,} events, for ever")
    return f"Remove tenant {tenant}: {' and '.join(parts)}?"


def _lines_of(tenant: str, removed: Removed, holdings: Holdings, *, history: bool) -> list[str]:
    catalog = ", ".join(f"{removed.catalog[table]:,} {name}" for table, name in _PARTS.items())
    plural = "" if removed.generations == 1 else "s"
    return [
        f"tenant {tenant}: removed",
        f"  counters: {removed.generations:,} generation{plural} with {removed.groups:,} groups",
        f"  catalog: {catalog if removed.catalog['tenants'] else 'none'}",
        f"  history: {removed.rows:,} events"
        if history
        else f"  history: {holdings.rows:,} events are kept; --history removes them",
    ]


def _describe_counters(counters: dict[str, object]) -> str:
    state = "complete" if counters["complete"] else "not complete"
    return f"generation {counters['generation']}, {state}"


async def _list(settings: Settings) -> list[dict[str, object]]:
    from cli.catalog import with_pool
    from store.postgres.catalog import list_tenants
    from store.postgres.history import HistoryWriter
    from store.redis.counters import open_counters

    async with open_counters(settings, retries=3) as counters:
        overviews = {each.tenant: each for each in await counters.overview()}
        listed = await counters.tenants()
    with_catalog = set(await with_pool(settings, list_tenants))
    with_history = set(await with_pool(settings, lambda pool: HistoryWriter(pool).tenants()))
    return [
        {
            "tenant": tenant,
            "counters": _counters_of(overviews.get(tenant)),
            "history": tenant in with_history,
            "catalog": tenant in with_catalog,
        }
        for tenant in sorted({*listed, *with_catalog, *with_history})
    ]


def _counters_of(overview: TenantOverview | None) -> dict[str, object] | None:
    if overview is None:
        return None
    return {"generation": overview.generation, "complete": overview.complete}


async def _holdings(settings: Settings, tenant: str) -> Holdings | None:
    async with _open_removal(settings) as removal:
        return await removal.holdings(tenant)


async def _remove(settings: Settings, tenant: str, *, history: bool) -> Removed:
    from rich.progress import Progress as Bars
    from rich.progress import SpinnerColumn, TextColumn

    with Bars(
        SpinnerColumn(), TextColumn("{task.description}"), console=stderr, transient=True
    ) as bars:
        task = bars.add_task("removing")

        def show(phase: str, done: int, total: int) -> None:
            bars.update(task, description=_TEXTS[phase](done, total))

        async with _open_removal(settings, show) as removal:
            return await removal.remove(tenant, history=history)


_TEXTS: Final[dict[str, Callable[[int, int], str]]] = {
    "counters": lambda done, total: f"counters: {done:,} groups removed",
    "waiting": lambda done, total: f"waiting until history has {done:,} more offsets",
    "history": lambda done, total: f"history: {done:,} of {total:,} events removed",
}


@asynccontextmanager
async def _open_removal(
    settings: Settings, progress: Progress = lambda phase, done, total: None
) -> AsyncIterator[TenantRemoval]:
    from store.postgres.pool import open_pool
    from store.redis.counters import open_counters
    from streams.removal import TenantRemoval

    async with (
        open_counters(settings, retries=3) as counters,
        open_pool(settings, max_size=1) as pool,
    ):
        yield TenantRemoval(counters, pool, progress=progress)
