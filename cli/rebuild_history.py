"""`rebuild --history`: fills history that was lost, from the topic, and prints what was done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar

from cli.console import CliError, print_note, print_result, stderr

if TYPE_CHECKING:
    from store.settings import Settings
    from streams.refill import RefillResult


async def rebuild_history(settings: Settings, tenant: str | None) -> None:
    """Fill the history of `tenant`, or of all tenants, with a progress bar; print the result.

    Raises CliError and StoreUnavailable.
    """
    from store.postgres.pool import open_pool
    from store.redis.counters import open_counters
    from streams.kafka.topic_scan import TopicChanged
    from streams.refill import Refill, RefillError

    async with (
        open_counters(settings, retries=3) as counters,
        open_pool(settings, max_size=3) as pool,
    ):
        known = await counters.tenants()
        with _progress_bar() as progress:
            refill = Refill(
                settings, pool, counted_tenants=known, tenant=tenant, progress=progress
            )
            try:
                result = await refill.run()
            except (RefillError, TopicChanged) as error:
                raise CliError(str(error)) from error
    print_result(described(result))
    if result.beyond:
        print_note(
            f"{result.beyond} offsets beyond history's position are left to the workers, which "
            "store them by themselves"
        )
    if result.unreadable:
        print_note(f"retention took {result.unreadable} offsets while the topic was read")


@contextmanager
def _progress_bar() -> Iterator[Callable[[str, int, int], None]]:
    """Yield the `progress` of `streams.refill`: a bar on standard error, if that is a terminal."""
    bar = ProgressBar(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=stderr,
        transient=True,
        disable=not stderr.is_terminal,
    )
    task = bar.add_task("")

    def progress(phase: str, done: int, total: int) -> None:
        bar.update(task, description=f"history: {phase}", completed=done, total=total or None)

    with bar:
        yield progress


def described(result: RefillResult) -> str:
    """Return the result as one line for people."""
    parts = [
        f"{result.stored} events stored",
        f"{result.present} were there",
        f"{result.rejected} rejected",
        f"{result.skipped} skipped",
    ]
    if result.of_others:
        parts.append(f"{result.of_others} of other tenants")
    if result.left:
        parts.append(f"{result.left} left to a worker")
    if result.identities:
        parts.append(f"{result.identities} identities registered again")
    return f"{result.scanned} records read: {', '.join(parts)}"
