"""Measure what the number of tenants costs: events per second, start time, processor time if idle.

    python -m bench.tenants [--tenants 10,1000,10000] [--events 60000] [--services real] [--json]

For each number of tenants, on empty servers: one event of each creates its counters ("new"). The
worker is started again ("start": until it has its partitions; "reads": until it knows how far each
tenant is counted) and left idle ("idle"). Then events of at most ACTIVE_MAX of the tenants, in
equal shares, are counted ("events/s": from the first one counted to the last).

Each number runs on servers of its own, one after another, so compare ratios of one run only.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Final, NamedTuple

import redis

from bench.ingest import Meter
from bench.servers import KINDS, Bench, Process, servers, wait_until
from cli.traffic.synthetic import Traffic
from store.redis.client import make_client
from store.redis.counters import RedisCounters
from store.redis.keys import Keys
from store.settings import Settings
from streams.kafka.sender import Sender

DESCRIPTION, _, DETAILS = (__doc__ or "").partition("\n")
#: Tenants with events while the rate is measured: about as many as are active in one minute.
ACTIVE_MAX: Final = 2_000
CUSTOMERS: Final = 20_000
DEADLINE_S: Final = 900.0


class Measured(NamedTuple):
    """Result for one number of tenants."""

    tenants: int
    new_s: float
    """Seconds until the first event of each tenant was counted."""
    start_s: float
    """Seconds from the start of the process to its partitions."""
    reads_s: float
    """Seconds in which the start reads how far each tenant is counted."""
    idle_percent: float
    """Share of one core that an idle worker uses."""
    idle_redis_percent: float
    active: int
    events_s: float
    cost_us: dict[str, float]
    """Processor time of each process, per event of this rate."""
    events_per_script: float
    """Mean over the whole run, with a few scripts that are no commits."""


def measure(kind: str, tenants: int, events: int, idle_s: float) -> Measured:
    """Measure one number of tenants on servers of its own."""
    names = tuple(f"t{number:05}" for number in range(tenants))
    with servers(kind, topic_partitions=4, tenants_max=max(10_000, tenants)) as bench:
        client = redis.Redis.from_url(bench.settings.redis_url)
        try:
            asyncio.run(produce(bench.settings, names, tenants))
            new_s = _count_first(bench, client, tenants)
            start_s, idle, idle_redis = _start_and_idle(bench, client, idle_s)
            reads_s = asyncio.run(_read_positions(bench.settings, client))
            active = names[:ACTIVE_MAX]
            asyncio.run(produce(bench.settings, active, events))
            client.config_resetstat()
            events_s, cost_us = _count(bench, client, tenants, events)
            stats: Any = client.info("commandstats")
            events_per_script = events / stats["cmdstat_evalsha"]["calls"]
        finally:
            client.close()
    return Measured(
        tenants,
        new_s,
        start_s,
        reads_s,
        idle,
        idle_redis,
        len(active),
        events_s,
        cost_us,
        events_per_script,
    )


async def produce(settings: Settings, tenants: Sequence[str], events: int) -> None:
    """Send `events` events, of the tenants in turn and in random order."""
    streams = [
        Traffic(seed=n, customers=CUSTOMERS, tenants=(name,)) for n, name in enumerate(tenants)
    ]
    order = [n % len(tenants) for n in range(events)]
    Random(1).shuffle(order)
    now_ms = time.time_ns() // 1_000_000
    async with Sender(settings, settings.interactions_topic) as sender:
        for number in order:
            record = streams[number].record(now_ms)
            await sender.send(record.key, record.value)


def _count_first(bench: Bench, client: redis.Redis, tenants: int) -> float:
    with _worker(bench, "new") as worker:
        wait_until(lambda: counted(bench, client) > 0, worker, 60.0, "the first event")
        began_s = time.monotonic()
        wait_until(
            lambda: counted(bench, client) >= tenants, worker, DEADLINE_S, "an event of each tenant"
        )
        return time.monotonic() - began_s


def _start_and_idle(bench: Bench, client: redis.Redis, idle_s: float) -> tuple[float, float, float]:
    began_s = time.monotonic()
    log = bench.folder / "idle.log"
    with _worker(bench, "idle") as worker:
        wait_until(lambda: _is_assigned(log), worker, DEADLINE_S, "the partitions")
        start_s = time.monotonic() - began_s
        time.sleep(10)  # what a start leaves to be done
        before, redis_before = worker.cpu_s(), bench.cpu_s()["redis"]
        measured_s = time.monotonic()
        time.sleep(idle_s)
        passed_s = time.monotonic() - measured_s
        idle = (worker.cpu_s() - before) / passed_s * 100
        idle_redis = (bench.cpu_s()["redis"] - redis_before) / passed_s * 100
    return start_s, idle, idle_redis


async def _read_positions(settings: Settings, client: redis.Redis) -> float:
    """Return the seconds that a start reads for: with the worker's own code, in this process."""
    from store.postgres.history import HistoryWriter
    from store.postgres.pool import make_pool
    from streams.commit import CounterCommitter

    async def utc(tenant: str) -> str:
        return "UTC"

    topic_id = _topic_id(client, settings)
    connection = make_client(settings, timeout_s=10, retries=0)
    async with make_pool(settings, max_size=1) as pool:
        committer = CounterCommitter(
            RedisCounters(connection, settings.redis_prefix),
            HistoryWriter(pool),
            now_ms=lambda: time.time_ns() // 1_000_000,
            timezone_of=utc,
        )
        began_s = time.monotonic()
        await committer.counted(topic_id, dict.fromkeys(range(settings.topic_partitions), 0))
        passed_s = time.monotonic() - began_s
    await connection.aclose()
    return passed_s


