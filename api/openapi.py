"""Descriptions of the summary endpoint for /openapi.json.

Parameters come from `api.params.PARAMETERS` and row fields from `store.summary.ROW_FIELDS`;
headers and errors are described here.
"""

from __future__ import annotations

from typing import Any, Final

from api.access import TENANT_HEADER
from api.errors import CODES
from api.params import LIMIT, PARAMETERS
from store.records import GROUPINGS, TENANT_PATTERN, Grouping
from store.summary import ROW_FIELDS, RowField

_COUNT: Final = {"type": "integer", "minimum": 0}

SUMMARY_PARAMETERS: Final[list[dict[str, Any]]] = [
    *(
        {
            "name": parameter.name,
            "in": "query",
            "required": False,
            "description": f"{parameter.description} Allowed: {parameter.rule}.",
            "schema": parameter.schema,
        }
        for parameter in PARAMETERS
    ),
    {
        "name": TENANT_HEADER,
        "in": "header",
        "required": False,
        "description": "The tenant to read, where no API key decides it.",
        "schema": {"type": "string", "pattern": f"^{TENANT_PATTERN}$", "default": "default"},
    },
]


def _field_schema(field: RowField) -> dict[str, Any]:
    schema: dict[str, Any] = {
        "type": [field.type, "null"] if field.nullable else field.type,
        "description": field.description,
    }
    if field.minimum is not None:
        schema["minimum"] = field.minimum
    return schema


def _row_schema(group_by: Grouping) -> dict[str, Any]:
    fields = ROW_FIELDS[group_by]
    return {
        "title": group_by,
        "type": "object",
        "properties": {field.name: _field_schema(field) for field in fields},
        "required": [field.name for field in fields],
    }


_SUMMARY_SCHEMA: Final = {
    "type": "object",
    "properties": {
        "groupBy": {"type": "string", "enum": list(GROUPINGS)},
        "days": {"type": "integer"},
        "summary": {
            "type": "array",
            "items": {"oneOf": [_row_schema(group_by) for group_by in GROUPINGS]},
        },
        "total": {**_COUNT, "description": "Groups with at least one interaction in the window."},
        "limit": {"type": "integer", "minimum": 1, "maximum": LIMIT.cap},
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
        "The store that answered: the counters (materialized) or history.",
        type="string",
        enum=["materialized", "history"],
    ),
    "X-Summary-Period": _header(
        "The period of the window; `exact` if no period has this window.",
        type="string",
        enum=["daily", "weekly", "monthly", "alltime", "exact"],
    ),
    "X-Summary-Window-Start": _header(
        "The first day of the window; absent for alltime.", type="string", format="date"
    ),
    "X-Summary-Lag": _header("The number of events not yet counted, where known.", **_COUNT),
    "ETag": _header("Entity tag of the body, for If-None-Match.", type="string"),
    "X-Request-Id": _header("The id of this request in the logs.", type="string"),
}


def _error(text: str) -> dict[str, Any]:
    return {"description": text, "content": {"application/json": {"schema": ERROR_SCHEMA}}}


SUMMARY_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "One page of rows, sorted by total descending, then id ascending.",
        "headers": _SUMMARY_HEADERS,
        "content": {"application/json": {"schema": _SUMMARY_SCHEMA}},
    },
    304: {"description": "The body has not changed: its entity tag is in If-None-Match."},
    400: _error("A parameter is not allowed; the message names it and the allowed values."),
    413: _error("The request body is over the limit."),
    500: _error("Internal error; the log has the details under the request id."),
    503: _error("No store can answer now; retry after Retry-After seconds."),
}
