"""Parameters of groups and trends: what is read, and what is refused by name."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from api.errors import ApiError
from api.group_params import GroupParams, TrendParams, parse_group, parse_trend
from api.routes import PATH

ids = st.text(
    alphabet=st.characters(exclude_characters="\x00", codec="utf-8"), min_size=1, max_size=128
)
RULE = "id must be 1 to 128 characters of UTF-8, without NUL; got '"


def group_of(path: str, query: bytes = b"") -> GroupParams:
    """Return the parameters of a request, whose path is as a client sends it."""
    return parse_group({"raw_path": f"{PATH}{path}".encode(), "query_string": query})


def refusal_of_group(path: str, query: bytes = b"") -> str:
    with pytest.raises(ApiError) as caught:
        group_of(path, query)
    assert caught.value.status == 400
    assert caught.value.message.isascii()
    return caught.value.message


def refusal_of_trend(query: bytes) -> str:
    with pytest.raises(ApiError) as caught:
        parse_trend(query)
    assert caught.value.status == 400
    assert caught.value.message.isascii()
    return caught.value.message


@given(ids)
@example("a/b")
@example("%2F")
@example("//")
@example("?days=1#x")
@example("😀" * 128)
def test_any_id_is_read_back_from_a_path_and_from_a_query(id_: str) -> None:
    assert group_of(f"/customer/{quote(id_, safe='')}") == GroupParams("customer", id_)
    assert parse_trend(f"id={quote(id_, safe='')}".encode()).id == id_


def test_slashes_that_a_proxy_has_decoded_are_part_of_the_id() -> None:
    assert group_of("/action/a/b//c/").id == "a/b//c/"


def test_a_scope_without_the_raw_path_is_read_too() -> None:
    scope = {"path": f"{PATH}/action/é/%", "query_string": b""}
    assert parse_group(scope) == GroupParams("action", "é/%")


@pytest.mark.parametrize("id_", ["", "x" * 129, "%00", "a%00b", "%FF", "%C3", "%ED%A0%80"])
def test_an_id_that_no_event_can_have_is_refused(id_: str) -> None:
    assert refusal_of_group(f"/channel/{id_}").startswith(RULE)
    assert refusal_of_trend(f"id={id_}".encode()).startswith(RULE)


@pytest.mark.parametrize("group_by", ["", "Action", "trend", "%00", "%FF", "offer"])
def test_another_grouping_is_refused_with_the_allowed_ones(group_by: str) -> None:
    rule = "groupBy must be one of action, treatment, channel, customer; got '"
    assert refusal_of_group(f"/{group_by}/x").startswith(rule)
    assert refusal_of_trend(f"groupBy={group_by}".encode()).startswith(rule)


def test_a_group_has_no_parameters_but_those_of_the_path() -> None:
    assert refusal_of_group("/action/x", b"days=7") == (
        "unknown parameter 'days'; none is allowed here"
    )


def test_all_parameters_of_a_trend_and_their_defaults() -> None:
    assert parse_trend(b"") == TrendParams("action", None, 30, has_previous=False)
    query = b"groupBy=customer&id=C-1&days=7&compare=previous"
    assert parse_trend(query) == TrendParams("customer", "C-1", 7, has_previous=True)
    assert parse_trend(query).days_read == 14
    assert parse_trend(b"days=7").days_read == 7


@pytest.mark.parametrize("value", ["", "Previous", "year"])
def test_another_comparison_is_refused(value: str) -> None:
    assert refusal_of_trend(f"compare={value}".encode()) == (
        f"compare must be one of previous; got '{value}'"
    )


@pytest.mark.parametrize("days", ["0", "3651", "1.0", "-1"])
def test_days_out_of_their_bounds_are_refused(days: str) -> None:
    assert "days must be an integer from 1 to 3650" in refusal_of_trend(f"days={days}".encode())


def test_an_unknown_parameter_of_a_trend_is_refused_by_name() -> None:
    assert refusal_of_trend(b"window=exact") == (
        "unknown parameter 'window'; allowed are groupBy, id, days, compare"
    )


@given(st.binary(max_size=60) | st.from_regex(rb"(days|id|compare|groupBy)=.{0,8}"))
def test_any_query_is_either_valid_or_a_400(query: bytes) -> None:
    try:
        params = parse_trend(query)
    except ApiError as error:
        assert error.status == 400
    else:
        assert 1 <= params.days <= 3650
        assert params.id is None or 1 <= len(params.id) <= 128


@given(st.text(alphabet="/%2FfEe0aZ.~é", max_size=20))
@example("/api%2Fv1%2Finteraction-summary/action/x")
def test_any_path_is_either_valid_or_a_400(path: str) -> None:
    raw = quote(path, safe="/%")
    try:
        params = parse_group({"raw_path": raw.encode(), "path": path, "query_string": b""})
    except ApiError as error:
        assert error.status == 400
    else:
        assert 1 <= len(params.id) <= 128
