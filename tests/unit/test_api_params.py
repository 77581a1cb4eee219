"""Every rule of every parameter."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from api.errors import ApiError
from api.params import OFFSET_MAX, Params, parse

INTEGERS_REFUSED = [
    "",
    "+",  # a space
    "1e3",
    "1.0",
    "+5",  # " 5"
    "%2B5",
    "%205",
    "5%20",
    "5%0A",
    "-1",
    "-0",
    "05",
    "00",
    "0x10",
    "1_000",
    "%D9%A5",  # arabic-indic five
    "%EF%BC%95",  # fullwidth five
    "%C2%B2",  # superscript two
    "%FF",
    "%00",
    "NaN",
    "Infinity",
    "null",
    "1,2",
    "5;6",
]


def _refusal(query: str) -> str:
    with pytest.raises(ApiError) as caught:
        parse(query.encode("latin-1"))
    assert caught.value.status == 400
    assert caught.value.message.isascii()
    assert len(caught.value.message) < 200
    return caught.value.message


def test_without_parameters_the_defaults_hold() -> None:
    assert parse(b"") == Params("action", 30, 100, 0, "period", "total")


def test_all_parameters_are_read() -> None:
    query = b"groupBy=customer&days=7&limit=20&offset=40&window=exact&sort=ctr"
    assert parse(query) == Params("customer", 7, 20, 40, "exact", "ctr")


@pytest.mark.parametrize("group_by", ["action", "treatment", "channel", "customer"])
def test_every_grouping_is_allowed(group_by: str) -> None:
    assert parse(f"groupBy={group_by}".encode()).group_by == group_by


@pytest.mark.parametrize("value", ["", "Action", "actions", "action%20", "offer", "%00", "a" * 999])
def test_another_grouping_is_refused_with_the_allowed_ones(value: str) -> None:
    message = _refusal(f"groupBy={value}")
    assert message.startswith("groupBy must be one of action, treatment, channel, customer; got '")


@pytest.mark.parametrize("value", ["", "Exact", "rolling"])
def test_another_window_is_refused_with_the_allowed_ones(value: str) -> None:
    assert _refusal(f"window={value}").startswith("window must be one of period, exact; got '")


@pytest.mark.parametrize("value", ["", "Total", "ctr,cvr", "-ctr", "id"])
def test_another_order_is_refused_with_the_allowed_ones(value: str) -> None:
    assert _refusal(f"sort={value}").startswith(
        "sort must be one of total, impression, click, convert, ctr, cvr; got '"
    )


@pytest.mark.parametrize("name", ["days", "limit", "offset"])
@pytest.mark.parametrize("value", INTEGERS_REFUSED)
def test_what_is_no_plain_integer_is_refused(name: str, value: str) -> None:
    assert _refusal(f"{name}={value}").startswith(f"{name} must be an integer ")


@pytest.mark.parametrize("days", [1, 3650])
def test_days_at_its_bounds(days: int) -> None:
    assert parse(f"days={days}".encode()).days == days


@pytest.mark.parametrize("days", ["0", "3651", "1" + "0" * 18, "9" * 19, "1" + "0" * 6000])
def test_days_out_of_its_bounds(days: str) -> None:
    assert "days must be an integer from 1 to 3650" in _refusal(f"days={days}")


@pytest.mark.parametrize(
    ("given_limit", "limit"),
    [("1", 1), ("500", 500), ("501", 500), ("9" * 19, 500), ("9" * 6000, 500)],
)
def test_limit_is_capped(given_limit: str, limit: int) -> None:
    assert parse(f"limit={given_limit}".encode()).limit == limit


def test_limit_of_zero_is_refused() -> None:
    assert "limit must be an integer of at least 1" in _refusal("limit=0")


@pytest.mark.parametrize("offset", [0, 1, OFFSET_MAX])
def test_offset_at_its_bounds(offset: int) -> None:
    assert parse(f"offset={offset}".encode()).offset == offset


@pytest.mark.parametrize("offset", ["9223372036854775808", "9" * 19, "1" + "0" * 19, "9" * 6000])
def test_offset_over_its_bound(offset: str) -> None:
    assert f"offset must be an integer from 0 to {OFFSET_MAX}" in _refusal(f"offset={offset}")


@pytest.mark.parametrize("name", ["groupBy", "days", "limit", "offset", "window", "sort"])
def test_a_repeated_parameter_is_refused(name: str) -> None:
    value = {"groupBy": "action", "window": "period", "sort": "ctr"}.get(name, "5")
    assert _refusal(f"{name}={value}&{name}={value}") == (
        f"{name} is given more than once; give it once"
    )


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("foo=1", "'foo'"),
        ("foo", "'foo'"),
        ("=1", "''"),
        ("groupby=action", "'groupby'"),
        ("Days=1", "'Days'"),
        ("days%5B%5D=1", "'days[]'"),
        ("days=1&foo=2", "'foo'"),
        ("d%C3%A4ys=1", r"'d\xe4ys'"),
        ("x" * 5000 + "=1", "'" + "x" * 40 + "...'"),
    ],
)
def test_an_unknown_parameter_is_refused_by_name(query: str, shown: str) -> None:
    assert _refusal(query) == (
        f"unknown parameter {shown}; allowed are groupBy, days, limit, offset, window, sort"
    )


def test_many_parameters_are_refused_unread() -> None:
    assert _refusal("&".join(f"a{i}=1" for i in range(1000))).startswith("too many parameters")


def test_empty_pieces_are_nothing() -> None:
    assert parse(b"&days=7&&") == Params(days=7)


@given(st.binary(max_size=60) | st.from_regex(rb"(days|limit|offset|window|groupBy)=.{0,8}"))
@example(b"days=\xd9\xa5")
@example(b"limit=\xb2")
def test_any_query_is_either_valid_or_a_400(query: bytes) -> None:
    try:
        params = parse(query)
    except ApiError as error:
        assert error.status == 400
    else:
        assert 1 <= params.days <= 3650
        assert 1 <= params.limit <= 500
        assert 0 <= params.offset <= OFFSET_MAX
