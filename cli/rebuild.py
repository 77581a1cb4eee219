"""The command `rebuild`: options and messages of `streams.rebuild`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Final

import typer

from cli.console import CliError, UsageError, load_settings, print_note, print_result, run_async
from cli.rebuild_history import rebuild_history
from cli.rebuild_progress import RebuildProgress
from store.shards import SHARDS_MAX

if TYPE_CHECKING:
    from collections.abc import Sequence

    from store.counters import Shortfall
    from store.settings import Settings
    from streams.rebuild import Options, RebuildResult, RollbackResult, Since


#: Of 19: a rebuild gets about a tenth of a processor that others want, and all of one that is idle.
NICENESS: Final = 10
INTERRUPTED: Final = (
    "interrupted: a new generation that is not active yet is dropped; the live counters are "
    "unchanged"
)


class Source(StrEnum):
    """Where the events come from."""

    auto = "auto"
    topic = "topic"
    history = "history"


def rebuild(
    tenant: Annotated[
        str | None, typer.Option(help="Rebuild only this tenant. Default: all tenants.")
    ] = None,
    source: Annotated[
        Source,
        typer.Option(
            "--from",
            help="`topic`, `history`, or `auto`: history for what the topic no longer holds, then "
            "the topic.",
        ),
    ] = Source.auto,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Build and compare, then discard the result.")
    ] = False,
    rollback: Annotated[
        bool, typer.Option("--rollback", help="Return to the previous generation.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Go on although counts are lost, and say how many.")
    ] = False,
    rate: Annotated[
        float | None, typer.Option(help="Maximum events per second. Default: what leaves room.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            help="Rebuild only the days from this date or instant on; take the days before from "
            "the live counters.",
            metavar="TIME",
        ),
    ] = None,
    shards: Annotated[
        int | None,
        typer.Option(
            help="Number of shards of the new generation, for a tenant that is too big for one "
            "core of Redis. Default: as many as now.",
            min=1,
            max=SHARDS_MAX,
        ),
    ] = None,
    history: Annotated[
        bool,
        typer.Option("--history", help="Store what history has lost, from the topic, instead."),
    ] = False,
) -> None:
    """Rebuild the counters beside the live ones, then activate them in one step.

    Workers and readers keep running. Interrupted, it leaves the live counters as they were.
    """
    if rollback and dry_run:
        raise UsageError("--dry-run cannot be combined with --rollback; leave one of them out")
    if rate is not None and rate <= 0:
        raise UsageError(f"--rate: {rate:g} is not allowed; a rate is above 0")
    if rollback and since is not None:
        raise UsageError("--since cannot be combined with --rollback; leave one of them out")
    if shards is not None and (rollback or since is not None):
        raise UsageError("--shards cannot be combined with --rollback or --since")
    if shards is not None and tenant is None:
        raise UsageError("--shards needs --tenant: the number of shards is that of one tenant")
    narrows = dry_run or rollback or force or (rate, since, shards) != (None, None, None)
    if history and (source is not Source.auto or narrows):
        raise UsageError("--history can be combined with --tenant only")
    settings = load_settings()
    if history:
        run_async(rebuild_history(settings, tenant))
        return
    with failures():
        if rollback:
            failed = run_async(_roll_back(settings, tenant, force=force))
        else:
            from streams.rebuild import Options

            options = Options(
                source=source.value,
                force=force,
                dry_run=dry_run,
                events_per_s=rate,
                since=None if since is None else _since(since),
                shards=shards,
            )
            failed = run_async(_rebuild(settings, tenant, options))
    if failed:
        raise CliError(f"{failed} tenants failed" if failed > 1 else "1 tenant failed")


def yield_processor() -> None:
    """Let the processes that count and answer have the processor first."""
    with suppress(OSError, AttributeError):  # not every system has it
        os.nice(NICENESS)


def _since(text: str) -> Since:
    from streams.rebuild import parse_since

    try:
        return parse_since(text)
    except ValueError as error:
        raise UsageError(
            f"--since: {error}; a date such as 2026-11-20, or an instant such as "
            "2026-11-20T08:00:00Z"
        ) from None


@contextmanager
def failures() -> Iterator[None]:
    """Turn RebuildError into CliError, and say what Ctrl-C and SIGTERM leave behind."""
    from streams.rebuild import RebuildError

    try:
        yield
    except RebuildError as error:
        raise CliError(str(error)) from error
    except (KeyboardInterrupt, SystemExit):
        print_note(INTERRUPTED)
        raise


async def _rebuild(settings: Settings, tenant: str | None, options: Options) -> int:
    """Rebuild, print each outcome, and return the number of failures."""
    from streams.rebuild import Failure, open_rebuilder

    failed = 0
    yield_processor()
    with RebuildProgress() as progress:
        async with open_rebuilder(settings, report=progress) as rebuilder:
            tenants = await rebuilder.tenants(tenant)
            if not tenants:
                print_result("there are no counters and no history; there is nothing to rebuild")
            async for outcome in rebuilder.rebuild(tenants, options):
                progress.hide()
                if isinstance(outcome, Failure):
                    failed += 1
                    print_note(f"failed: {outcome.reason}")
                else:
                    for note in outcome.notes:
                        print_note(f"tenant {outcome.tenant}: {note}")
                    print_result(described(outcome, dry_run=options.dry_run))
    return failed


def described(result: RebuildResult, *, dry_run: bool) -> str:
    """Return the outcome of a rebuild in one line."""
    text = f"tenant {result.tenant}: {result.events:,} events"
    if result.from_history and result.from_history < result.events:
        text += f" ({result.from_history:,} from history, the rest from the topic)"
    if result.previous_events is not None and result.previous_events != result.events:
        text += f", {result.events - result.previous_events:+,} since the rebuild began"
    if dry_run:
        return f"{text}; dry run: nothing is changed"
    text += f", generation {result.generation}"
    if result.previous_generation is not None:
        text += f", previous generation {result.previous_generation}"
    if max(result.shards, result.previous_shards) > 1:
        text += f", {result.shards} shards, {result.previous_shards} before"
    return text + _incomplete(result.behind)


def _incomplete(behind: Sequence[Shortfall]) -> str:
    if not behind:
        return ""
    missing = sum(each.offsets for each in behind)
    return f"; history answers until a worker has read the {missing:,} offsets that are missing"


async def _roll_back(settings: Settings, tenant: str | None, *, force: bool) -> int:
    from streams.rebuild import Failure, open_rebuilder

    failed = 0
    async with open_rebuilder(settings) as rebuilder:
        async for outcome in rebuilder.roll_back(tenant, force=force):
            if isinstance(outcome, Failure):
                failed += 1
                print_note(f"failed: tenant {outcome.tenant}: {outcome.reason}")
            else:
                print_result(_described_rollback(outcome))
    return failed


def _described_rollback(result: RollbackResult) -> str:
    return f"tenant {result.tenant}: back at generation {result.generation}" + _incomplete(
        result.behind
    )
