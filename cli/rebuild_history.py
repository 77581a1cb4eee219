"""`rebuild --history`: fills history that was lost, from the topic, and prints what was done."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cli.console import CliError, print_note, print_result
from cli.rebuild_progress import RebuildProgress

if TYPE_CHECKING:
    from collections.abc import Mapping

    from store.settings import Settings
    from streams.rebuild.progress import Phase, ProgressMeter
    from streams.refill import RefillResult

#: Phases of `streams.refill`, by the names that the progress of a rebuild has.
_PHASES: Final[Mapping[str, Phase]] = {
    "identities": "identities",
    "topic": "topic",
    "rows": "history",
}


async def rebuild_history(settings: Settings, tenant: str | None) -> None:
    """Fill the history of `tenant`, or of all tenants, and print the result.

    Raises CliError and StoreUnavailable.
    """
    from store.clock import system_clock_ms
    from store.postgres.pool import open_pool
    from store.redis.counters import open_counters
    from streams.kafka.topic_scan import TopicChanged
    from streams.rebuild.progress import ProgressMeter
    from streams.refill import Refill, RefillError

    with RebuildProgress() as shown:
        meter = ProgressMeter(tenant or "all", shown, system_clock_ms)
        async with (
            open_counters(settings, retries=3) as counters,
            open_pool(settings, max_size=3) as pool,
        ):
            refill = Refill(
                settings,
                pool,
                counted_tenants=await counters.tenants(),
                owners=counters,
                tenant=tenant,
                progress=_Phases(meter),
            )
            try:
                result = await refill.run()
            except (RefillError, TopicChanged) as error:
                raise CliError(str(error)) from error
    print_result(described(result))
    if result.beyond:
        print_note(
            f"{result.beyond:,} offsets beyond history's position are left to the workers, which "
            "store them by themselves"
        )
    if result.unreadable:
        print_note(f"retention took {result.unreadable:,} offsets while the topic was read")


class _Phases:
    """The `progress` of a refill, passed on to a meter."""

    def __init__(self, meter: ProgressMeter) -> None:
        self._meter = meter
        self._phase: str | None = None

    def __call__(self, phase: str, done: int, total: int) -> None:
        if phase != self._phase:
            self._phase = phase
            self._meter.begin(_PHASES[phase], total or None)
        self._meter.update(done)


def described(result: RefillResult) -> str:
    """Return the result in one line."""
    parts = [
        f"{result.stored:,} events stored",
        f"{result.present:,} were there",
        f"{result.rejected:,} rejected",
        f"{result.skipped:,} skipped",
    ]
    if result.of_others:
        parts.append(f"{result.of_others:,} of other tenants")
    if result.removed:
        parts.append(f"{result.removed:,} removed with their tenant")
    if result.copies:
        parts.append(f"{result.copies:,} copies of counted events")
    if result.left:
        parts.append(f"{result.left:,} left to a worker")
    if result.identities:
        parts.append(f"{result.identities:,} identities registered again")
    return f"{result.scanned:,} records read: {', '.join(parts)}"
