"""CSV as other programs read it."""

from __future__ import annotations

import csv
import io
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from api.csv_body import encode_csv

#: A reader of lines would take other characters for the ends of lines.
texts = st.text(alphabet=st.characters(exclude_characters="\x00", codec="utf-8"), max_size=12)
cells = st.none() | texts | st.integers() | st.floats(allow_nan=False, allow_infinity=False)


def read(body: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(body.decode(), newline="")))


def test_a_header_line_and_lines_that_end_in_cr_lf() -> None:
    rows: list[dict[str, Any]] = [
        {"id": "a", "name": 'a "quoted", name', "weight": 0.5, "total": 7},
        {"id": "é", "name": None, "weight": 33.0, "total": 0},
        {"id": "-1", "name": "", "weight": -2.5, "total": 1},
        {"id": "two\r\nlines", "name": "=1+1", "weight": None, "total": 2},
    ]
    assert (
        encode_csv(["id", "name", "weight", "total"], rows)
        == (
            "id,name,weight,total\r\n"
            'a,"a ""quoted"", name",0.5,7\r\n'
            "é,,33.0,0\r\n"
            '\'-1,"",-2.5,1\r\n'
            '"two\r\nlines",\'=1+1,,2\r\n'
        ).encode()
    )


def test_without_rows_there_is_the_header_line() -> None:
    assert encode_csv(["id", "total"], []) == b"id,total\r\n"


@given(st.lists(st.tuples(cells, cells), max_size=4))
@example([("=cmd|' /C calc'!A0", "'"), ("\t=1", "\r=1"), ("\n=1", "''")])
def test_a_program_reads_what_was_written(rows: list[tuple[object, object]]) -> None:
    of_fields: list[dict[str, Any]] = [{"a": a, "b": b} for a, b in rows]
    body = encode_csv(["a", "b"], of_fields)
    header, *found = read(body)
    assert header == ["a", "b"]
    assert len(found) == len(rows)
    for line, row in zip(found, rows, strict=True):
        for cell, value in zip(line, row, strict=True):
            if isinstance(value, str):
                assert cell.removeprefix("'") == value
            else:
                assert cell == ("" if value is None else str(value))


@given(texts)
def test_no_text_begins_as_a_formula(text: str) -> None:
    ((_,), (cell,)) = read(encode_csv(["a"], [{"a": text}])) if text else ([""], [""])
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
