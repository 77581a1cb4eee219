"""HTTP/1.1 protocol of the server: uvicorn's, with limits on the head of a request.

uvicorn with httptools accepts a head of any size, waits for it without limit, and answers what it
cannot parse in plain text. It has no settings for these, so its class is extended here; the pin of
uvicorn is narrow for that reason. Overridden: `connection_made`, `connection_lost`,
`data_received`, `on_message_begin`, `on_headers_complete`, `on_body`, `on_message_complete`,
`send_400_response`.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from api.errors import raw_error

#: Request line and headers. A browser's are below 8 KiB; nginx and Apache allow about 32 KiB.
HEAD_BYTES_MAX: Final = 32_768
#: Time for the head of a request, from its first byte, or from the start of the connection.
HEAD_TIMEOUT_S: Final = 10.0
#: Requests that wait for their turn on one connection. Each takes 2 KiB, and uvicorn reads more of
#: them with each response.
PIPELINE_MAX: Final = 100


class LimitedHttpProtocol(HttpToolsProtocol):
    """HTTP protocol with a limit on the bytes and on the time of a request's head.

    A head over HEAD_BYTES_MAX gets 431, one that cannot be parsed 400, both in the shape of
    `errors`. A connection whose head takes over HEAD_TIMEOUT_S is closed, and so is one with more
    than PIPELINE_MAX requests that wait.
    """

    _head_bytes = 0
    _in_head = True
    _ended_here = False
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        # uvicorn stops it only if the client closed the connection, not if it reset it: the timer
        # would hold all that belongs to the connection until then.
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return  # bytes after a request that was refused
        if self._head_timer is None and (self.cycle is None or self.cycle.response_complete):
            # The next request of the connection, or the rest of a body that nobody reads.
            self._start_timer()
        self._ended_here = False
        super().data_received(data)
        # Of data in which a request ended, it is not known how many bytes belong to the next head:
        # fewer than one read has, and the sum is made once the head is complete.
        if not self._in_head or self._ended_here:
            return
        # Counted here and not per header: a header's name and value arrive whole only at its end.
        self._head_bytes += len(data)
        if self._head_bytes > HEAD_BYTES_MAX:
            self._refuse_head()

    def on_message_begin(self) -> None:
        self._in_head = True
        self._head_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._stop_timer()
        head_bytes = len(self.url) + sum(len(n) + len(v) + 4 for n, v in self.headers)
        if head_bytes > HEAD_BYTES_MAX:
            self._refuse_head()
        elif self.parser.should_upgrade() and any(map(_announces_body, self.headers)):
            # The parser takes the body for another protocol, or for the next request.
            self._refuse(400, "a request with the header Upgrade must have no body")
        elif len(self.pipeline) >= PIPELINE_MAX:
            self.transport.close()
        if self.transport.is_closing():
            return
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        # The body of a request that was refused is not that of the request before it.
        if self.cycle is not None and not self.transport.is_closing():
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._ended_here = True
        if self.cycle is not None:
            super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "this is not a valid HTTP/1.1 request")

    def _refuse_head(self) -> None:
        self._refuse(431, f"the request line and headers are over {HEAD_BYTES_MAX} bytes")

    def _refuse(self, status: int, message: str) -> None:
        self._stop_timer()
        if self.transport.is_closing():
            return  # refused already
        # A response that has begun would be followed by a second one: only close then.
        if self.cycle is None or self.cycle.response_complete:
            self.transport.write(raw_error(status, message, secrets.token_hex(16)))
        self.transport.close()

    def _start_timer(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self._close_slow)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _close_slow(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing():
            self.transport.close()


def _announces_body(header: tuple[bytes, bytes]) -> bool:
    name, value = header
    return name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
