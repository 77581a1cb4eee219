"""The command `load`: sends synthetic or recorded events to Kafka."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, NamedTuple

import typer

from cli.console import UsageError, load_settings, print_note, print_result, run_async, stderr
from store.clock import system_clock_ms
from store.records import DEFAULT_TENANT, is_tenant

if TYPE_CHECKING:
    from cli.traffic.source import Record
    from store.settings import Settings

DEFAULT_EVENTS: Final = 10_000
DEFAULT_CUSTOMERS: Final = 10_000
#: The event loop runs other tasks at least once in this many records.
TURN_RECORDS: Final = 100
#: With `--rate`, this many events are sent at once, but at least one burst per second: the work of
#: a broker is per batch, whether of one event or of twenty.
BURST_RECORDS: Final = 20

#: Shorter than a tenant id may be: `--tenants` appends a number.
_TENANT_CHARS_MAX: Final = 60


class SyntheticOptions(NamedTuple):
    """Options of synthetic events; they cannot be combined with FILE."""

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
            help="Events to send, one JSON document per line, may be gzipped; `-` reads standard "
            "input. Without FILE, synthetic events are sent.",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            help="Events per second, sent in bursts. Default: as fast as possible.", min=0.001
        ),
    ] = None,
    events: Annotated[
        int | None,
        typer.Option(
            help=f"Number of events; 0 = no limit. Default: {DEFAULT_EVENTS}, or all of FILE.",
            min=0,
        ),
    ] = None,
    customers: Annotated[
        int | None,
        typer.Option(
            help=f"Number of distinct customers. Default: {DEFAULT_CUSTOMERS}.", min=1, max=10**9
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            help="Seed of the generator. The same seed gives the same events and ids, which count "
            "once. Default: random.",
            min=0,
            max=2**63 - 1,
        ),
    ] = None,
    duplicates: Annotated[
        float | None, typer.Option(help="Fraction of events sent a second time.", min=0, max=1)
    ] = None,
    late: Annotated[
        float | None,
        typer.Option(help="Fraction of events that are up to 40 days old.", min=0, max=1),
    ] = None,
    malformed: Annotated[
        float | None,
        typer.Option(help="Fraction of records that are not valid events.", min=0, max=1),
    ] = None,
    tenant: Annotated[
        str | None, typer.Option(help=f"Tenant of the events. Default: {DEFAULT_TENANT}.")
    ] = None,
    tenants: Annotated[
        int | None,
        typer.Option(help="Number of tenants: TENANT, TENANT-2, TENANT-3, …", min=1, max=1_000),
    ] = None,
    outcome_type: Annotated[
        str | None, typer.Option(help="Custom outcome type that some events have.")
    ] = None,
    days: Annotated[
        float | None,
        typer.Option(
            help="Spread the events evenly over this many days up to now.", min=0, max=3_650
        ),
    ] = None,
    shift_to_now: Annotated[
        bool,
        typer.Option("--shift-to-now", help="Shift all times of FILE so that the latest is now."),
    ] = False,
) -> None:
    """Send synthetic events, or the recorded events of FILE, to the Kafka topic.

    Exits when Kafka has acknowledged all of them.
    """
    options = SyntheticOptions(
        customers=customers,
        seed=seed,
        duplicates=duplicates,
        late=late,
        malformed=malformed,
        tenant=tenant,
        tenants=tenants,
        outcome_type=outcome_type,
        days=days,
    )
    _check(file, options, events, shift_to_now)
    settings = load_settings()
    run_async(_load(settings, file, options, events=events, rate=rate, shift_to_now=shift_to_now))


def _check(
    file: Path | None, options: SyntheticOptions, events: int | None, shift_to_now: bool
) -> None:
    if file is not None:
        for name, value in options._asdict().items():
            if value is not None:
                option = "--" + name.replace("_", "-")
                raise UsageError(
                    f"{option} is for synthetic events and cannot be combined with FILE"
                )
        return
    if shift_to_now:
        raise UsageError(
            "--shift-to-now needs FILE: synthetic events already have the current time"
        )
    if options.days and events == 0:
        raise UsageError("--days needs --events of at least 1")
    if (options.duplicates or 0) + (options.malformed or 0) > 1:
        raise UsageError("--duplicates plus --malformed must be at most 1")
    if options.tenant is not None and not (
        is_tenant(options.tenant) and len(options.tenant) <= _TENANT_CHARS_MAX
    ):
        raise UsageError("--tenant must be 1 to 60 of the characters A-Z a-z 0-9 _ . -")


async def _load(
    settings: Settings,
    file: Path | None,
    options: SyntheticOptions,
    *,
    events: int | None,
    rate: float | None,
    shift_to_now: bool,
) -> None:
    if file is None:
        count = DEFAULT_EVENTS if events is None else events or None
        await _send(settings, _synthetic(options, count), count, rate)
        return
    from cli.traffic.source import open_source, recorded_records

    with open_source(file, seekable=shift_to_now) as source:
        records = recorded_records(
            source, events=events or None, shift_to_ms=system_clock_ms() if shift_to_now else None
        )
        await _send(settings, records, events or None, rate)


def _synthetic(options: SyntheticOptions, events: int | None) -> Iterator[Record]:
    from cli.traffic.source import synthetic_records
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
    print_note(f"seed {seed}")
    return synthetic_records(traffic, events=events, days=options.days or 0, now_ms=system_clock_ms)


async def _send(
    settings: Settings, records: Iterator[Record], total: int | None, rate: float | None
) -> None:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from streams.kafka.sender import Sender

    columns = (TextColumn("events"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    sender = Sender(settings, settings.interactions_topic)
    started_s = time.monotonic()
    finished = False
    try:
        with Progress(
            *columns, console=stderr, transient=True, disable=not stderr.is_terminal
        ) as bar:
            task = bar.add_task("", total=total)
            async with sender:
                if not sender.idempotent:
                    print_note(
                        "note: the broker does not support idempotent producers; a retry may add a "
                        "duplicate"
                    )
                started_s = time.monotonic()
                for number, (key, value) in enumerate(records):
                    await _wait_until_due(number, rate, started_s)
                    await sender.send(key, value)
                    if number % TURN_RECORDS == 0:
                        bar.update(task, completed=sender.acknowledged)
        finished = True
    finally:
        if finished or sender.acknowledged:
            _print_summary(sender.acknowledged, time.monotonic() - started_s)


def _print_summary(events: int, seconds: float) -> None:
    rate = events / max(seconds, 1e-6)
    print_result(f"{events} events acknowledged in {seconds:.1f} s ({rate:.0f} events/s)")


def due_s(number: int, rate: float) -> float:
    """Return when record `number` (from 0) is due, in seconds from the start."""
    burst = max(1, min(BURST_RECORDS, int(rate)))
    return (number - number % burst) / rate


async def _wait_until_due(number: int, rate: float | None, started_s: float) -> None:
    """Wait until record `number` is due; let the producer's tasks run in between."""
    if rate is None:
        if number % TURN_RECORDS == 0:
            await asyncio.sleep(0)
        return
    wait_s = started_s + due_s(number, rate) - time.monotonic()
    if wait_s > 0 or number % TURN_RECORDS == 0:
        await asyncio.sleep(max(0.0, wait_s))
