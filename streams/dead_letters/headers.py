"""Dead letters: the headers that say why a record could not be counted and where it came from. The
record's own key, value and headers stay as they were. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from streams.dead_letters.record import DeadLetterInfo
from streams.decode.timestamps import format_ms, parse_ms

Headers = list[tuple[str, bytes]]

REASON: Final = "dlq.reason"
DETAIL: Final = "dlq.detail"
TOPIC: Final = "dlq.source.topic"
LOG: Final = "dlq.source.log"
PARTITION: Final = "dlq.source.partition"
OFFSET: Final = "dlq.source.offset"
TIME: Final = "dlq.time"
_OURS: Final = frozenset({REASON, DETAIL, TOPIC, LOG, PARTITION, OFFSET, TIME})


def headers(
    reason: str,
    detail: str,
    topic: str,
    topic_id: str,
    partition: int,
    offset: int,
    now_ms: int,
    original: Iterable[tuple[str, bytes]] = (),
) -> Headers:
    """The headers of a dead letter: the record's own first, ours after them.

    A record may have been a dead letter before (redriven, and refused again): its old headers of
    ours stay too, and `parse` reads the last ones."""
    return [
        *original,
        (REASON, str(reason).encode()),
        (DETAIL, detail.encode("utf-8", "backslashreplace")),
        (TOPIC, topic.encode()),
        (LOG, topic_id.encode()),
        (PARTITION, str(partition).encode()),
        (OFFSET, str(offset).encode()),
        (TIME, format_ms(now_ms).encode()),
    ]


def parse(headers: Iterable[tuple[str, bytes]]) -> DeadLetterInfo | None:
    """What the headers say; None where they make no sense: then it is no dead letter of ours."""
    found = {name: value for name, value in headers if name in _OURS and value is not None}
    try:
        text = {name: found[name].decode() for name in _OURS}
        return DeadLetterInfo(
            text[REASON],
            text[DETAIL],
            text[TOPIC],
            text[LOG],
            int(text[PARTITION]),
            int(text[OFFSET]),
            parse_ms(text[TIME]),
        )
    except (KeyError, ValueError):
        return None


def original_headers(headers: Iterable[tuple[str, bytes]]) -> Headers:
    """The headers that the record came with: for a redrive."""
    return [(name, value) for name, value in headers if name not in _OURS]
