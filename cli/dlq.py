"""`dlq list`, `dlq show` and `dlq redrive`: the dead letters."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
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
    stdout,
)
from store.clock import system_clock_ms

if TYPE_CHECKING:
    from store.settings import Settings
    from streams.dead_letters.reader import DeadLetterTopic, Listing
    from streams.dead_letters.record import DeadLetter
    from streams.dead_letters.redrive import RedriveReport

app = typer.Typer(
    help="Events that could not be counted: what they are, and counting them after a fix.",
    no_args_is_help=True,
)

ReasonOption = Annotated[
    str | None, typer.Option("--reason", help="Only letters refused for this reason.")
]
#: Letters that a redrive leaves are shown up to this many.
_LEFT_SHOWN = 10


@app.command("list")
def list_(
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many, the newest.")] = 20,
    reason: ReasonOption = None,
    json: Annotated[
        bool, typer.Option("--json", help="As one JSON document, with stable names.")
    ] = False,
) -> None:
    """Shows the newest dead letters, each once, and how many there are of each reason.

    An event that two workers found to be one, around a crash, may be in the topic twice: it is one
    letter here."""
    _check_reason(reason)
    settings = load_settings()
    listing = run_async(_list(settings, limit, reason))
    if json:
        import msgspec

        document = msgspec.json.encode(_as_document(settings, listing))
        print_result(msgspec.json.format(document).decode())
    else:
        _show_list(settings, listing)


@app.command("show")
def show(
    partition: Annotated[int, typer.Argument(min=0, help="Of the dead-letter topic.")],
    offset: Annotated[int, typer.Argument(min=0, help="Of the dead-letter topic.")],
) -> None:
    """Shows one dead letter whole: why it is one, where it came from, its headers, key and value.

    Bytes that are no text are shown escaped."""
    settings = load_settings()
    letter, redriven = run_async(_find(settings, partition, offset))
    info = letter.info
    from streams.decode.timestamps import format_ms

    lines = {
        "letter": f"{letter.position} of {settings.dead_letter_topic}",
        "reason": info.reason,
        "detail": info.detail,
        "source": f"{info.topic} partition {info.partition} offset {info.offset}",
        "log": info.topic_id,
        "found": format_ms(info.time_ms),
        "redriven": redriven,
        "key": shown(letter.key),
    }
    for name, text in lines.items():
        print_result(f"{name:<9}{text}")
    for name, value in letter.headers:
        print_result(f"header   {shown(name.encode())} = {shown(value)}")
    print_result(f"value    {0 if letter.value is None else len(letter.value)} bytes")
    print_result(shown(letter.value, pretty=True))


@app.command("redrive")
def redrive(
    places: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PARTITION:OFFSET]...",
            help="These letters, as `dlq list` names them; else all.",
        ),
    ] = None,
    reason: ReasonOption = None,
    tenant: Annotated[str | None, typer.Option(help="Only events of this tenant.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be sent; send nothing.")
    ] = False,
) -> None:
    """Sends dead letters to the source topic again, byte for byte, after what was wrong is mended.

    Each event counts once, however often this is run and wherever it is cut off. What was redriven
    before is left out, and so is what would be refused again: that is said."""
    _check_reason(reason)
    wanted = [_place(text) for text in places or ()]
    settings = load_settings()
    report = run_async(_redrive(settings, wanted, reason=reason, tenant=tenant, dry_run=dry_run))
    would = "would be sent" if dry_run else "sent"
    print_result(
        f"{report.sent} {would}, {report.already_counted} counted already, "
        f"{report.already_redriven} redriven before, {len(report.not_sent)} left"
    )
    for left in report.not_sent[:_LEFT_SHOWN]:
        print_result(f"  {left.dead_letter.position} would be refused again: {left.reason}")
    if len(report.not_sent) > _LEFT_SHOWN:
        print_result(f"  and {len(report.not_sent) - _LEFT_SHOWN} more")


# ---- what the commands do


async def _list(settings: Settings, limit: int, reason: str | None) -> Listing:
    from cli.catalog import with_pool
    from store.records import StoreUnavailable
    from streams.dead_letters.reader import list_dead_letters, open_dead_letters, with_marks

    async with open_dead_letters(settings) as topic:
        listing = await list_dead_letters(topic.read_all(), limit=limit, reason=reason)
    try:
        return await with_pool(settings, lambda pool: with_marks(listing, pool))
    except StoreUnavailable as error:
        print_note(f"note: what was redriven is not known ({error})")
        return listing


async def _find(settings: Settings, partition: int, offset: int) -> tuple[DeadLetter, str]:
    """The letter, and when it was redriven."""
    from cli.catalog import with_pool
    from store.postgres.redriven import RedrivenDeadLetters
    from store.records import StoreUnavailable
    from streams.dead_letters.reader import open_dead_letters

    async with open_dead_letters(settings) as topic:
        letter = await _letter_at(settings, topic, partition, offset)
    source = letter.info.source
    try:
        marked = await with_pool(settings, lambda pool: RedrivenDeadLetters(pool).marked([source]))
    except StoreUnavailable as error:
        return letter, f"not known ({error})"
    return letter, f"{marked[0]:%Y-%m-%dT%H:%M:%SZ}" if marked else "no"


async def _letter_at(
    settings: Settings, topic: DeadLetterTopic, partition: int, offset: int
) -> DeadLetter:
    letter = await topic.read_at(partition, offset)
    if letter is None:
        raise CliError(f"no dead letter at {partition}:{offset} of {settings.dead_letter_topic}")
    return letter


async def _redrive(
    settings: Settings,
    places: Sequence[tuple[int, int]],
    *,
    reason: str | None,
    tenant: str | None,
    dry_run: bool,
) -> RedriveReport:
    from rich.progress import Progress, SpinnerColumn, TextColumn

    from cli.catalog import with_pool
    from streams.dead_letters.reader import open_dead_letters
    from streams.dead_letters.redrive import Redrive

    async with open_dead_letters(settings) as topic:
        # Before anything is sent: a place that is not there is a mistake in all of the command.
        named = [await _letter_at(settings, topic, *place) for place in places]
        with Progress(
            SpinnerColumn(), TextColumn("{task.description}"), console=stderr, transient=True
        ) as bar:
            task = bar.add_task("reading")

            def told(report: RedriveReport) -> None:
                bar.update(task, description=f"{report.sent} sent, {len(report.not_sent)} left")

            async def work(pool: Any) -> RedriveReport:
                drive = Redrive(settings, pool, now_ms=system_clock_ms, dry_run=dry_run)
                letters = _each(named) if places else topic.read_all()
                return await drive.run(letters, reason=reason, tenant=tenant, progress=told)

            return await with_pool(settings, work)


async def _each(letters: Sequence[DeadLetter]) -> AsyncIterator[DeadLetter]:
    for letter in letters:
        yield letter


# ---- what they are asked, and what they show


def _check_reason(reason: str | None) -> None:
    from streams.decode.rejection import Reason

    if reason is not None and reason not in list(Reason):
        raise UsageError(f"--reason: {reason!r} is none of {', '.join(Reason)}")


def _place(text: str) -> tuple[int, int]:
    partition, colon, offset = text.partition(":")
    if not (colon and partition.isdecimal() and offset.isdecimal()):
        raise UsageError(f"{text!r}: a letter is named PARTITION:OFFSET, for example 0:17")
    return int(partition), int(offset)


def shown(data: bytes | None, *, pretty: bool = False) -> str:
    """Bytes as text for a terminal: what is no UTF-8, and what a terminal would obey, escaped;
    JSON with line breaks where `pretty`."""
    if data is None:
        return "(null)"
    if pretty:
        import msgspec

        with suppress(msgspec.DecodeError, RecursionError):
            data = msgspec.json.format(data, indent=2)
    text = data.decode("utf-8", "backslashreplace")
    allowed = "\n\t" if pretty else ""
    return "".join(
        c if c.isprintable() or c in allowed else c.encode("unicode_escape").decode() for c in text
    )


def _show_list(settings: Settings, listing: Listing) -> None:
    from rich.markup import escape
    from rich.table import Table

    from streams.decode.timestamps import format_ms

    if listing.newest:
        table = Table(title=f"dead letters of {settings.dead_letter_topic}, the newest first")
        for column in ("letter", "found", "reason", "source", "redriven", "detail"):
            table.add_column(column, overflow="fold")
        for letter, _, redriven in listing.newest:
            info = letter.info
            table.add_row(
                letter.position,
                format_ms(info.time_ms),
                info.reason,
                f"{info.partition}:{info.offset}",
                "" if redriven is None else f"{redriven:%Y-%m-%d %H:%M}",
                escape(shown(info.detail.encode())),
            )
        stdout.print(table)
    reasons = ", ".join(f"{n:,} {reason}" for reason, n in sorted(listing.by_reason.items()))
    total = sum(listing.by_reason.values())
    print_result(f"{total:,} dead letters" + (f": {reasons}" if reasons else ""))
    if listing.repeats:
        print_result(f"{listing.repeats:,} repeats of them are in the topic, and not shown")


def _as_document(settings: Settings, listing: Listing) -> dict[str, Any]:
    from streams.decode.timestamps import format_ms

    return {
        "topic": settings.dead_letter_topic,
        "total": sum(listing.by_reason.values()),
        "byReason": dict(sorted(listing.by_reason.items())),
        "repeats": listing.repeats,
        "letters": [
            {
                "partition": letter.partition,
                "offset": letter.offset,
                "reason": letter.info.reason,
                "detail": letter.info.detail,
                "found": format_ms(letter.info.time_ms),
                "source": {
                    "topic": letter.info.topic,
                    "log": letter.info.topic_id,
                    "partition": letter.info.partition,
                    "offset": letter.info.offset,
                },
                "key": None if letter.key is None else shown(letter.key),
                "repeats": repeats,
                "redriven": None if redriven is None else f"{redriven:%Y-%m-%dT%H:%M:%SZ}",
            }
            for letter, repeats, redriven in listing.newest
        ],
    }
