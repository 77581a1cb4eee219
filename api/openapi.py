"""Descriptions of the endpoints for /openapi.json.

Parameters come from `api.params.PARAMETERS`, row fields from `store.summary.ROW_FIELDS`, and bodies
from the models that decode them; headers and errors are described here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import date
from typing import Any, Final

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from api import group_params
from api.access import KEY_HEADER, TENANT_HEADER
from api.bodies import group_body, trend_body
from api.csv_body import encode_csv
from api.errors import CODES
from api.group_params import TrendParams
from api.params import LIMIT, PARAMETERS, Parameter
from store.api_keys import ROLES
from store.catalog_document import CatalogDocument
from store.records import (
    GROUPINGS,
    TENANT_PATTERN,
    Catalog,
    Channel,
    Creative,
    GroupCounts,
    Grouping,
    Offer,
)
from store.summary import POINT_FIELDS, ROW_FIELDS, RowField, row
from store.windows import EPOCH, PERIODS

_COUNT: Final = {"type": "integer", "minimum": 0}

_TENANT_PARAMETER: Final[dict[str, Any]] = {
    "name": TENANT_HEADER,
    "in": "header",
    "required": False,
    "description": "The tenant, where no API key decides it. With a key: its tenant, or left out.",
    "schema": {"type": "string", "pattern": f"^{TENANT_PATTERN}$"},
}


def _parameters(parameters: Iterable[Parameter], where: str = "query") -> list[dict[str, Any]]:
    described = [
        {
            "name": parameter.name,
            "in": where,
            "required": where == "path",
            "description": f"{parameter.description} Allowed: {parameter.rule}.",
            "schema": parameter.schema,
        }
        for parameter in parameters
    ]
    return [*described, _TENANT_PARAMETER]


SUMMARY_PARAMETERS: Final = _parameters(PARAMETERS)
TREND_PARAMETERS: Final = _parameters(group_params.TREND_PARAMETERS)
GROUP_PARAMETERS: Final = _parameters(group_params.PATH_PARAMETERS, "path")


def _field_schema(field: RowField) -> dict[str, Any]:
    schema: dict[str, Any] = {
        "type": [field.type, "null"] if field.nullable else field.type,
        "description": field.description,
    }
    if field.minimum is not None:
        schema["minimum"] = field.minimum
    return schema


def _fields_schema(title: str, fields: Sequence[RowField]) -> dict[str, Any]:
    return {
        "title": title,
        "type": "object",
        "properties": {field.name: _field_schema(field) for field in fields},
        "required": [field.name for field in fields],
    }


_ROW_SCHEMAS: Final = [_fields_schema(group_by, ROW_FIELDS[group_by]) for group_by in GROUPINGS]
_SUMMARY_SCHEMA: Final = {
    "type": "object",
    "properties": {
        "groupBy": {"type": "string", "enum": list(GROUPINGS)},
        "days": {"type": "integer"},
        "summary": {
            "type": "array",
            "items": {"oneOf": _ROW_SCHEMAS},
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


def _object(fields: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": fields, "required": list(fields)}


def _header(text: str, **schema: Any) -> dict[str, Any]:
    return {"description": text, "schema": schema}


_COMMON_HEADERS: Final = {
    "X-Summary-Source": _header(
        "The store that answered: the counters (materialized) or history.",
        type="string",
        enum=["materialized", "history"],
    ),
    "X-Summary-Timezone": _header(
        "The tenant's time zone, whose calendar days are counted; an IANA name.", type="string"
    ),
    "X-Summary-Lag": _header("The number of events not yet counted, where known.", **_COUNT),
    "ETag": _header("Entity tag of the body, for If-None-Match.", type="string"),
    "X-Request-Id": _header("The id of this request in the logs.", type="string"),
}
_WINDOW_START_HEADER: Final = {
    "X-Summary-Window-Start": _header(
        "The first day of the window; absent for alltime.", type="string", format="date"
    ),
}
_SUMMARY_HEADERS: Final = {
    **_COMMON_HEADERS,
    **_WINDOW_START_HEADER,
    "X-Summary-Period": _header(
        "The period of the window; `exact` if no period has this window.",
        type="string",
        enum=["daily", "weekly", "monthly", "alltime", "exact"],
    ),
    "Vary": _header("`Accept`, which decides between JSON and CSV.", type="string"),
}


#: Status -> when an endpoint answers with it, and the example of its message.
_ERRORS: Final[dict[int, tuple[str, str]]] = {
    400: (
        "A parameter, header or field is not allowed; the message names it and what is allowed.",
        "days must be an integer from 1 to 3650, in plain digits; got 'many'",
    ),
    401: ("No API key, or none that is valid.", "the API key is not valid, or revoked"),
    403: (
        "The API key is of another tenant, or its role is not enough.",
        "X-Tenant-Id is not the tenant of the API key; leave it out",
    ),
    404: ("There is nothing with this path or id.", "there is nothing at this path"),
    405: ("The method is not allowed at this path.", "POST is not allowed here"),
    413: ("The body is over the limit.", "the body is over 65536 bytes"),
    421: (
        "With AUTH_MODE=open: the header Host is not a loopback name.",
        "with AUTH_MODE=open only requests to a loopback name are answered",
    ),
    429: (
        "Too many requests with this API key; retry after Retry-After seconds.",
        "over 6000 requests per minute with this API key; try again in 12 s",
    ),
    431: (
        "The request line and headers are over the limit.",
        "the request line and headers are over 32768 bytes",
    ),
    500: (
        "Internal error; the log has the details under the request id.",
        "internal error; the log has the details under this request id",
    ),
    503: (
        "No store can answer now; retry after Retry-After seconds.",
        "neither the counters nor history can answer now; try again",
    ),
}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the descriptions of error responses."""
    return {status: _error(status, *_ERRORS[status]) for status in statuses}


