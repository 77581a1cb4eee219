"""The descriptions of parameters and rows agree with the answers and OpenAPI."""

from __future__ import annotations

from typing import Any, Final

import msgspec
import pytest

from api import openapi
from api.params import PARAMETERS, Params
from store.records import GROUPINGS, Catalog, Channel, Creative, GroupCounts, Grouping, Offer
from store.summary import ROW_FIELDS, row

FULL: Final = Catalog(
    "acme",
    offers={"x": Offer("x", "Card", "Grow", "Cards", "active", 7)},
    creatives={"x": Creative("x", "Banner", "x", "x", "html", "a", 0.5, "active")},
    channels={"x": Channel("x", "Web", "web", "active")},
    treatment_counts={"x": 1},
)
CATALOGS: Final = {"full": FULL, "empty": Catalog("acme")}


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
