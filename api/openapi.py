"""What /openapi.json says of the parameters, answers and errors. Description only: `api.params`
and `store.summary` decide."""

from __future__ import annotations

from typing import Any, Final

from api.errors import CODES
from api.params import DAYS_MAX, LIMIT_MAX, OFFSET_MAX, WINDOWS, Params
from store.records import GROUPINGS, TENANT_PATTERN, Catalog, GroupCounts
from store.summary import row

_DEFAULTS: Final = Params()
_TEXT_OR_NULL: Final = {"type": ["string", "null"]}
_COUNT: Final = {"type": "integer", "minimum": 0}


def _parameter(name: str, text: str, **schema: Any) -> dict[str, Any]:
    return {
        "name": name,
        "in": "query",
        "required": False,
        "description": text,
        "schema": schema,
    }


SUMMARY_PARAMETERS: Final = [
    _parameter(
        "groupBy",
        "What a row stands for.",
        type="string",
        enum=list(GROUPINGS),
        default=_DEFAULTS.group_by,
    ),
    _parameter(
        "days",
        "Days to look back, today included. The smallest period that covers them answers: 1 daily, "
        "up to 7 weekly, up to 31 monthly, else everything.",
        type="integer",
        minimum=1,
        maximum=DAYS_MAX,
        default=_DEFAULTS.days,
    ),
    _parameter(
        "limit",
        f"Most rows; over {LIMIT_MAX} is taken as {LIMIT_MAX}, and the answer says so.",
        type="integer",
        minimum=1,
        default=_DEFAULTS.limit,
    ),
    _parameter(
        "offset",
        "Rows to skip.",
        type="integer",
        minimum=0,
        maximum=OFFSET_MAX,
        default=_DEFAULTS.offset,
    ),
    _parameter(
        "window",
        "`period`: the period's window; `exact`: exactly `days` calendar days.",
        type="string",
        enum=list(WINDOWS),
        default=_DEFAULTS.window,
    ),
    {
        "name": "X-Tenant-Id",
        "in": "header",
        "required": False,
        "description": "The tenant that is asked for, where no key decides it.",
        "schema": {"type": "string", "pattern": f"^{TENANT_PATTERN}$", "default": "default"},
    },
]


def _column(name: str) -> dict[str, Any]:
    if name in ("ctr", "cvr"):
        return {"type": "number", "minimum": 0}
    if name in ("id", "customerId"):
        return {"type": "string"}
    if name in ("priority", "treatmentCount"):
        return {"type": ["integer", "null"]}
    if name == "weight":
        return {"type": ["number", "null"]}
    # What an empty row counts as 0 is a count, what it leaves out is text of the catalog.
    return _COUNT if name in _COUNTED else _TEXT_OR_NULL


_EMPTY_ROWS: Final = {
    group_by: row(group_by, GroupCounts("", {}, 0), Catalog("default")) for group_by in GROUPINGS
}
_COUNTED: Final = {
    name for empty in _EMPTY_ROWS.values() for name, value in empty.items() if value == 0
}


def _row_schema(group_by: str, fields: list[str]) -> dict[str, Any]:
    return {
        "title": group_by,
        "type": "object",
        "properties": {name: _column(name) for name in fields},
        "required": fields,
    }


_SUMMARY_SCHEMA: Final = {
    "type": "object",
    "properties": {
        "groupBy": {"type": "string", "enum": list(GROUPINGS)},
        "days": {"type": "integer"},
        "summary": {
            "type": "array",
            "items": {"oneOf": [_row_schema(g, list(e)) for g, e in _EMPTY_ROWS.items()]},
        },
        "total": {**_COUNT, "description": "Groups with an interaction in the window."},
        "limit": {"type": "integer", "minimum": 1, "maximum": LIMIT_MAX},
        "offset": _COUNT,
    },
    "required": ["groupBy", "days", "summary", "total", "limit", "offset"],
}

ERROR_SCHEMA: Final = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "code": {"type": "string", "enum": list(CODES.values())},
                "message": {"type": "string"},
                "status": {"type": "integer", "enum": list(CODES)},
                "requestId": {"type": "string"},
            },
            "required": ["code", "message", "status", "requestId"],
        }
    },
    "required": ["error"],
}


def _header(text: str, **schema: Any) -> dict[str, Any]:
    return {"description": text, "schema": schema}


_SUMMARY_HEADERS: Final = {
    "X-Summary-Source": _header(
        "Which store answered.", type="string", enum=["materialized", "history"]
    ),
    "X-Summary-Period": _header(
        "The period that answers; `exact` where no period has the window.",
        type="string",
        enum=["daily", "weekly", "monthly", "alltime", "exact"],
    ),
    "X-Summary-Window-Start": _header(
        "First day of the window; absent for alltime.", type="string", format="date"
    ),
    "X-Summary-Lag": _header("Events not yet counted, where known.", **_COUNT),
    "ETag": _header("Of the body, for If-None-Match.", type="string"),
    "X-Request-Id": _header("Names this request in the logs.", type="string"),
}


def _error(text: str) -> dict[str, Any]:
    return {"description": text, "content": {"application/json": {"schema": ERROR_SCHEMA}}}


SUMMARY_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "One page of rows, by total descending, then id ascending.",
        "headers": _SUMMARY_HEADERS,
        "content": {"application/json": {"schema": _SUMMARY_SCHEMA}},
    },
    304: {"description": "The body is the one that If-None-Match names."},
    400: _error("A parameter is not allowed; the message names it."),
    413: _error("The request has a body over the limit."),
    500: _error("A fault of ours; the log has it under the request id."),
    503: _error("No store can answer now; Retry-After says when to try again."),
}