def _error(status: int, text: str, message: str) -> dict[str, Any]:
    error = {"code": CODES[status], "message": message, "status": status, "requestId": "5f2c…"}
    described: dict[str, Any] = {
        "description": text,
        "content": {"application/json": {"schema": ERROR_SCHEMA, "example": {"error": error}}},
    }
    if status in (429, 503):
        described["headers"] = {"Retry-After": _header("Seconds to wait.", type="integer")}
    return described


_SAMPLE_CATALOG: Final = Catalog(
    "acme",
    offers={"off_001": Offer("off_001", "Gold card", "Retention", "Cards", "active", 10)},
    creatives={
        "cr_001": Creative("cr_001", "Banner", "off_001", "ch_001", "html", "A", 0.5, "active")
    },
    channels={"ch_001": Channel("ch_001", "Website", "web", "active")},
    treatment_counts={"ch_001": 2},
)
_SAMPLE_IDS: Final[dict[Grouping, str]] = {
    "action": "off_001",
    "treatment": "cr_001",
    "channel": "ch_001",
    "customer": "C-1234",
}
_SAMPLE_COUNTS: Final = {"impression": 1250, "click": 87, "dismiss": 45, "convert": 32}


def _example(group_by: Grouping) -> dict[str, Any]:
    group = GroupCounts(_SAMPLE_IDS[group_by], _SAMPLE_COUNTS, 12)
    return {
        "groupBy": group_by,
        "days": 30,
        "summary": [row(group_by, group, _SAMPLE_CATALOG)],
        "total": 1,
        "limit": 100,
        "offset": 0,
    }


_READ_ERRORS: Final[dict[int | str, dict[str, Any]]] = {
    304: {"description": "The body has not changed: its entity tag is in If-None-Match."},
    **errors(400, 401, 403, 413, 421, 429, 431, 500, 503),
}
_CSV_EXAMPLE: Final = encode_csv(
    [field.name for field in ROW_FIELDS["channel"]], _example("channel")["summary"]
).decode()
SUMMARY_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "One page of rows, sorted by `sort` descending, then id ascending.",
        "headers": _SUMMARY_HEADERS,
        "content": {
            "application/json": {
                "schema": _SUMMARY_SCHEMA,
                "examples": {group_by: {"value": _example(group_by)} for group_by in GROUPINGS},
            },
            "text/csv": {"schema": {"type": "string"}, "example": _CSV_EXAMPLE},
        },
    },
    **_READ_ERRORS,
}

# --- one group, and counts per day

_SAMPLE_DAY: Final = (date(2026, 11, 24) - EPOCH).days


def _group_example(group_by: Grouping) -> dict[str, Any]:
    counts = {"daily": {"impression": 40, "click": 3}, "weekly": {"impression": 320, "click": 19}}
    groups = {
        period: GroupCounts(_SAMPLE_IDS[group_by], counts.get(period, _SAMPLE_COUNTS), 12)
        for period in PERIODS
    }
    return group_body(group_by, _SAMPLE_IDS[group_by], groups, _SAMPLE_CATALOG, _SAMPLE_DAY)


