"""`rebuild`: counters made again from history, swapped in at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cli.console import CliError, UsageError, answer, err, load_settings, run
from store.clock import system_clock_ms

if TYPE_CHECKING:
    from store.redis.counters import RedisCounters
    from store.settings import Settings


def rebuild(
    tenant: Annotated[str | None, typer.Option(help="Only this tenant; else all.")] = None,
    source: Annotated[
        str, typer.Option("--from", help="Where the events come from; `history` so far.")
    ] = "history",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Build, count, and throw it away.")
    ] = False,
    rollback: Annotated[
        bool, typer.Option("--rollback", help="Return to the generation before.")
    ] = False,
) -> None:
    """Makes counters again from history, beside the live ones, and swaps them in in one step.

    The worker may go on meanwhile; it then counts on from where history was."""
    if source != "history":
        raise UsageError("--from: only `history` is there so far")
    if rollback and dry_run:
        raise UsageError("--dry-run: a rollback has none; leave one of the two out")
    run(_rebuild(load_settings(), tenant, dry_run=dry_run, rollback=rollback))


async def _rebuild(
    settings: Settings, tenant: str | None, *, dry_run: bool, rollback: bool
) -> None:
    from store.redis.client import make_client
    from store.redis.counters import RedisCounters

    client = make_client(settings, timeout_s=settings.redis_timeout_s, retries=3)
    counters = RedisCounters(
        client,
        settings.redis_prefix,
        dedup_horizon_h=settings.dedup_horizon_h,
        groups_max=settings.keys_per_grouping_max,
    )
    try:
        if rollback:
            await _roll_back(counters, tenant)
        else:
            await rebuild_tenants(settings, counters, tenant, dry_run=dry_run)
    finally:
        await client.aclose()


async def _roll_back(counters: RedisCounters, tenant: str | None) -> None:
    for name in [tenant] if tenant else await counters.tenants():
        number = await counters.rollback(name)
        if number is None:
            raise CliError(f"tenant {name}: there is no generation before the active one")
        answer(f"tenant {name}: back at generation {number}")


async def rebuild_tenants(
    settings: Settings, counters: RedisCounters, tenant: str | None, *, dry_run: bool = False
) -> None:
    """Rebuilds one tenant, or all that history has or counters know."""
    from store.postgres.catalog import load_catalog
    from store.postgres.history import HistoryWriter
    from store.postgres.pool import make_pool
    from streams.rebuild import RebuildFailed, rebuild_from_history

    pool = make_pool(settings, max_size=2)
    await pool.open()
    try:
        names = await HistoryWriter(pool).tenants()
        if tenant is not None:
            if tenant not in names and await counters.generation(tenant) is None:
                raise CliError(f"tenant {tenant}: has neither a history nor counters")
            names = [tenant]
        if not names:
            answer("history is empty; there is nothing to rebuild")
        arrived_ms = (
            min((await counters.reports.arrivals()).values(), default=0) or system_clock_ms()
        )
        for name in names:
            with Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=err,
                transient=True,
            ) as bar:
                task = bar.add_task(f"tenant {name}", total=None)
                try:
                    done = await rebuild_from_history(
                        counters,
                        pool,
                        await load_catalog(pool, name),
                        now_ms=system_clock_ms,
                        batch_events=settings.commit_batch_events,
                        dedup_horizon_h=settings.dedup_horizon_h,
                        arrived_ms=arrived_ms,
                        dry_run=dry_run,
                        progress=lambda n, total, b=bar, t=task: b.update(  # type: ignore[misc]
                            t, completed=n, total=total
                        ),
                    )
                except RebuildFailed as error:
                    raise CliError(str(error)) from error
            was = "" if done.before is None else f", before it {done.before}"
            answer(
                f"tenant {name}: {done.events} events"
                + (" would be counted" if dry_run else f", generation {done.generation}{was}")
            )
    finally:
        await pool.close()


async def rebuild_inconsistent(settings: Settings) -> list[str]:
    """Rebuilds the tenants whose counters and history are not even; their names. For a start on
    data that a crash may have left so, where the log that could mend it is gone too."""
    from store.postgres.history import HistoryWriter
    from store.postgres.pool import make_pool
    from store.redis.client import make_client
    from store.redis.counters import RedisCounters

    client = make_client(settings, timeout_s=settings.redis_timeout_s, retries=3)
    counters = RedisCounters(
        client,
        settings.redis_prefix,
        dedup_horizon_h=settings.dedup_horizon_h,
        groups_max=settings.keys_per_grouping_max,
    )
    pool = make_pool(settings, max_size=1)
    await pool.open()
    healed = []
    try:
        history = HistoryWriter(pool)
        for tenant in await history.tenants():
            generation = await counters.generation(tenant)
            if (
                generation is not None
                and generation.complete
                and await history.matches_counters(
                    tenant, await counters.all_watermarks(generation)
                )
            ):
                continue
            await rebuild_tenants(settings, counters, tenant)
            healed.append(tenant)
    finally:
        await pool.close()
        await client.aclose()
    return healed
