"""Output of the `dlq` commands: bytes as text, the table and the JSON document."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from cli.console import print_result, stdout

if TYPE_CHECKING:
    from store.settings import Settings
    from streams.dead_letters.reader import Listing
    from streams.dead_letters.record import DeadLetter


def printable(data: bytes | None, *, pretty: bool = False) -> str:
    """Return bytes as text that a terminal only prints.

    Invalid UTF-8 and control characters are escaped. With `pretty`, JSON gets line breaks.
    """
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


def print_listing(settings: Settings, listing: Listing) -> None:
    """Print the table of `dlq list` and the number of dead letters per reason."""
    from rich.markup import escape
    from rich.table import Table

    from streams.decode.timestamps import format_ms

    if listing.newest:
        table = Table(title=f"dead letters of {settings.dead_letter_topic}, newest first")
        for column in ("dead letter", "found", "reason", "source", "redriven", "detail"):
            table.add_column(column, overflow="fold")
        for dead_letter, _, redriven in listing.newest:
            info = dead_letter.info
            table.add_row(
                dead_letter.position,
                format_ms(info.time_ms),
                info.reason,
                f"{info.partition}:{info.offset}",
                "" if redriven is None else f"{redriven:%Y-%m-%d %H:%M}",
                escape(printable(info.detail.encode())),
            )
        stdout.print(table)
    reasons = ", ".join(f"{n:,} {reason}" for reason, n in sorted(listing.by_reason.items()))
    total = sum(listing.by_reason.values())
    print_result(f"{total:,} dead letters" + (f": {reasons}" if reasons else ""))
    if listing.repeats:
        print_result(f"{listing.repeats:,} repeats of them are in the topic, and not shown")


def as_document(settings: Settings, listing: Listing) -> dict[str, Any]:
    """Return the JSON document of `dlq list --json`; its names are public."""
    from streams.decode.timestamps import format_ms

    return {
        "topic": settings.dead_letter_topic,
        "total": sum(listing.by_reason.values()),
        "byReason": dict(sorted(listing.by_reason.items())),
        "repeats": listing.repeats,
        "letters": [
            {
                "partition": dead_letter.partition,
                "offset": dead_letter.offset,
                "reason": dead_letter.info.reason,
                "detail": dead_letter.info.detail,
                "found": format_ms(dead_letter.info.time_ms),
                "source": {
                    "topic": dead_letter.info.topic,
                    "log": dead_letter.info.topic_id,
                    "partition": dead_letter.info.partition,
                    "offset": dead_letter.info.offset,
                },
                "key": None if dead_letter.key is None else printable(dead_letter.key),
                "repeats": repeats,
                "redriven": None if redriven is None else f"{redriven:%Y-%m-%dT%H:%M:%SZ}",
            }
            for dead_letter, repeats, redriven in listing.newest
        ],
    }


def print_dead_letter(settings: Settings, dead_letter: DeadLetter, redriven: str) -> None:
    """Print a whole dead letter: its origin, its headers, its key and its value."""
    from streams.decode.timestamps import format_ms

    info = dead_letter.info
    lines = {
        "letter": f"{dead_letter.position} of {settings.dead_letter_topic}",
        "reason": info.reason,
        "detail": info.detail,
        "source": f"{info.topic} partition {info.partition} offset {info.offset}",
        "log": info.topic_id,
        "found": format_ms(info.time_ms),
        "redriven": redriven,
        "key": printable(dead_letter.key),
    }
    for name, text in lines.items():
        print_result(f"{name:<9}{text}")
    for name, value in dead_letter.headers:
        print_result(f"header   {printable(name.encode())} = {printable(value)}")
    print_result(f"value    {0 if dead_letter.value is None else len(dead_letter.value)} bytes")
    print_result(printable(dead_letter.value, pretty=True))
