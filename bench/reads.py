"""Measure answers of the API: warm, cold, exact windows, deep offsets, at a fixed rate.

    python -m bench.reads [--customers 50000] [--rate 5000] [--seconds 5] [--kind real] [--json]

One API process answers questions about a tenant whose customers are all ranked. Meanwhile a worker
counts the events that `bench.paced` sends. Warm: answers are kept (API_CACHE_MB), as by default.
Cold: none is kept. Each row is measured in turns with a bare Starlette route of the same process,
which returns the same bytes after one `GET` from Redis; the ratio is that of their medians.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, cast

import redis

from bench.http_load import Connection, at_once, at_rate, get_of, in_turns, percentile
from bench.ranks import UTC
from bench.reads_writer import MADE, write
from bench.servers import KINDS, TENANT, Bench, Process, servers, wait_until
from bench.tenants import counted
from cli.embedded.server import free_port
from store.catalog_document import CatalogDocument, ChannelItem, OfferItem, TreatmentItem
from store.postgres.catalog import import_catalog
from store.postgres.pool import open_pool
from store.records import GROUPINGS
from store.redis.client import open_client
from store.redis.counters import RedisCounters

DESCRIPTION, _, DETAILS = (__doc__ or "").partition("\n")
PATH = "/api/v1/interaction-summary"
PERIOD_OF_DAYS = {1: "daily", 7: "weekly", 30: "monthly", 365: "alltime"}


class Row(NamedTuple):
    """One measured question."""

    name: str
    p50_ms: float
    p99_ms: float
    bare_p50_ms: float

    @property
    def ratio(self) -> float:
        return self.p50_ms / self.bare_p50_ms


def catalog() -> CatalogDocument:
    """Return names of the actions, treatments and channels that `make_events` makes."""
    return CatalogDocument(
        tenant=TENANT,
        offers=[
            OfferItem(f"off_{i:03d}", f"Offer {i}", "Retention", "Cards", "active", i % 10)
            for i in range(200)
        ],
        treatments=[
            TreatmentItem(
                f"cr_{i:03d}_{j}",
                f"Banner {j}",
                f"off_{i:03d}",
                f"ch_{j}",
                "html",
                "A",
                0.5,
                "active",
            )
            for i in range(200)
            for j in range(3)
        ],
        channels=[ChannelItem(f"ch_{i}", f"Channel {i}", "web", "active") for i in range(6)],
    )


async def prepare(bench: Bench, customers: int, events: int) -> None:
    """Import the catalog, and count the events before the measurement."""
    now_ms = time.time_ns() // 1_000_000
    async with open_pool(bench.settings, max_size=1) as pool:
        report = await import_catalog(pool, catalog())
    async with open_client(bench.settings, timeout_s=60, retries=0) as client:
        counters = RedisCounters(client, bench.settings.redis_prefix)
        await counters.announce_catalog(TENANT, report.version)
        await counters.create(
            TENANT, day=UTC.day_of(now_ms), timezone="UTC", complete=True, watermarks=()
        )
    await write(bench.settings, customers, events=events)


def _rewrite_log(bench: Bench) -> None:
    """Let Redis rewrite its append-only file now: it would do so while answers are measured."""
    with redis.Redis.from_url(bench.settings.redis_url) as client:
        client.bgrewriteaof()
        while cast(dict[str, Any], client.info("persistence"))["aof_rewrite_in_progress"]:
            time.sleep(0.2)


@contextlib.contextmanager
def api(bench: Bench, server: str, cache_mb: int) -> Iterator[tuple[int, Process]]:
    """Start one API process; yield its port."""
    port = free_port()
    arguments = ["bench.reads_app", str(port)]
    if server == "granian":
        arguments = ["granian", "--interface", "asgi", "--factory", "--host", "127.0.0.1"]
        arguments += ["--port", str(port), "--no-access-log", "bench.reads_app:make_app"]
    env = {**bench.env, "AUTH_MODE": "open", "API_CACHE_MB": str(cache_mb)}
    env["READ_BUDGET_MS"] = "5000"  # all answers are those of the counters
    with Process(arguments, env, bench.folder / f"{server}-{cache_mb}.log") as process:
        asyncio.run(_until_ready(port, process))
        yield port, process


async def _until_ready(port: int, process: Process) -> None:
    deadline_s = time.monotonic() + 30
    while True:
        process.check()
        with contextlib.suppress(OSError):
            connection = await Connection.open(port)
            await connection.get("/healthz", TENANT)
            connection.close()
            return
        if time.monotonic() > deadline_s:
            raise SystemExit("the API did not answer within 30 s")
        await asyncio.sleep(0.05)


async def compare(bench: Bench, port: int, name: str, query: str, requests: int) -> Row:
    """Measure one question in turns with the bare route and the same bytes."""
    asked = get_of(f"{PATH}?{query}", TENANT)
    connection = await Connection.open(port)
    body = await asked(connection)
    connection.close()
    async with open_client(bench.settings, timeout_s=10, retries=0) as client:
        await client.set("bench:body", body)
    bare = get_of("/bare?key=bench:body", TENANT)
    await in_turns(port, [asked, bare], 20)
    took_ms, bare_ms = await in_turns(port, [asked, bare], requests)
    return Row(name, percentile(took_ms, 50), percentile(took_ms, 99), percentile(bare_ms, 50))


def every_page() -> list[tuple[str, str]]:
    """Return name and query of a page of each grouping and period."""
    return [
        (f"{group_by}, {period}", f"groupBy={group_by}&days={days}")
        for group_by in GROUPINGS
        for days, period in PERIOD_OF_DAYS.items()
    ]


def cold_pages(customers: int) -> list[tuple[str, str]]:
    """Return name and query of the pages that are measured without kept answers."""
    deep = min(100_000, customers * 3 // 4)
    of_customers = "groupBy=customer&days=365"
    return [
        *(
            (f"{g}, monthly, limit {n}", f"groupBy={g}&limit={n}")
            for g in GROUPINGS
            for n in (100, 500)
        ),
        ("customer, alltime, limit 500", f"{of_customers}&limit=500"),
        *((f"action, exact {n} days", f"days={n}&window=exact&limit=200") for n in (3, 12, 19, 25)),
        ("customer, alltime, offset 0", of_customers),
        (f"customer, alltime, offset {deep:,}", f"{of_customers}&offset={deep}"),
    ]


def measure_server(bench: Bench, server: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return the rows of one HTTP server, while events are committed."""
    found: dict[str, Any] = {}
    with api(bench, server, 64) as (port, _):
        found["warm"] = [
            asyncio.run(compare(bench, port, name, query, options.requests))
            for name, query in every_page()
        ]
        gets = [get_of(f"{PATH}?{query}", TENANT) for _, query in every_page()]
        took_ms = asyncio.run(at_rate(port, gets, per_s=200, seconds=options.seconds))
        found["open loop"] = {p: percentile(took_ms, p) for p in (50, 99)}
        found["requests per second"] = {
            name: asyncio.run(at_once(port, get_of(path, TENANT), options.seconds, 16))
            for name, path in (("warm", PATH), ("bare", "/bare?key=bench:body"))
        }
    if server == "uvicorn":
        with api(bench, server, 0) as (port, _):
            found["cold"] = [
                asyncio.run(compare(bench, port, name, query, options.requests))
                for name, query in cold_pages(options.customers)
            ]
    return found


