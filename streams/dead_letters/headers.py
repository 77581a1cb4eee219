"""Headers of a dead letter: why the record could not be counted, and where it was read.

The record's own key, value and headers stay unchanged. These functions are pure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final

from streams.dead_letters.record import DeadLetterInfo
from streams.decode.timestamps import format_ms, parse_ms

Headers = list[tuple[str, bytes]]

REASON: Final = "dlq.reason"
DETAIL: Final = "dlq.detail"
TOPIC: Final = "dlq.source.topic"
TOPIC_ID: Final = "dlq.source.log"
PARTITION: Final = "dlq.source.partition"
OFFSET: Final = "dlq.source.offset"
TIME: Final = "dlq.time"
#: Of a stub only: number of bytes, and SHA-256 in hexadecimal, of the record's whole value.
SIZE: Final = "dlq.size"
SHA256: Final = "dlq.sha256"
_NAMES: Final = frozenset({REASON, DETAIL, TOPIC, TOPIC_ID, PARTITION, OFFSET, TIME})


def write(info: DeadLetterInfo, original: Iterable[tuple[str, bytes]] = ()) -> Headers:
    """Return the headers of a dead letter: the record's own headers first, then those of `info`.

    A record may have been a dead letter before (redriven, and rejected again). The headers of the
    earlier rejection stay too, and `parse` reads the last ones.
    """
    return [
        *original,
        (REASON, str(info.reason).encode()),
        (DETAIL, info.detail.encode("utf-8", "backslashreplace")),
        (TOPIC, info.topic.encode()),
        (TOPIC_ID, info.topic_id.encode()),
        (PARTITION, str(info.partition).encode()),
        (OFFSET, str(info.offset).encode()),
        (TIME, format_ms(info.time_ms).encode()),
    ]


def stub(info: DeadLetterInfo, value: bytes) -> Headers:
    """Return the headers of a dead letter that cannot be sent whole: place, size and hash."""
    return [
        *write(info),
        (SIZE, str(len(value)).encode()),
        (SHA256, hashlib.sha256(value).hexdigest().encode()),
    ]


def is_cut(headers: Iterable[tuple[str, bytes]], value: bytes | None) -> bool:
    """Return whether `value` is only a part of the record's value."""
    sizes = [size for name, size in headers if name == SIZE]
    return bool(sizes) and sizes[-1] != str(len(value or b"")).encode()


def parse(headers: Iterable[tuple[str, bytes]]) -> DeadLetterInfo | None:
    """Return the information in the headers, or None if they are not those of a dead letter."""
    found = {name: value for name, value in headers if name in _NAMES and value is not None}
    try:
        text = {name: found[name].decode() for name in _NAMES}
        return DeadLetterInfo(
            reason=text[REASON],
            detail=text[DETAIL],
            topic=text[TOPIC],
            topic_id=text[TOPIC_ID],
            partition=int(text[PARTITION]),
            offset=int(text[OFFSET]),
            time_ms=parse_ms(text[TIME]),
        )
    except (KeyError, ValueError):
        return None


def original_headers(headers: Iterable[tuple[str, bytes]]) -> Headers:
    """Return the headers that the record had before it was a dead letter."""
    return [(name, value) for name, value in headers if name not in _NAMES]
