"""The JSON shape of all errors, and the exception that ends a request with one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec
from starlette.responses import Response

#: HTTP status -> stable code that clients may match on.
CODES: Final[Mapping[int, str]] = {
    400: "BAD_REQUEST",
    401: "UNAUTHORIZED",
    403: "FORBIDDEN",
    404: "NOT_FOUND",
    405: "METHOD_NOT_ALLOWED",
    413: "PAYLOAD_TOO_LARGE",
    429: "TOO_MANY_REQUESTS",
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


def error_response(
    status: int, message: str, request_id: str, headers: Mapping[str, str] | None = None
) -> Response:
    """Return the response of an error; a status outside CODES gets the code of 400 or 500."""
    code = CODES.get(status) or CODES[400 if status < 500 else 500]
    body = {"error": {"code": code, "message": message, "status": status, "requestId": request_id}}
    return Response(
        msgspec.json.encode(body),
        status_code=status,
        headers={"Cache-Control": "no-store", **(headers or {})},
        media_type="application/json",
    )
