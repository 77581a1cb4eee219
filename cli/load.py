"""`load`: produces events."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, NamedTuple

import typer

from cli.console import UsageError, answer, err, load_settings, run, say
from store.clock import system_clock_ms
from store.records import DEFAULT_TENANT, is_tenant

if TYPE_CHECKING:
    from cli.traffic.source import Record
    from store.settings import Settings

DEFAULT_EVENTS: Final = 10_000
DEFAULT_CUSTOMERS: Final = 10_000
#: The event loop gets a turn at least this often.
TURN_RECORDS: Final = 100
#: Events of a given rate leave so many at once, but at least once a second: what a broker has to
#: work for is a batch, be it of one event or of twenty.
BURST_RECORDS: Final = 20

#: Shorter than a tenant id may be: `--tenants` appends a number.
_TENANT_CHARS_MAX: Final = 60


class Synthetic(NamedTuple):
    """The options that only made-up events have."""

    customers: int | None
    seed: int | None
    duplicates: float | None
    late: float | None
    malformed: float | None
    tenant: str | None
    tenants: int | None
    outcome_type: str | None
    days: float | None


def load(
    file: Annotated[
        Path | None,
        typer.Argument(
            help="Events to send, one JSON document a line, .gz too; `-` reads standard input. "
            "Without FILE they are made up.",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            help="Events a second, some together. Default: as fast as it goes.", min=0.001
        ),
    ] = None,
    events: Annotated[
        int | None,
        typer.Option(
            help=f"How many; 0 = until stopped. Default: {DEFAULT_EVENTS}, or all of FILE.", min=0
        ),
    ] = None,
    customers: Annotated[
        int | None,
        typer.Option(help=f"Distinct customers. Default: {DEFAULT_CUSTOMERS}.", min=1, max=10**9),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            help="The same seed makes the same events, their ids too, so that they count once. "
            "Default: a new one.",
            min=0,
            max=2**63 - 1,
        ),
    ] = None,
    duplicates: Annotated[
        float | None, typer.Option(help="Fraction sent again a little later.", min=0, max=1)
    ] = None,
    late: Annotated[
        float | None, typer.Option(help="Fraction that is up to 40 days old.", min=0, max=1)
    ] = None,
    malformed: Annotated[
        float | None, typer.Option(help="Fraction that is no valid event.", min=0, max=1)
    ] = None,
    tenant: Annotated[
        str | None, typer.Option(help=f"Whose events. Default: {DEFAULT_TENANT}.")
    ] = None,
    tenants: Annotated[
        int | None,
        typer.Option(help="Spread over so many tenants: TENANT, TENANT-2, …", min=1, max=1_000),
    ] = None,
    outcome_type: Annotated[
        str | None, typer.Option(help="An outcome type of the tenant's own that some events have.")
    ] = None,
    days: Annotated[
        float | None,
        typer.Option(help="Spread evenly over so many days up to now.", min=0, max=3_650),
    ] = None,
    shift_to_now: Annotated[
        bool, typer.Option("--shift-to-now", help="Move all times of FILE so that the last is now.")
    ] = False,
) -> None:
    """Produces events: made up, or recorded ones from FILE.

    Ends when Kafka has acknowledged all."""
    options = Synthetic(
        customers, seed, duplicates, late, malformed, tenant, tenants, outcome_type, days
    )
    _check(file, options, events, shift_to_now)
    settings = load_settings()
    run(_load(settings, file, options, events, rate, shift_to_now))


def _check(file: Path | None, options: Synthetic, events: int | None, shift_to_now: bool) -> None:
    if file is not None:
        for name, value in options._asdict().items():
            if value is not None:
                option = "--" + name.replace("_", "-")
                raise UsageError(f"{option} is for made-up events and cannot be used with FILE")
        return
    if shift_to_now:
        raise UsageError("--shift-to-now needs FILE: made-up events are of now already")
    if options.days and events == 0:
        raise UsageError("--days needs --events of 1 or more: it spreads them")
    if (options.duplicates or 0) + (options.malformed or 0) > 1:
        raise UsageError("--duplicates and --malformed together are at most 1")
    if options.tenant is not None and not (
        is_tenant(options.tenant) and len(options.tenant) <= _TENANT_CHARS_MAX
    ):
        raise UsageError("--tenant must be 1 to 60 of the characters A-Z a-z 0-9 _ . -")


async def _load(
    settings: Settings,
    file: Path | None,
    options: Synthetic,
    events: int | None,
    rate: float | None,
    shift_to_now: bool,
) -> None:
    if file is None:
        count = DEFAULT_EVENTS if events is None else events or None
        await _send(settings, _synthetic(options, count), count, rate)
        return
    from cli.traffic.source import opened, recorded

    with opened(file, seekable=shift_to_now) as source:
        records = recorded(
            source, events=events or None, shift_to_ms=system_clock_ms() if shift_to_now else None
        )
        await _send(settings, records, events or None, rate)


def _synthetic(options: Synthetic, events: int | None) -> Iterator[Record]:
    from cli.traffic.source import synthetic
    from cli.traffic.synthetic import Traffic

    seed = secrets.randbits(40) if options.seed is None else options.seed
    first = options.tenant or DEFAULT_TENANT
    traffic = Traffic(
        seed=seed,
        customers=options.customers or DEFAULT_CUSTOMERS,
        tenants=(first, *(f"{first}-{n}" for n in range(2, (options.tenants or 1) + 1))),
        duplicates=options.duplicates or 0,
        late=options.late or 0,
        malformed=options.malformed or 0,
        own_type=options.outcome_type,
    )
    say(f"seed {seed}")
    return synthetic(traffic, events=events, days=options.days or 0, now_ms=system_clock_ms)


async def _send(
    settings: Settings, records: Iterator[Record], total: int | None, rate: float | None
) -> None:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from cli.traffic.sender import Sender

    columns = (TextColumn("events"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    sender = Sender(settings, settings.interactions_topic)
    started_s = time.monotonic()
    finished = False
    try:
        with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
            task = bar.add_task("", total=total)
            async with sender:
                if not sender.idempotent:
                    say("note: the broker has no idempotent producer; a retry may add a duplicate")
                started_s = time.monotonic()
                for number, (key, value) in enumerate(records):
                    await _turn(number, rate, started_s)
                    await sender.send(key, value)
                    if number % TURN_RECORDS == 0:
                        bar.update(task, completed=sender.acknowledged)
        finished = True
    finally:
        if finished or sender.acknowledged:
            _sum_up(sender.acknowledged, time.monotonic() - started_s)


def _sum_up(events: int, seconds: float) -> None:
    rate = events / max(seconds, 1e-6)
    answer(f"{events} events acknowledged in {seconds:.1f} s ({rate:.0f} events/s)")


def due_s(number: int, rate: float) -> float:
    """When record `number`, from 0, is sent: seconds from the start."""
    burst = max(1, min(BURST_RECORDS, int(rate)))
    return (number - number % burst) / rate


async def _turn(number: int, rate: float | None, started_s: float) -> None:
    """Waits until record `number` is due, and lets the sending go on."""
    if rate is None:
        if number % TURN_RECORDS == 0:
            await asyncio.sleep(0)
        return
    wait_s = started_s + due_s(number, rate) - time.monotonic()
    if wait_s > 0 or number % TURN_RECORDS == 0:
        await asyncio.sleep(max(0.0, wait_s))
