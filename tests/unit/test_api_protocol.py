"""Connections of the server: what a client leaves behind is freed at once."""

from __future__ import annotations

import asyncio
import gc
import socket
import struct
import weakref
from typing import Any

import pytest
import uvicorn

from api.protocol import LimitedHttpProtocol
from tests.support.waiting import eventually_async

pytestmark = pytest.mark.anyio
#: SO_LINGER with no time: closing the socket resets the connection.
RESET = struct.pack("ii", 1, 0)
REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def answer_empty(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})


@pytest.mark.parametrize("is_reset", [False, True], ids=["closed", "reset"])
async def test_a_connection_that_the_client_ends_is_freed_long_before_the_keep_alive_time(
    is_reset: bool,
) -> None:
    alive: weakref.WeakSet[LimitedHttpProtocol] = weakref.WeakSet()

    class Tracked(LimitedHttpProtocol):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            alive.add(self)

    async def is_freed() -> bool:
        gc.collect()
        return not alive

    config = uvicorn.Config(
        answer_empty, http=Tracked, lifespan="off", log_config=None, timeout_keep_alive=100_000
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            reader, writer = await asyncio.open_connection(*listening.getsockname())
            writer.write(REQUEST)
            assert (await reader.readline()).startswith(b"HTTP/1.1 204")
            assert len(alive) == 1
            if is_reset:
                writer.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, RESET
                )
            writer.close()
            await eventually_async(is_freed)
        finally:
            server.should_exit = True
            await serving
