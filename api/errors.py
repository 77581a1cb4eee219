"""The JSON shape of all errors, and the exception that ends a request with one."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

import msgspec
from starlette.responses import Response

from store.api_keys import hide_keys

#: HTTP status -> stable code that clients may match on.
CODES: Final[Mapping[int, str]] = {
    400: "BAD_REQUEST",
    401: "UNAUTHORIZED",
    403: "FORBIDDEN",
    404: "NOT_FOUND",
    405: "METHOD_NOT_ALLOWED",
    413: "PAYLOAD_TOO_LARGE",
    421: "MISDIRECTED_REQUEST",
    429: "TOO_MANY_REQUESTS",
    431: "HEADERS_TOO_LARGE",
    500: "INTERNAL_ERROR",
    503: "SERVICE_UNAVAILABLE",
}


class ApiError(Exception):
    """Error response: a status that is a key of CODES, a message for the client, and headers."""

    def __init__(
        self, status: int, message: str, *, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = dict(headers or {})


def bad_request(message: str) -> ApiError:
    return ApiError(400, message)


def unavailable(message: str, *, retry_after_s: int) -> ApiError:
    return ApiError(503, message, headers={"Retry-After": str(retry_after_s)})


def error_object(status: int, message: str, request_id: str) -> dict[str, Any]:
    """Return the body of an error; a status outside CODES gets the code of 400 or 500."""
    code = CODES.get(status) or CODES[400 if status < 500 else 500]
    return {
        "error": {
            "code": code,
            "message": hide_keys(message),  # it may quote what the client sent in a wrong place
            "status": status,
            "requestId": request_id,
        }
    }


def error_body(status: int, message: str, request_id: str) -> bytes:
    """Return the JSON body of an error."""
    return msgspec.json.encode(error_object(status, message, request_id))


def error_response(
    status: int, message: str, request_id: str, headers: Mapping[str, str] | None = None
) -> Response:
    """Return the response of an error."""
    return Response(
        error_body(status, message, request_id),
        status_code=status,
        headers={"Cache-Control": "no-store", **(headers or {})},
        media_type="application/json",
    )


def raw_error(status: int, message: str, request_id: str) -> bytes:
    """Return an error as bytes of HTTP/1.1, after which the connection is closed.

    For requests that cannot be parsed, which no ASGI application sees.
    """
    body = error_body(status, message, request_id)
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
        "content-type: application/json\r\n"
        "cache-control: no-store\r\n"
        "x-content-type-options: nosniff\r\n"
        f"x-request-id: {request_id}\r\n"
        f"content-length: {len(body)}\r\n"
        "connection: close\r\n\r\n"
    )
    return head.encode("ascii") + body
