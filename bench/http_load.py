"""HTTP load on one port: sequential, parallel and at a fixed rate.

A connection is a socket and a few lines of parsing: a client library takes longer than the server.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence


class Connection:
    """One kept-alive connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, port: int) -> Connection:
        """Return a connection to 127.0.0.1."""
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=4_194_304))

    async def get(self, path: str, tenant: str) -> bytes:
        """Return the body of a response. Raises SystemExit for any status but 200."""
        request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Tenant-Id: {tenant}\r\n\r\n"
        self._writer.write(request.encode())
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        body = await self._reader.readexactly(length)
        if not head.startswith(b"http/1.1 200"):
            raise SystemExit(f"GET {path}: {head.partition(chr(13).encode())[0]!r} {body[:300]!r}")
        return body

    def close(self) -> None:
        self._writer.close()


Get = Callable[[Connection], Awaitable[bytes]]


def get_of(path: str, tenant: str) -> Get:
    """Return a function that sends one request."""

    async def get(connection: Connection) -> bytes:
        return await connection.get(path, tenant)

    return get


async def in_turns(port: int, gets: Sequence[Get], requests: int) -> list[list[float]]:
    """Return how long each request took, in ms: `requests` of each kind, one after another."""
    connection = await Connection.open(port)
    took_ms: list[list[float]] = [[] for _ in gets]
    for _ in range(requests):
        for times, get in zip(took_ms, gets, strict=True):
            began_s = time.perf_counter()
            await get(connection)
            times.append((time.perf_counter() - began_s) * 1e3)
    connection.close()
    return took_ms


async def at_once(port: int, get: Get, seconds: float, connections: int) -> float:
    """Return the requests per second of some connections that send without a pause."""
    opened = [await Connection.open(port) for _ in range(connections)]
    sent, stop_s = 0, time.perf_counter() + seconds

    async def send(connection: Connection) -> None:
        nonlocal sent
        while time.perf_counter() < stop_s:
            await get(connection)
            sent += 1

    began_s = time.perf_counter()
    await asyncio.gather(*map(send, opened))
    took_s = time.perf_counter() - began_s
    for connection in opened:
        connection.close()
    return sent / took_s


async def at_rate(
    port: int, gets: Sequence[Get], *, per_s: float, seconds: float, connections: int = 32
) -> list[float]:
    """Return how long each request took, in ms, from the time at which it was due (open loop)."""
    free: asyncio.Queue[Connection] = asyncio.Queue()
    opened = [await Connection.open(port) for _ in range(connections)]
    for connection in opened:
        free.put_nowait(connection)
    took_ms: list[float] = []

    async def send(due_s: float, get: Get) -> None:
        connection = await free.get()
        await get(connection)
        free.put_nowait(connection)
        took_ms.append((time.perf_counter() - due_s) * 1e3)

    began_s, tasks = time.perf_counter(), []
    for i in range(int(per_s * seconds)):
        due_s = began_s + i / per_s
        await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
        tasks.append(asyncio.create_task(send(due_s, gets[i % len(gets)])))
    await asyncio.gather(*tasks)
    for connection in opened:
        connection.close()
    return took_ms


def percentile(values: Sequence[float], percent: float) -> float:
    """Return a percentile of values, the lower of two."""
    return sorted(values)[min(len(values) - 1, int(len(values) * percent / 100))]
