"""Which representation of a list a client prefers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.accept import REPRESENTATIONS, preferred

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


@pytest.mark.parametrize(
    "accept",
    [
        [],
        [""],
        ["*/*"],
        ["application/json"],
        ["application/*"],
        ["application/json, text/csv"],
        ["text/csv, application/json"],
        ["text/csv;q=0.9, application/json"],
        ["text/csv;q=0.5, */*"],
        ["text/csv;q=0, */*;q=0.1"],
        ["text/csv;q=0"],
        ["text/html"],
        [BROWSER],
        ["*/*, text/*;q=0.2"],
        ["text/csv;q=2"],
        ["text/csv;q=0.1234"],
        ["text/csv;q=-1"],
        ["text/csv;q="],
        ["text/csv;q=high"],
        ["text/csv/json"],
        ["text csv"],
        ["text/"],
        ["*/csv"],
        ["text/csv;q=0.1", "application/json;q=0.2"],
    ],
)
def test_json_is_sent(accept: list[str]) -> None:
    assert preferred(accept) == "application/json"


@pytest.mark.parametrize(
    "accept",
    [
        ["text/csv"],
        ["TEXT/CSV"],
        [" text/csv "],
        ["text/*"],
        ["text/csv, */*"],
        ["*/*, text/csv"],
        ["*/*;q=0.5, text/csv;q=0.5"],
        ["text/csv;q=0.2, application/json;q=0.1"],
        ["text/csv; charset=utf-8"],
        ["text/csv;header=present;q=0.9, */*;q=0.8"],
        ["text/csv ; Q=1.000, application/json ; q=0.999"],
        ["application/json;q=0, text/csv;q=0.001"],
        ["application/json;q=0, */*"],
        ["text/html, text/csv;q=0.9"],
        ["text/html", "text/csv"],
        ["", "text/csv,,"],
    ],
)
def test_csv_is_sent(accept: list[str]) -> None:
    assert preferred(accept) == "text/csv"


@given(st.lists(st.text(alphabet='textcsvaplion/*;q=01., "', max_size=40), max_size=3))
def test_any_header_has_an_answer(accept: list[str]) -> None:
    assert preferred(accept) in REPRESENTATIONS