_PERIOD_SCHEMA: Final = _object(
    {
        "windowStart": {
            "type": ["string", "null"],
            "format": "date",
            "description": "The first day of the period; null for alltime.",
        },
        "row": {"oneOf": _ROW_SCHEMAS},
    }
)
_GROUP_SCHEMA: Final = _object(
    {
        "groupBy": {"type": "string", "enum": list(GROUPINGS)},
        "id": {"type": "string"},
        "periods": _object(dict.fromkeys(PERIODS, _PERIOD_SCHEMA)),
    }
)
GROUP_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "The group in all periods, with the fields of its row in the list.",
        "headers": _COMMON_HEADERS,
        "content": {
            "application/json": {
                "schema": _GROUP_SCHEMA,
                "examples": {g: {"value": _group_example(g)} for g in GROUPINGS},
            }
        },
    },
    **_READ_ERRORS,
    **errors(404),
}
_POINTS_SCHEMA: Final = {
    "type": "array",
    "items": _fields_schema("day", POINT_FIELDS),
    "description": "One for each day, the oldest first.",
}
_TREND_SCHEMA: Final = {
    "type": "object",
    "properties": {
        "groupBy": {"type": "string", "enum": list(GROUPINGS)},
        "id": {"type": ["string", "null"]},
        "days": {"type": "integer"},
        "points": _POINTS_SCHEMA,
        "previous": {**_POINTS_SCHEMA, "description": "The days before; with `compare` only."},
    },
    "required": ["groupBy", "id", "days", "points"],
}
_TREND_EXAMPLE: Final = trend_body(
    TrendParams("action", "off_001", 2, has_previous=True),
    {_SAMPLE_DAY: {"impression": 40, "click": 3}, _SAMPLE_DAY - 2: {"impression": 25}},
    _SAMPLE_DAY,
)
TREND_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "The days, the oldest first; today, which is not over, is the last one.",
        "headers": {**_COMMON_HEADERS, **_WINDOW_START_HEADER},
        "content": {"application/json": {"schema": _TREND_SCHEMA, "example": _TREND_EXAMPLE}},
    },
    **_READ_ERRORS,
    **errors(404),
}

# --- system

_STATUS: Final = {"type": "string", "enum": ["ok", "degraded", "behind", "down"]}
HEALTH_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "The process answers.",
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {"status": {"type": "string", "enum": ["ok"]}},
                    "required": ["status"],
                }
            }
        },
    },
    **errors(421, 431),
}
_READINESS_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "status": _STATUS,
        "stores": {
            "type": "object",
            "additionalProperties": {"type": "string"},
            "description": "Store -> `ok` or what is wrong. With an API key only, as all below.",
        },
        "lag": {
            "type": "object",
            "properties": {
                "events": {"type": ["integer", "null"]},
                "max": {"type": ["integer", "null"]},
            },
        },
        "counters": {
            "type": ["object", "null"],
            "description": "The active generation of the caller's tenant; null = Redis is silent.",
            "properties": {
                "generation": {"type": ["integer", "null"]},
                "complete": {"type": "boolean"},
            },
        },
    },
    "required": ["status"],
}
READINESS_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "The reader can answer.",
        "content": {"application/json": {"schema": _READINESS_SCHEMA}},
    },
    **errors(400, 401, 403, 421, 429, 431),
    503: {
        "description": "No store answers, or the lag is over API_READY_LAG_MAX.",
        "content": {"application/json": {"schema": {"allOf": [ERROR_SCHEMA, _READINESS_SCHEMA]}}},
    },
}
METRICS_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "All metrics of the process, or of all processes of `--workers`.",
        "content": {"text/plain": {"schema": {"type": "string"}}},
    },
    **errors(421, 431),
}

WORKERS_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "What the workers reported last; null is not known.",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/WorkersState"}}},
    },
    **errors(400, 401, 403, 413, 421, 429, 431, 500, 503),
}

# --- administration

_KEY_FIELDS: Final[dict[str, Any]] = {
    "id": {"type": "string", "format": "uuid"},
    "tenant": {"type": "string"},
    "role": {"type": "string", "enum": list(ROLES)},
    "name": {"type": "string"},
    "prefix": {"type": "string", "description": "The first characters of the key."},
    "rateLimitPerMinute": {"type": ["integer", "null"], "minimum": 1},
    "createdAt": {"type": "string", "format": "date-time"},
    "revokedAt": {"type": ["string", "null"], "format": "date-time"},
    "pepper": {
        "type": "string",
        "enum": ["current", "other", "unknown"],
        "description": "Whether the key is hashed with the current API_KEY_PEPPER.",
    },
}