def _count(
    bench: Bench, client: redis.Redis, before: int, events: int
) -> tuple[float, dict[str, float]]:
    count = partial(_counted_since, bench, client, before)
    meter = Meter(count, events)
    with _worker(bench, "busy") as worker:
        wait_until(lambda: count() > 0, worker, DEADLINE_S, "the first event counted")
        missing = events - count()
        began = {"worker": worker.cpu_s()} | bench.cpu_s()
        wait_until(meter.done, worker, DEADLINE_S, "all events counted")
        ended = {"worker": worker.cpu_s()} | bench.cpu_s()
    cost_us = {name: (ended[name] - began[name]) / missing * 1e6 for name in began}
    return meter.rate_s, cost_us


def _counted_since(bench: Bench, client: redis.Redis, before: int) -> int:
    return max(0, counted(bench, client) - before)


def _worker(bench: Bench, name: str) -> Process:
    return Process(["cli.main", "worker"], bench.env, bench.folder / f"{name}.log")


def _is_assigned(log: Path) -> bool:
    return log.exists() and "partitions assigned" in log.read_text()


def counted(bench: Bench, client: redis.Redis | redis.RedisCluster) -> int:
    """Return the number of offsets that the workers have reported as counted."""
    fields: dict[bytes, bytes] = client.hgetall(_progress(bench.settings))  # type: ignore[assignment]
    return sum(int(value.split(b",")[0]) for value in fields.values())


def _topic_id(client: redis.Redis, settings: Settings) -> str:
    fields: list[bytes] = client.hkeys(_progress(settings))  # type: ignore[assignment]
    return fields[0].decode().rpartition(":")[0]


def _progress(settings: Settings) -> str:
    return Keys(settings.redis_prefix).progress


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.tenants", description=DESCRIPTION, epilog=DETAILS
    )
    parser.add_argument("--tenants", default="10,1000,10000", help="numbers, with commas")
    parser.add_argument("--events", type=int, default=60_000)
    parser.add_argument("--idle-s", type=float, default=40.0)
    parser.add_argument("--services", choices=KINDS, default="real")
    parser.add_argument("--json", action="store_true", help="print one JSON object and no table")
    options = parser.parse_args()
    found = []
    for tenants in map(int, options.tenants.split(",")):
        found.append(measure(options.services, tenants, options.events, options.idle_s))
        if not options.json:
            _print(found[-1], found[0])
    if options.json:
        print(json.dumps([each._asdict() for each in found]))


def _print(m: Measured, first: Measured) -> None:
    costs = ", ".join(f"{name} {us:.0f}" for name, us in m.cost_us.items())
    print(
        f"{m.tenants:6} tenants: new {m.new_s:5.1f} s; start {m.start_s:5.1f} s, of which reads "
        f"{m.reads_s:.2f} s; idle {m.idle_percent:.1f}% of a core (Redis "
        f"{m.idle_redis_percent:.1f}%); {m.active} active: {m.events_s:,.0f} events/s "
        f"({m.events_s / first.events_s:.2f}); µs of processor per event: {costs}; "
        f"{m.events_per_script:.1f} events per script",
        flush=True,
    )


if __name__ == "__main__":
    main()
