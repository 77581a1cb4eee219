"""The descriptions of parameters and rows agree with the answers, OpenAPI and the documentation.

`python -m tests.unit.test_api_docs` rewrites the tables in the documentation.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from api import openapi
from api.params import PARAMETERS, Integer, Params
from store.records import GROUPINGS, Catalog, Channel, Creative, GroupCounts, Grouping, Offer
from store.summary import ROW_FIELDS, row

ROOT: Final = Path(__file__).parents[2]
API: Final = ROOT / "docs" / "api.md"
ROWS: Final = ROOT / "docs" / "rows.md"

FULL: Final = Catalog(
    "acme",
    offers={"x": Offer("x", "Card", "Grow", "Cards", "active", 7)},
    creatives={"x": Creative("x", "Banner", "x", "x", "html", "a", 0.5, "active")},
    channels={"x": Channel("x", "Web", "web", "active")},
    treatment_counts={"x": 1},
)
CATALOGS: Final = {"full": FULL, "empty": Catalog("acme")}


def parameters_table() -> str:
    lines = ["| parameter | type | default | allowed | meaning |", "|---|---|---|---|---|"]
    for p in PARAMETERS:
        kind = "integer" if isinstance(p, Integer) else "string"
        lines.append(f"| `{p.name}` | {kind} | `{p.default}` | {p.rule} | {p.description} |")
    return "\n".join(lines)


def rows_tables() -> str:
    parts = []
    for group_by in GROUPINGS:
        lines = [f"### {group_by}", "", "| field | type | meaning |", "|---|---|---|"]
        for field in ROW_FIELDS[group_by]:
            kind = f"{field.type} or null" if field.nullable else field.type
            lines.append(f"| `{field.name}` | {kind} | {field.description} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


TABLES: Final[dict[tuple[Path, str], Callable[[], str]]] = {
    (API, "parameters"): parameters_table,
    (ROWS, "rows"): rows_tables,
}


def _between(text: str, mark: str) -> re.Match[str]:
    found = re.search(f"(<!-- {mark} -->\n)(.*?)(\n?<!-- /{mark} -->)", text, re.DOTALL)
    assert found is not None, f"no <!-- {mark} --> … <!-- /{mark} -->"
    return found


@pytest.mark.parametrize(("path", "mark"), TABLES, ids=[mark for _, mark in TABLES])
def test_a_table_equals_the_descriptions_in_the_code(path: Path, mark: str) -> None:
    written = _between(path.read_text(), mark)[2]
    assert written == TABLES[path, mark](), "run: python -m tests.unit.test_api_docs"


def test_the_parameters_are_the_fields_of_params_in_order() -> None:
    snake = {"groupBy": "group_by"}
    defaults = {snake.get(p.name, p.name): p.default for p in PARAMETERS}
    assert list(defaults.items()) == list(Params()._asdict().items())


def _answered(group_by: Grouping, catalog: Catalog) -> dict[str, Any]:
    """Return a row as a client decodes it, of a group with every column above zero."""
    counts = {"impression": 90, "click": 7, "dismiss": 5, "accept": 3, "convert": 2}
    group = GroupCounts("x", counts, 4 if group_by == "customer" else None)
    decoded: dict[str, Any] = msgspec.json.decode(
        msgspec.json.encode(row(group_by, group, catalog))
    )
    return decoded


def _schema(group_by: Grouping) -> dict[str, Any]:
    body = openapi.SUMMARY_RESPONSES[200]["content"]["application/json"]["schema"]
    (schema,) = [
        s for s in body["properties"]["summary"]["items"]["oneOf"] if s["title"] == group_by
    ]
    found: dict[str, Any] = schema
    return found


@pytest.mark.parametrize("catalog", CATALOGS)
@pytest.mark.parametrize("group_by", GROUPINGS)
def test_the_row_schema_has_the_answered_fields(group_by: Grouping, catalog: str) -> None:
    answered = _answered(group_by, CATALOGS[catalog])
    schema = _schema(group_by)
    assert list(schema["properties"]) == schema["required"] == list(answered)
    json_types = {str: {"string"}, int: {"integer", "number"}, float: {"number"}}
    for field in ROW_FIELDS[group_by]:
        value = answered[field.name]
        described = schema["properties"][field.name]
        if value is None:
            assert described["type"] == [field.type, "null"], field.name
        else:
            assert field.type in json_types[type(value)], field.name
            assert "minimum" not in described or value >= described["minimum"]
    empty = {f.name for f in ROW_FIELDS[group_by] if answered[f.name] is None}
    nullable = {f.name for f in ROW_FIELDS[group_by] if f.nullable}
    assert empty == (nullable if catalog == "empty" else set())


if __name__ == "__main__":
    for (file, name), table in TABLES.items():
        content = file.read_text()
        match = _between(content, name)
        file.write_text(content[: match.start(2)] + table() + content[match.end(2) :])
