"""Bodies of requests: read with a limit, and decoded by the model that the documentation shows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, TypeVar

import msgspec
from fastapi import Request
from starlette.requests import ClientDisconnect

from api.errors import ApiError, bad_request
from store.json_integers import decode_json

T = TypeVar("T")

#: Largest body of an endpoint that needs a small one, or none.
BODY_BYTES_MAX: Final = 65_536
#: Largest catalog document: 100,000 offers of 160 bytes.
CATALOG_BYTES_MAX: Final = 16 * 1_048_576
#: Bodies of one endpoint that are in memory at once, in each process: four catalogs of that size.
#: Who may send a body could otherwise take the memory that all tenants share.
BODIES_BYTES_MAX: Final = 4 * CATALOG_BYTES_MAX
#: Time for the whole body; a client that is slower holds a connection for nothing.
BODY_TIMEOUT_S: Final = 30.0


def too_large(bytes_max: int) -> ApiError:
    return ApiError(413, f"the body is over {bytes_max} bytes", headers={"Connection": "close"})


class Bodies:
    """Bodies of one endpoint: a limit for each, and BODIES_BYTES_MAX for all that are in memory."""

    def __init__(self, bytes_max: int) -> None:
        """Refuse a body of over `bytes_max` bytes."""
        self._bytes_max = bytes_max
        self._held_bytes = 0

    @asynccontextmanager
    async def read_json(self, request: Request) -> AsyncIterator[bytes]:
        """Yield the body of a request whose Content-Type is JSON; it counts until the block ends.

        A page of another site cannot send JSON without asking first (CORS), and is not answered.
        Raises ApiError 400, 413 and 503.
        """
        given = request.headers.get("content-type", "")
        if given.partition(";")[0].strip().lower() != "application/json":
            raise bad_request("Content-Type must be application/json")
        body = bytearray()
        try:
            await self._read(request, body)
            yield bytes(body)
        finally:
            self._held_bytes -= len(body)

    async def _read(self, request: Request, body: bytearray) -> None:
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                async for chunk in request.stream():
                    body += chunk
                    self._held_bytes += len(chunk)
                    if len(body) > self._bytes_max:
                        raise too_large(self._bytes_max)
                    if self._held_bytes > BODIES_BYTES_MAX:
                        raise ApiError(
                            503,
                            "too many large bodies at once; try again",
                            headers={"Retry-After": "5", "Connection": "close"},
                        )
        except TimeoutError:
            raise bad_request(f"the body did not arrive within {BODY_TIMEOUT_S:g} s") from None
        except ClientDisconnect:
            raise bad_request("the connection was closed before the end of the body") from None


def decode(body: bytes, model: type[T]) -> T:
    """Return the body as `model`. Raises ApiError 400 that names the field and what is allowed."""
    try:
        return decode_json(body, model)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise bad_request(f"body: {error}") from None
