"""Output of the `dlq` commands: bytes as text, the table and the JSON document."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from cli.console import print_result, stdout

if TYPE_CHECKING:
    from store.postgres.quarantine import QuarantinedRecord, QuarantineSummary
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


def print_quarantined(found: tuple[Sequence[QuarantinedRecord], QuarantineSummary]) -> None:
    """Print the table of quarantined records and their number per reason, if there are any."""
    from rich.markup import escape
    from rich.table import Table

    newest, summary = found
    if newest:
        table = Table(title="quarantined records, in PostgreSQL only, newest first")
        for column in ("source", "found", "reason", "tenant", "bytes", "error"):
            table.add_column(column, overflow="fold")
        for row in newest:
            last = row.next_offset - 1
            table.add_row(
                row.position + ("" if last == row.offset else f" to {last}"),
                f"{row.recorded_at:%Y-%m-%dT%H:%M:%SZ}",
                row.reason,
                row.tenant or "",
                "" if row.size is None else f"{row.size:,}",
                escape(row.error),
            )
        stdout.print(table)
    if summary.total:
        reasons = ", ".join(f"{n:,} {reason}" for reason, n in summary.by_reason.items())
        print_result(f"{summary.total:,} quarantined records: {reasons}")


def print_quarantined_record(row: QuarantinedRecord) -> None:
    """Print all that is kept of a quarantined record."""
    last = row.next_offset - 1
    offsets = f"offset {row.offset}" if last == row.offset else f"offsets {row.offset} to {last}"
    lines = {
        "source": f"{row.topic} partition {row.partition} {offsets}",
        "log": row.topic_id,
        "reason": row.reason,
        "error": row.error,
        "tenant": row.tenant or "(not known)",
        "found": f"{row.recorded_at:%Y-%m-%dT%H:%M:%SZ}",
        "stamp": "(not known)" if row.timestamp_ms is None else str(row.timestamp_ms),
        "key": printable(row.key),
        "sha256": "(not known)" if row.sha256 is None else row.sha256.hex(),
    }
    for name, text in lines.items():
        print_result(f"{name:<9}{text}")
    if row.size is None:
        print_result("value    (not kept; the source topic may still have it)")
        return
    kept = len(row.value or b"")
    print_result(f"value    {row.size} bytes, of which the first {kept} are kept")
    print_result(printable(row.value))


def as_document(
    settings: Settings,
    listing: Listing,
    quarantined: tuple[Sequence[QuarantinedRecord], QuarantineSummary] | None,
) -> dict[str, Any]:
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
        "quarantined": None if quarantined is None else _quarantined_document(*quarantined),
    }


def _quarantined_document(
    newest: Sequence[QuarantinedRecord], summary: QuarantineSummary
) -> dict[str, Any]:
    return {
        "total": summary.total,
        "byReason": summary.by_reason,
        "records": [
            {
                "source": {
                    "topic": row.topic,
                    "log": row.topic_id,
                    "partition": row.partition,
                    "offset": row.offset,
                    "nextOffset": row.next_offset,
                },
                "reason": row.reason,
                "error": row.error,
                "tenant": row.tenant,
                "found": f"{row.recorded_at:%Y-%m-%dT%H:%M:%SZ}",
                "timestampMs": row.timestamp_ms,
                "key": None if row.key is None else printable(row.key),
                "bytes": row.size,
                "sha256": None if row.sha256 is None else row.sha256.hex(),
            }
            for row in newest
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
