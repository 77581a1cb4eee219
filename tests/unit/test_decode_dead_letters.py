"""Dead letter headers: complete, readable, and the record's own ones untouched."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streams.dead_letters.headers import headers, original_headers, parse
from streams.dead_letters.record import DeadLetterInfo
from streams.decode.rejection import Reason

NOW_MS = 1_795_521_600_123
LOG = "0b0c3a52-8b1e-4a53-9d1f-0d7a4a1f0c11"
OWN = [("trace", b"\xff\x00"), ("trace", b"again")]


def test_the_headers_have_these_names_and_values() -> None:
    assert headers(Reason.BAD_FIELD, "offerId is …", "interactions", LOG, 3, 42, NOW_MS, OWN) == [
        *OWN,
        ("dlq.reason", b"bad_field"),
        ("dlq.detail", "offerId is …".encode()),
        ("dlq.source.topic", b"interactions"),
        ("dlq.source.log", LOG.encode()),
        ("dlq.source.partition", b"3"),
        ("dlq.source.offset", b"42"),
        ("dlq.time", b"2026-11-24T12:00:00.123Z"),
    ]


@given(st.text(), st.integers(0, 1_000), st.integers(0, 2**63 - 1))
def test_parse_reads_what_headers_wrote(detail: str, partition: int, offset: int) -> None:
    written = headers("malformed", detail, "t", LOG, partition, offset, NOW_MS, OWN)
    readable = detail.encode("utf-8", "backslashreplace").decode()
    assert parse(written) == DeadLetterInfo(
        "malformed", readable, "t", LOG, partition, offset, NOW_MS
    )
    assert original_headers(written) == OWN


def test_a_letter_refused_again_tells_of_the_last_time() -> None:
    first = headers("malformed", "first", "t", LOG, 0, 1, NOW_MS, OWN)
    again = parse(headers("too_large", "again", "t", LOG, 0, 9, NOW_MS, first))
    assert again == DeadLetterInfo("too_large", "again", "t", LOG, 0, 9, NOW_MS)


def test_other_headers_are_no_dead_letter() -> None:
    assert parse(OWN) is None
    broken = [
        (n, b"\xff" if n == "dlq.time" else v) for n, v in headers("a", "b", "t", LOG, 0, 1, 0)
    ]
    assert parse(broken) is None