def _json_of(schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


_ADMINISTRATION_ERRORS: Final = errors(400, 401, 403, 413, 421, 429, 431, 500, 503)
_KEY: Final = _object(_KEY_FIELDS)
KEYS_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    200: _json_of(_object({"keys": {"type": "array", "items": _KEY}}), "All keys of the tenant."),
    **_ADMINISTRATION_ERRORS,
}
NEW_KEY_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    201: _json_of(
        _object({"key": {"type": "string", "description": "Shown only here."}, **_KEY_FIELDS}),
        "The new key.",
    ),
    **_ADMINISTRATION_ERRORS,
}
KEY_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    200: _json_of(_KEY, "The revoked key. One that was revoked before stays as it was."),
    **_ADMINISTRATION_ERRORS,
    **errors(404),
}
CATALOG_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    200: _json_of(
        {"$ref": "#/components/schemas/CatalogDocument"}, "The document, as `catalog export`."
    ),
    **_ADMINISTRATION_ERRORS,
    **errors(404),
}
_PART_SCHEMA: Final = _object({"added": _COUNT, "changed": _COUNT, "unchanged": _COUNT})
IMPORT_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    200: _json_of(
        _object(
            {
                "tenant": {"type": "string"},
                "version": _COUNT,
                "changed": {"type": "boolean"},
                "parts": {"type": "object", "additionalProperties": _PART_SCHEMA},
                "notes": {"type": "array", "items": {"type": "string"}},
            }
        ),
        "What the import changed.",
    ),
    **_ADMINISTRATION_ERRORS,
}

#: Security of the operations that can answer with a 401. The gate checks the keys: FastAPI's own
#: dependencies for these headers would take a quarter of the time of a kept answer.
_KEY_NEEDED: Final[list[dict[str, list[str]]]] = [{"ApiKey": []}, {"Bearer": []}]
KEY_OPTIONAL: Final = [{}, *_KEY_NEEDED]
_SECURITY_SCHEMES: Final = {
    "ApiKey": {"type": "apiKey", "in": "header", "name": KEY_HEADER},
    "Bearer": {"type": "http", "scheme": "bearer"},
}


def body_of(model: type[msgspec.Struct], example: dict[str, Any]) -> dict[str, Any]:
    """Return the description of an endpoint's body; `install` adds the schema of the model."""
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": schema, "example": example}},
        }
    }


def install(app: FastAPI, models: tuple[type[msgspec.Struct], ...]) -> None:
    """Make `app` describe its endpoints, with the schemas of `models`."""

    def describe() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(
                title=app.title,
                version=app.version,
                summary=app.summary,
                description=app.description,
                routes=app.routes,
            )
            for operations in document["paths"].values():
                for operation in operations.values():
                    operation["responses"].pop("422", None)  # FastAPI's; ours is the 400
                    if "401" in operation["responses"]:
                        operation.setdefault("security", _KEY_NEEDED)
            document["components"] = {
                "schemas": _schemas(models),
                "securitySchemes": _SECURITY_SCHEMES,
            }
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = describe  # type: ignore[method-assign]


def allowed_methods(app: FastAPI, path: str) -> str:
    """Return the header Allow of a path: Starlette's names the methods of one route only."""
    methods = {
        method.upper()
        for template, operations in app.openapi()["paths"].items()
        if re.fullmatch(re.sub(r"\\{.+?\\}", "[^/]+", re.escape(template)), path)
        for method in operations
    }
    if "GET" in methods or not methods:  # a path that is not described is a page or a file
        methods |= {"GET", "HEAD"}
    return ", ".join(sorted(methods))


def _schemas(models: tuple[type[msgspec.Struct], ...]) -> dict[str, Any]:
    _, schemas = msgspec.json.schema_components(
        [CatalogDocument, *models], ref_template="#/components/schemas/{name}"
    )
    for schema in schemas.values():
        _translate_patterns(schema)
    return schemas


def _translate_patterns(schema: Any) -> None:
    r"""Replace Python's anchors \A and \Z by those of JSON Schema's regular expressions."""
    if isinstance(schema, dict):
        if isinstance(pattern := schema.get("pattern"), str):
            schema["pattern"] = pattern.replace(r"\A", "^").replace(r"\Z", "$")
        for part in schema.values():
            _translate_patterns(part)
    elif isinstance(schema, list):
        for part in schema:
            _translate_patterns(part)