def show(server: str, found: dict[str, Any]) -> None:
    for kind in ("warm", "cold"):
        if kind not in found:
            continue
        print(f"\n{server}, {kind:30}   p50 ms   p99 ms   bare p50   ratio")
        for row in found[kind]:
            print(
                f"  {row.name:38} {row.p50_ms:8.2f} {row.p99_ms:8.2f} {row.bare_p50_ms:10.2f} "
                f"{row.ratio:7.2f}"
            )
    rates, loop = found["requests per second"], found["open loop"]
    print(f"\n{server}, open loop, 200 requests/s: p50 {loop[50]:.2f} ms, p99 {loop[99]:.2f} ms")
    print(
        f"{server}, 16 connections: {rates['warm']:.0f} requests/s warm, {rates['bare']:.0f} bare, "
        f"ratio {rates['bare'] / rates['warm']:.2f}"
    )


def run(options: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {}
    wanted = [name for name in options.servers.split(",") if _is_installed(name)]
    with servers(options.kind, auth_mode="open") as bench:
        events = -(-options.events // MADE) * MADE
        asyncio.run(prepare(bench, options.customers, events))
        _rewrite_log(bench)
        for server in wanted:
            with ingest(bench, options) as check:
                found[server] = measure_server(bench, server, options)
                check()
    return found


@contextlib.contextmanager
def ingest(bench: Bench, options: argparse.Namespace) -> Iterator[Callable[[], None]]:
    """Let a worker count events meanwhile; yield a function that checks that both processes run."""
    if not options.rate:
        yield lambda: None
        return
    env = {**bench.env, "WORKER_METRICS_PORT": str(free_port())}
    load_arguments = ["bench.paced", str(options.rate), str(options.customers)]
    with (
        Process(["cli.main", "worker"], env, bench.folder / "worker.log") as worker,
        Process(load_arguments, env, bench.folder / "load.log") as load,
        redis.Redis.from_url(bench.settings.redis_url) as client,
    ):
        before = counted(bench, client)
        wait_until(lambda: counted(bench, client) > before, worker, 60.0, "the load")

        def check() -> None:
            worker.check()
            load.check()

        yield check


def _is_installed(server: str) -> bool:
    if importlib.util.find_spec(server) is not None:
        return True
    print(f"{server} is not installed: left out", file=sys.stderr)
    return False


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.reads", description=DESCRIPTION, epilog=DETAILS
    )
    parser.add_argument("--customers", type=int, default=50_000)
    parser.add_argument("--events", type=int, default=200_000, help="counted before")
    parser.add_argument("--rate", type=float, default=5_000, help="events per second meanwhile")
    parser.add_argument("--requests", type=int, default=200, help="of each row")
    parser.add_argument("--seconds", type=float, default=5, help="of each load")
    parser.add_argument("--servers", default="uvicorn,granian", help="HTTP servers to compare")
    parser.add_argument("--kind", choices=KINDS, default="wheels")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    found = run(options)
    if options.json:
        print(json.dumps(found))
        return
    for server, rows in found.items():
        show(server, rows)


if __name__ == "__main__":
    main()
