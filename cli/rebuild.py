"""The command `rebuild`: options, progress bar and messages of `streams.rebuild`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Self

import typer
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar

from cli.console import CliError, UsageError, load_settings, print_result, run_async, stderr

if TYPE_CHECKING:
    from store.settings import Settings
    from streams.rebuild import RebuildResult


def rebuild(
    tenant: Annotated[
        str | None, typer.Option(help="Rebuild only this tenant. Default: all tenants.")
    ] = None,
    source: Annotated[
        str, typer.Option("--from", help="Source of the events; only `history` is supported.")
    ] = "history",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Build and count, then discard the result.")
    ] = False,
    rollback: Annotated[
        bool, typer.Option("--rollback", help="Return to the previous generation.")
    ] = False,
) -> None:
    """Rebuild the counters from history beside the live ones, then activate them in one step.

    Workers may keep running: after the swap they continue from the offsets that history had.
    """
    if source != "history":
        raise UsageError("--from: only `history` is supported")
    if rollback and dry_run:
        raise UsageError("--dry-run cannot be combined with --rollback; leave one of them out")
    settings = load_settings()
    with failures():
        if rollback:
            run_async(_roll_back(settings, tenant))
        else:
            run_async(_rebuild(settings, tenant, dry_run=dry_run))


@contextmanager
def failures() -> Iterator[None]:
    """Turn RebuildError into CliError, which is reported in one line without a traceback."""
    from streams.rebuild import RebuildError

    try:
        yield
    except RebuildError as error:
        raise CliError(str(error)) from error


class RebuildBar:
    """Progress bar on standard error for one tenant at a time.

    A call (the `progress` of `streams.rebuild`) shows the bar; `hide` removes it, before anything
    is printed, since Rich sends standard output through the console of a bar that is shown.
    """

    def __init__(self) -> None:
        self._bar = ProgressBar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=stderr,
            transient=True,
        )
        self._tenant: str | None = None  # whose bar is shown
        self._task = self._bar.add_task("")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.hide()

    def __call__(self, tenant: str, done: int, total: int) -> None:
        if not stderr.is_terminal:
            return
        if tenant != self._tenant:
            self._tenant = tenant
            self._bar.reset(self._task, description=f"tenant {tenant}", total=total)
            self._bar.start()
        self._bar.update(self._task, completed=done)

    def hide(self) -> None:
        if self._tenant is not None:
            self._tenant = None
            self._bar.stop()


async def _rebuild(settings: Settings, tenant: str | None, *, dry_run: bool) -> None:
    from streams.rebuild import open_rebuilder

    async with open_rebuilder(settings) as rebuilder:
        tenants = await rebuilder.tenants(tenant)
        if not tenants:
            print_result("history is empty; there is nothing to rebuild")
        with RebuildBar() as bar:
            async for result in rebuilder.rebuild(tenants, dry_run=dry_run, progress=bar):
                bar.hide()
                print_result(_described(result, dry_run))


def _described(result: RebuildResult, dry_run: bool) -> str:
    text = f"tenant {result.tenant}: {result.events} events"
    if dry_run:
        return f"{text} would be counted"
    text += f", generation {result.generation}"
    if result.previous_generation is not None:
        text += f", previous generation {result.previous_generation}"
    return text


async def _roll_back(settings: Settings, tenant: str | None) -> None:
    from streams.rebuild import open_rebuilder

    async with open_rebuilder(settings) as rebuilder:
        async for result in rebuilder.roll_back(tenant):
            print_result(f"tenant {result.tenant}: back at generation {result.generation}")
