"""Timestamps: which texts are accepted, and that no digit is lost."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.decode.timestamps import format_ms, parse_any_form_ms, parse_ms

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "instant_ms"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T00:00Z", 0),
        ("1970-01-01T00:00:00.001Z", 1),
        ("1970-01-01T00:00:00.0019999999Z", 1),
        ("1970-01-01T00:00:00,5Z", 500),
        ("1970-01-01t00:00:00z", 0),
        ("1970-01-01 00:00:00+00:00", 0),
        ("1970-01-01T05:30:00+05:30", 0),
        ("1970-01-01T05:30:00+0530", 0),
        ("1969-12-31T19:00:00-05", 0),
        ("1969-12-31T23:59:59.9999Z", -1),
        ("2024-02-29T23:59:59.999Z", 1_709_251_199_999),
    ],
)
def test_a_valid_text_is_parsed(text: str, instant_ms: int) -> None:
    assert parse_ms(text) == instant_ms


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-23",
        "2026-11-23T09:15:02",
        "2026-11-23T09:15:60Z",
        "2026-11-23T24:00:00Z",
        "2026-11-23T09:60:00Z",
        "2026-02-29T00:00:00Z",
        "2026-13-01T00:00:00Z",
        "2026-00-01T00:00:00Z",
        "0000-01-01T00:00:00Z",
        "2026-11-23T09:15:02.Z",
        "2026-11-23T09:15:02+24:00",
        "2026-11-23T09:15:02+01:60",
        "2026-11-23T09:15:02 Z",
        "2026-11-23T09:15:02Z\n",
        "20261123T091502Z",
        "2026-W48-1T09:15:02Z",
        "٢٠٢٦-11-23T09:15:02Z",
        "+2026-11-23T09:15:02Z",
        "1795425302113",
        "now",
        "",
    ],
)
def test_an_invalid_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^(is|has) "):
        parse_ms(text)


@given(st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)), st.integers(-1439, 1439))
def test_results_agree_with_the_standard_library(naive: datetime, offset_min: int) -> None:
    moment = naive.replace(tzinfo=UTC)
    expected_ms = (moment - EPOCH) // timedelta(milliseconds=1)
    sign, (hours, minutes) = "-" if offset_min < 0 else "+", divmod(abs(offset_min), 60)
    local = (naive + timedelta(minutes=offset_min)).isoformat(timespec="microseconds")
    assert parse_ms(f"{local}{sign}{hours:02}:{minutes:02}") == expected_ms
    assert parse_ms(format_ms(expected_ms)) == expected_ms


#: Of the characters of a timestamp, and of what int() takes for digits and for white space.
_CHARACTERS = "0123456789-:.,TtZz+ _\n٢²"


@given(
    st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)),
    st.lists(st.tuples(st.integers(0, 24), st.sampled_from(["", *_CHARACTERS])), max_size=2),
)
def test_the_short_way_and_the_long_way_agree(
    naive: datetime, changes: list[tuple[int, str]]
) -> None:
    """On the usual form, and on texts that one or two changed characters make of it."""
    text = format_ms((naive.replace(tzinfo=UTC) - EPOCH) // timedelta(milliseconds=1))
    for at, character in changes:
        text = text[:at] + character + text[at + 1 :]
    assert result_of(parse_ms, text) == result_of(parse_any_form_ms, text)


def result_of(parse: Callable[[str], int], text: str) -> int | str:
    """Return the instant, or the text of the error."""
    try:
        return parse(text)
    except ValueError as error:
        return str(error)
