"""The commands `dlq list`, `dlq show` and `dlq redrive` for dead letters."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.console import (
    CliError,
    UsageError,
    load_settings,
    print_note,
    print_result,
    run_async,
    stderr,
)
from cli.dlq_output import (
    as_document,
    print_dead_letter,
    print_listing,
    print_quarantined,
    print_quarantined_record,
)
from store.clock import system_clock_ms

if TYPE_CHECKING:
    from store.postgres.quarantine import QuarantinedRecord, QuarantineSummary
    from store.settings import Settings
    from streams.dead_letters.reader import DeadLetterTopic, Listing
    from streams.dead_letters.record import DeadLetter
    from streams.dead_letters.redrive import RedriveReport

    #: The newest rows, and the numbers of all.
    Quarantined = tuple[Sequence[QuarantinedRecord], QuarantineSummary]

app = typer.Typer(
    help="List, show and redrive dead letters: events that could not be counted.",
    no_args_is_help=True,
)

ReasonOption = Annotated[
    str | None, typer.Option("--reason", help="Only dead letters with this reason.")
]
#: At most this many dead letters that a redrive did not send are printed.
_NOT_SENT_SHOWN = 10


@app.command("list")
def list_(
    limit: Annotated[
        int, typer.Option(min=1, max=10_000, help="Number of dead letters, newest first.")
    ] = 20,
    reason: ReasonOption = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document, with stable names.")
    ] = False,
) -> None:
    """Show the newest dead letters, each once, and the number of dead letters per reason.

    Around a crash two workers may send the same record to the topic; it is listed once.
    Quarantined records, which the topic does not take, follow in a table of their own.
    """
    _check_reason(reason)
    settings = load_settings()
    listing, quarantined = run_async(_list(settings, limit, reason))
    if json:
        import msgspec

        document = msgspec.json.encode(as_document(settings, listing, quarantined))
        print_result(msgspec.json.format(document).decode())
    else:
        print_listing(settings, listing)
        if quarantined is not None:
            print_quarantined(quarantined)


@app.command("show")
def show(
    partition: Annotated[int, typer.Argument(min=0, help="Partition of the dead-letter topic.")],
    offset: Annotated[int, typer.Argument(min=0, help="Offset in that partition.")],
    quarantined: Annotated[
        bool,
        typer.Option(
            "--quarantined",
            help="Show a quarantined record; partition and offset are those of the source topic.",
        ),
    ] = False,
) -> None:
    """Show one dead letter completely: its reason, source, headers, key and value.

    Bytes that are not printable text are escaped.
    """
    settings = load_settings()
    if quarantined:
        for record in run_async(_quarantined_at(settings, partition, offset)):
            print_quarantined_record(record)
        return
    dead_letter, redriven = run_async(_find(settings, partition, offset))
    print_dead_letter(settings, dead_letter, redriven)


@app.command("redrive")
def redrive(
    positions: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PARTITION:OFFSET]...",
            help="Dead letters to send, as `dlq list` shows them. Default: all.",
        ),
    ] = None,
    reason: ReasonOption = None,
    tenant: Annotated[str | None, typer.Option(help="Only events of this tenant.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be sent; send nothing.")
    ] = False,
) -> None:
    """Send dead letters to the source topic again, byte for byte, after their cause is fixed.

    Each event counts once, however often the command is run or interrupted. Dead letters that were
    redriven before are skipped; those that would be rejected again are skipped and printed.
    """
    _check_reason(reason)
    wanted = [_position(text) for text in positions or ()]
    settings = load_settings()
    report, quarantined = run_async(
        _redrive(settings, wanted, reason=reason, tenant=tenant, dry_run=dry_run)
    )
    sent = "would be sent" if dry_run else "sent"
    print_result(
        f"{report.sent} {sent}, {report.already_counted} counted already, "
        f"{report.already_redriven} redriven before, {len(report.not_sent)} left"
    )
    for left in report.not_sent[:_NOT_SENT_SHOWN]:
        print_result(f"  {left.dead_letter.position} would be rejected again: {left.reason}")
    if len(report.not_sent) > _NOT_SENT_SHOWN:
        print_result(f"  and {len(report.not_sent) - _NOT_SENT_SHOWN} more")
    if quarantined:
        print_result(
            f"{quarantined} quarantined records cannot be sent: only their first bytes are kept; "
            "send them again from their source (`dlq list` shows them)"
        )


# --- calls


async def _list(
    settings: Settings, limit: int, reason: str | None
) -> tuple[Listing, Quarantined | None]:
    """Return the dead letters and the quarantined records; None while PostgreSQL is unavailable."""
    from store.postgres.pool import open_pool
    from store.postgres.quarantine import Quarantine
    from store.records import StoreUnavailable
    from streams.dead_letters.reader import list_dead_letters, open_dead_letters, with_marks

    async with open_dead_letters(settings) as topic:
        listing = await list_dead_letters(topic.read_all(), limit=limit, reason=reason)
    try:
        async with open_pool(settings, max_size=1) as pool:
            listing = await with_marks(listing, pool)
            quarantine = Quarantine(pool)
            newest = await quarantine.newest(limit, reason=reason)
            return listing, (newest, await quarantine.summary())
    except StoreUnavailable as error:
        print_note(f"note: what was redriven or quarantined is not known ({error})")
        return listing, None


async def _quarantined_at(
    settings: Settings, partition: int, offset: int
) -> list[QuarantinedRecord]:
    from cli.catalog import with_pool
    from store.postgres.quarantine import Quarantine

    found = await with_pool(settings, lambda pool: Quarantine(pool).at(partition, offset))
    if not found:
        raise CliError(
            f"no quarantined record at {partition}:{offset} of {settings.interactions_topic}"
        )
    return found


async def _find(settings: Settings, partition: int, offset: int) -> tuple[DeadLetter, str]:
    """Return the dead letter, and when it was redriven as text."""
    from cli.catalog import with_pool
    from store.postgres.redriven import RedrivenDeadLetters
    from store.records import StoreUnavailable
    from streams.dead_letters.reader import open_dead_letters

    async with open_dead_letters(settings) as topic:
        dead_letter = await _dead_letter_at(settings, topic, partition, offset)
    source = dead_letter.info.source
    try:
        marked = await with_pool(settings, lambda pool: RedrivenDeadLetters(pool).marked([source]))
    except StoreUnavailable as error:
        return dead_letter, f"not known ({error})"
    return dead_letter, f"{marked[0]:%Y-%m-%dT%H:%M:%SZ}" if marked else "no"


async def _dead_letter_at(
    settings: Settings, topic: DeadLetterTopic, partition: int, offset: int
) -> DeadLetter:
    dead_letter = await topic.read_at(partition, offset)
    if dead_letter is None:
        raise CliError(f"no dead letter at {partition}:{offset} of {settings.dead_letter_topic}")
    return dead_letter


async def _redrive(
    settings: Settings,
    positions: Sequence[tuple[int, int]],
    *,
    reason: str | None,
    tenant: str | None,
    dry_run: bool,
) -> tuple[RedriveReport, int]:
    """Return what was redriven, and the number of quarantined records, which cannot be."""
    from rich.progress import Progress, SpinnerColumn, TextColumn

    from cli.catalog import with_pool
    from store.postgres.quarantine import Quarantine
    from store.records import StoreUnavailable
    from streams.dead_letters.reader import open_dead_letters
    from streams.dead_letters.redrive import Redrive

    async with open_dead_letters(settings) as topic:
        # Before anything is sent: a position without a dead letter fails the whole command.
        named = [await _dead_letter_at(settings, topic, *position) for position in positions]
        with Progress(
            SpinnerColumn(), TextColumn("{task.description}"), console=stderr, transient=True
        ) as bar:
            task = bar.add_task("reading")

            def show_progress(report: RedriveReport) -> None:
                bar.update(task, description=f"{report.sent} sent, {len(report.not_sent)} left")

            async def work(pool: Any) -> tuple[RedriveReport, int]:
                redrive = Redrive(settings, pool, now_ms=system_clock_ms, dry_run=dry_run)
                dead_letters = _each(named) if positions else topic.read_all()
                report = await redrive.run(
                    dead_letters, reason=reason, tenant=tenant, progress=show_progress
                )
                if positions:
                    return report, 0
                try:
                    return report, (await Quarantine(pool).summary()).total
                except StoreUnavailable as error:
                    print_note(f"note: what was quarantined is not known ({error})")
                    return report, 0

            return await with_pool(settings, work)


async def _each(dead_letters: Sequence[DeadLetter]) -> AsyncIterator[DeadLetter]:
    for dead_letter in dead_letters:
        yield dead_letter


# --- arguments


def _check_reason(reason: str | None) -> None:
    from streams.decode.rejection import Reason

    if reason is not None and reason not in list(Reason):
        raise UsageError(f"--reason: {reason!r} must be one of {', '.join(Reason)}")


def _position(text: str) -> tuple[int, int]:
    partition, colon, offset = text.partition(":")
    if not (colon and partition.isdecimal() and offset.isdecimal()):
        raise UsageError(f"{text!r}: a dead letter is given as PARTITION:OFFSET, for example 0:17")
    return int(partition), int(offset)
