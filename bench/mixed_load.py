"""Mixed load on the API while stores go away: what it answers, and what it keeps.

    python -m bench.mixed_load --minutes 10

One worker counts a steady load, and one API process with keys answers: valid questions of all
groupings, wrong keys, wrong parameters, bytes that are no HTTP, heads that are too large, clients
that send half a head and rest, and clients that leave. Once a minute Redis or PostgreSQL is frozen
for 5 s, in turn. Everything is on 127.0.0.1.

It fails if the API answers with 500 or with an unknown status, if it ends, or if its memory or its
open files grow: they are compared after the first minute and at the end, when the load has ended.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import httpx

from bench.servers import Bench, Process, servers, wait_until
from store.api_keys import make_key
from store.postgres.api_keys import create_key
from store.postgres.pool import open_pool
from store.settings import Settings

PATH = "/api/v1/interaction-summary"
PEPPER = "bench-pepper-of-more-than-32-characters"
TENANT = "acme"
#: Concurrent clients of each kind.
CLIENTS = 4
RESTING = 100
FREEZE_S = 5.0
#: What a client may get: 200, 304, and errors of the client or of stores that are frozen.
EXPECTED = {200, 400, 401, 403, 404, 405, 413, 429, 431, 503}
RSS_GROWTH_MAX = 1.15


class Kept(NamedTuple):
    """What the API process keeps."""

    rss_mib: float
    files: int
    """Open files: connections of clients and stores, among others."""


def kept(pid: int) -> Kept:
    text = Path(f"/proc/{pid}/status").read_text()
    rss_kib = next(int(x.split()[1]) for x in text.splitlines() if x.startswith("VmRSS"))
    return Kept(rss_kib / 1_024, len(list(Path(f"/proc/{pid}/fd").iterdir())))


class Load:
    """The clients, and the statuses that they got by kind of client."""

    def __init__(self, port: int, key: str, stop_s: float) -> None:
        self._port = port
        self._key = key
        self._stop_s = stop_s
        self.statuses: Counter[tuple[str, int]] = Counter()

    async def run(self) -> None:
        """Run all clients until the end of the load."""
        headers = {"X-API-Key": self._key}
        limits = httpx.Limits(max_connections=200)
        url = f"http://127.0.0.1:{self._port}"
        async with httpx.AsyncClient(base_url=url, timeout=30, limits=limits) as client:

            def valid() -> Awaitable[httpx.Response]:
                group_by = random.choice(("action", "treatment", "channel", "customer"))
                days = random.choice((1, 7, 30, 365))
                window = random.choice(("period", "exact"))
                query = f"groupBy={group_by}&days={days}&limit=500&window={window}"
                return client.get(f"{PATH}?{query}", headers=headers)

            def wrong_key() -> Awaitable[httpx.Response]:
                given = random.choice((make_key(), "", "x" * 200, "krn_"))
                return client.get(PATH, headers={"X-API-Key": given})

            def wrong_parameter() -> Awaitable[httpx.Response]:
                query = random.choice(("days=0", "x=1", "limit=-1", "groupBy=%00", "days=1&days=2"))
                return client.get(f"{PATH}?{query}", headers=headers)

            def other() -> Awaitable[httpx.Response]:
                method = random.choice(("GET", "POST", "DELETE", "HEAD"))
                path = random.choice(("/api/v1/keys", "/api/v1/catalog", "/readyz", "/docs", "/x"))
                body = random.choice((b"", b"{", b"x" * 70_000)) if method == "POST" else b""
                return client.request(method, path, headers=headers, content=body)

            kinds = [valid, valid, wrong_key, wrong_parameter, other]
            await asyncio.gather(
                *(self._repeat(kind) for kind in kinds for _ in range(CLIENTS)),
                *(self._raw() for _ in range(CLIENTS)),
                *(self._rest() for _ in range(RESTING)),
                *(self._leave() for _ in range(CLIENTS)),
            )

    def _runs(self) -> bool:
        return time.monotonic() < self._stop_s

    async def _repeat(self, call: Callable[[], Awaitable[httpx.Response]]) -> None:
        while self._runs():
            with suppress(httpx.TransportError):
                self.statuses[call.__name__, (await call()).status_code] += 1
            await asyncio.sleep(0.02)

    async def _raw(self) -> None:
        """Send bytes that are no request, and heads that are too large."""
        while self._runs():
            sent = random.choice(
                (b"\x16\x03\x01\r\n\r\n", b"GET\r\n\r\n", b"GET /?" + b"x" * 50_000)
            )
            received = await self._exchange(sent)
            if received:
                self.statuses["raw", int(received.split(b" ", 2)[1])] += 1
            await asyncio.sleep(0.05)

    async def _rest(self) -> None:
        """Send half a head, and wait until the server closes the connection."""
        while self._runs():
            await self._exchange(b"GET / HTTP/1.1\r\nHost: a\r\n")

    async def _leave(self) -> None:
        """Ask, and close the connection before the answer."""
        head = f"GET {PATH}?groupBy=customer HTTP/1.1\r\nHost: a\r\nX-API-Key: {self._key}\r\n\r\n"
        while self._runs():
            with suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", self._port)
                writer.write(head.encode())
                await asyncio.sleep(0.002)
                writer.transport.abort()
            await asyncio.sleep(0.02)

    async def _exchange(self, sent: bytes) -> bytes:
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(30):
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
                try:
                    writer.write(sent)
                    return await reader.read(65_536)
                finally:
                    writer.close()
        return b""


async def freeze_in_turn(bench: Bench, stop_s: float) -> None:
    """Freeze Redis or PostgreSQL for FREEZE_S once a minute, until `stop_s`."""
    for turn in range(10_000):
        await asyncio.sleep(55)
        if time.monotonic() + 2 * FREEZE_S > stop_s:
            return
        # In the order in which they start: the broker, the store of the counters, that of history.
        stores = list(bench.pids.values())[1:]
        pids = _family(stores[turn % len(stores)])
        try:
            _signal(pids, signal.SIGSTOP)
            await asyncio.sleep(FREEZE_S)
        finally:
            _signal(pids, signal.SIGCONT)


def _family(pid: int | None) -> list[int]:
    """Return the process and its children: PostgreSQL has one for each connection."""
    assert pid is not None
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in children for each in _family(int(child)))]


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


async def measure(bench: Bench, api: Process, port: int, key: str, minutes: float) -> None:
    """Run the load, and print what the API answered and kept. Raises SystemExit."""
    stop_s = time.monotonic() + 60 * minutes
    load = Load(port, key, stop_s)
    running = asyncio.create_task(load.run())
    freezing = asyncio.create_task(freeze_in_turn(bench, stop_s))
    await asyncio.sleep(min(60.0, 20 * minutes))
    pid = api.pid
    early = kept(pid)
    while not running.done():
        await asyncio.wait({running}, timeout=60)
        api.check()
        now = kept(pid)
        print(f"  RSS {now.rss_mib:.0f} MiB, {now.files} open files", flush=True)
    await running
    await freezing
    # Connections of clients that went away are closed by their keep-alive time at the latest.
    wait_until(lambda: kept(pid).files <= early.files, api, 60, "clients' connections to end")
    late = kept(pid)
    print(f"first minute: RSS {early.rss_mib:.1f} MiB, {early.files} open files")
    print(f"end:          RSS {late.rss_mib:.1f} MiB, {late.files} open files")
    for (kind, status), number in sorted(load.statuses.items()):
        print(f"  {kind:16} {status}: {number:,}")
    wrong = {s: n for (_, s), n in load.statuses.items() if s not in EXPECTED}
    if wrong:
        raise SystemExit(f"unexpected statuses: {wrong}")
    if late.rss_mib > early.rss_mib * RSS_GROWTH_MAX:
        raise SystemExit(f"memory grew by more than {RSS_GROWTH_MAX - 1:.0%}")


def run(kind: str, minutes: float) -> None:
    """Start everything, and measure. Raises SystemExit."""
    port = random.randrange(20_000, 30_000)
    changes = {"auth_mode": "keys", "api_key_pepper": PEPPER, "rate_limit_per_minute": 0}
    with servers(kind, **changes) as bench:
        key = asyncio.run(_make_key(bench.settings))
        worker = Process(["cli.main", "worker"], bench.env, bench.folder / "worker.log")
        paced = Process(["bench.paced", "200", "20000"], bench.env, bench.folder / "paced.log")
        serve = ["cli.main", "api", "--host", "127.0.0.1", "--port", str(port)]
        api = Process(serve, {**bench.env, "LOG_LEVEL": "ERROR"}, bench.folder / "api.log")
        with worker, paced, api:
            wait_until(lambda: _answers(port, key), api, 60, "the API to answer")
            asyncio.run(measure(bench, api, port, key, minutes))
            worker.check()
        if '"request failed"' in (bench.folder / "api.log").read_text():
            raise SystemExit("the API logged an error of the program")


async def _make_key(settings: Settings) -> str:
    async with open_pool(settings, max_size=1) as pool:
        _, key = await create_key(pool, TENANT, "viewer", name="bench", pepper=PEPPER)
        return key


def _answers(port: int, key: str) -> bool:
    try:
        url = f"http://127.0.0.1:{port}{PATH}"
        return httpx.get(url, headers={"X-API-Key": key}).status_code == 200
    except httpx.TransportError:
        return False


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.mixed_load", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--services", choices=("wheels", "real"), default="wheels")
    options = parser.parse_args()
    run(options.services, options.minutes)


if __name__ == "__main__":
    main()
