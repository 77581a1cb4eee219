"""Dead-letter headers: complete and readable, and the record's own headers unchanged."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streams.dead_letters.headers import original_headers, parse, write
from streams.dead_letters.record import DeadLetterInfo
from streams.decode.rejection import Reason

NOW_MS = 1_795_521_600_123
TOPIC_ID = "0b0c3a52-8b1e-4a53-9d1f-0d7a4a1f0c11"
OWN = [("trace", b"\xff\x00"), ("trace", b"again")]


def test_the_headers_have_these_names_and_values() -> None:
    info = DeadLetterInfo(Reason.BAD_FIELD, "offerId is …", "interactions", TOPIC_ID, 3, 42, NOW_MS)
    assert write(info, OWN) == [
        *OWN,
        ("dlq.reason", b"bad_field"),
        ("dlq.detail", "offerId is …".encode()),
        ("dlq.source.topic", b"interactions"),
        ("dlq.source.log", TOPIC_ID.encode()),
        ("dlq.source.partition", b"3"),
        ("dlq.source.offset", b"42"),
        ("dlq.time", b"2026-11-24T12:00:00.123Z"),
    ]


@given(st.text(), st.integers(0, 1_000), st.integers(0, 2**63 - 1))
def test_parse_reads_what_write_wrote(detail: str, partition: int, offset: int) -> None:
    info = DeadLetterInfo("malformed", detail, "t", TOPIC_ID, partition, offset, NOW_MS)
    written = write(info, OWN)
    readable = detail.encode("utf-8", "backslashreplace").decode()
    assert parse(written) == info._replace(detail=readable)
    assert original_headers(written) == OWN


def test_of_a_record_rejected_again_the_last_rejection_is_read() -> None:
    first = write(DeadLetterInfo("malformed", "first", "t", TOPIC_ID, 0, 1, NOW_MS), OWN)
    again = DeadLetterInfo("too_large", "again", "t", TOPIC_ID, 0, 9, NOW_MS)
    assert parse(write(again, first)) == again


def test_other_headers_are_no_dead_letter() -> None:
    assert parse(OWN) is None
    written = write(DeadLetterInfo("a", "b", "t", TOPIC_ID, 0, 1, 0))
    broken = [(n, b"\xff" if n == "dlq.time" else v) for n, v in written]
    assert parse(broken) is None
