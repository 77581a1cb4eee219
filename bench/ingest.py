"""Measure the worker's events per second beside a stock Faust agent on the same topic, in turns.

    python -m bench.ingest [--events 100000] [--rounds 3] [--json]

The worker runs with its defaults: exact counters, ranks, deduplication, and history in PostgreSQL.
The agent is `bench.stock_agent`. Time runs from the first counted events to the last, so process
start and group join are excluded. The rate until history has stored all events, and the processor
time of each process, are printed too.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import psycopg
import redis

from bench.servers import TENANT, Bench, Process, produce, servers, wait_until
from store.postgres.migrate import migrate
from store.redis.keys import Keys

DEADLINE_S = 900.0
DESCRIPTION, _, DETAILS = (__doc__ or "").partition("\n")


class Measured(NamedTuple):
    """Result of one run of the worker or the agent."""

    events_s: float
    stored_s: float
    """Events per second until history has stored them too; 0 if there is no history."""
    cost_us: dict[str, float]
    """Processor time of each process, per event."""
    script_ms: dict[str, float]
    """Duration of the scripts that Redis ran, by its own measurement: mean, p99, max."""


class Meter:
    """Rate of a growing count, from its first value above 0 to `events`."""

    def __init__(self, count: Callable[[], int], events: int) -> None:
        self._count, self._events = count, events
        self._first: tuple[float, int] | None = None
        self.rate_s = 0.0

    def done(self) -> bool:
        """Poll the count; return whether it has reached `events`. Then `rate_s` is set."""
        if self.rate_s:
            return True
        n, now_s = self._count(), time.monotonic()
        if n and self._first is None:
            self._first = (now_s, n)
        if n >= self._events and self._first is not None:
            began_s, began_n = self._first
            if n == began_n:
                raise SystemExit("all events were counted between two polls: increase --events")
            self.rate_s = (n - began_n) / (now_s - began_s)
        return bool(self.rate_s)


def measure_stock(bench: Bench, client: redis.Redis, events: int, n: int) -> Measured:
    """Measure the stock agent in round `n`, on an empty Redis."""
    client.flushall()
    client.config_resetstat()
    env = dict(bench.env) | {
        "CONSUMER_GROUP": f"stock-{n}",
        "REDIS_PREFIX": "stock",
        "INTERACTIONS_TOPIC": bench.settings.interactions_topic,
    }
    arguments = ["bench.stock_agent", "worker", "-l", "error"]
    meter = Meter(lambda: int(client.get("stock:counted") or 0), events)
    with Process(arguments, env, bench.folder / f"stock-{n}.log") as agent:
        wait_until(lambda: bool(client.exists("stock:counted")), agent, 60.0, "the first event")
        before = _spent(bench, agent)
        wait_until(meter.done, agent, DEADLINE_S, "all events counted")
        return Measured(meter.rate_s, 0.0, _cost(before, _spent(bench, agent), events), {})


def measure_worker(bench: Bench, client: redis.Redis, events: int, n: int) -> Measured:
    """Measure the worker in round `n`, on an empty Redis and an empty history."""
    client.flushall()
    client.config_resetstat()
    client.slowlog_reset()
    with _database(bench, n) as url, psycopg.connect(url, autocommit=True) as connection:
        env = dict(bench.env) | {"CONSUMER_GROUP": f"worker-{n}", "DATABASE_URL": url}
        meta = Keys(bench.settings.redis_prefix).meta(TENANT, 1)

        def counted() -> int:
            fields: dict[bytes, bytes] = client.hgetall(meta)  # type: ignore[assignment]
            return sum(int(value) for name, value in fields.items() if name.startswith(b"w:"))

        def stored() -> int:
            query = "SELECT coalesce(sum(next_offset), 0)::bigint FROM history_watermarks"
            return int(connection.execute(query).fetchone()[0])  # type: ignore[index]

        counters, history = Meter(counted, events), Meter(stored, events)
        with Process(["cli.main", "worker"], env, bench.folder / f"worker-{n}.log") as worker:
            wait_until(lambda: counted() > 0, worker, 60.0, "the first event")
            before = _spent(bench, worker)
            counters_done, history_done = False, False
            deadline_s = time.monotonic() + DEADLINE_S
            while not (counters_done and history_done):
                counters_done, history_done = counters.done(), history.done()
                worker.check()
                if time.monotonic() > deadline_s:
                    raise SystemExit(f"events not counted and stored within {DEADLINE_S:.0f} s")
                time.sleep(0.02)
            cost = _cost(before, _spent(bench, worker), events)
        return Measured(counters.rate_s, history.rate_s, cost, _scripts(client))


@contextmanager
def _database(bench: Bench, n: int) -> Iterator[str]:
    """Create an empty history database for one round; yield its URL."""
    with psycopg.connect(bench.settings.database_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE bench_{n}".encode())
    url = bench.settings.database_url.rpartition("/")[0] + f"/bench_{n}"
    asyncio.run(migrate(url))
    yield url


def _spent(bench: Bench, process: Process) -> dict[str, float]:
    return {
        "python": process.cpu_s(),
        **bench.cpu_s(),
    }


def _cost(before: dict[str, float], after: dict[str, float], events: int) -> dict[str, float]:
    return {name: (after[name] - before[name]) / events * 1e6 for name in before}


def _scripts(client: redis.Redis) -> dict[str, float]:
    stats: Any = client.info("commandstats")
    latency: Any = client.info("latencystats")
    slow: Any = client.slowlog_get(128)
    longest = [entry["duration"] for entry in slow if entry["command"].startswith(b"EVAL")]
    return {
        "mean": stats["cmdstat_evalsha"]["usec_per_call"] / 1e3,
        "p99": float(latency["latency_percentiles_usec_evalsha"]["p99"]) / 1e3,
        "max": max(longest, default=0) / 1e3,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.ingest", description=DESCRIPTION, epilog=DETAILS
    )
    parser.add_argument("--events", type=int, default=100_000, help="events in the topic")
    parser.add_argument(
        "--customers", type=int, default=20_000, help="distinct customers of the events"
    )
    parser.add_argument(
        "--rounds", type=int, default=3, help="each round measures the agent, then the worker"
    )
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--worker-only", action="store_true", help="do not measure the stock agent")
    parser.add_argument("--json", action="store_true", help="print one JSON object and no table")
    options = parser.parse_args()
    rounds: list[dict[str, Measured]] = []
    with servers(topic_partitions=options.partitions) as bench:
        client = redis.Redis.from_url(bench.settings.redis_url)
        client.config_set("slowlog-log-slower-than", 5_000)
        asyncio.run(produce(bench.settings, options.events, options.customers))
        for n in range(options.rounds):
            done = {}
            if not options.worker_only:
                done["stock agent"] = measure_stock(bench, client, options.events, n)
            done["worker"] = measure_worker(bench, client, options.events, n)
            rounds.append(done)
            if not options.json:
                _print_round(n, done)
        client.close()
    ratios = [r["worker"].events_s / r["stock agent"].events_s for r in rounds if len(r) == 2]
    if options.json:
        table = [{name: m._asdict() for name, m in done.items()} for done in rounds]
        ratio = statistics.median(ratios) if ratios else None
        print(json.dumps({"events": options.events, "rounds": table, "ratio": ratio}))
        return
    for name in rounds[0]:
        rate = statistics.median(done[name].events_s for done in rounds)
        print(f"median {name:12} {rate:8.0f} events/s")
    if ratios:
        print(f"median ratio {statistics.median(ratios):.1f}")


def _print_round(n: int, done: dict[str, Measured]) -> None:
    for name, m in done.items():
        costs = ", ".join(f"{part} {us:.0f}" for part, us in m.cost_us.items())
        print(f"round {n + 1}: {name:12} {m.events_s:8.0f} events/s   (µs of CPU/event: {costs})")
        if m.stored_s:
            print(f"         {'':12} {m.stored_s:8.0f} events/s until history has stored them too")
        if m.script_ms:
            parts = ", ".join(f"{part} {ms:.1f}" for part, ms in m.script_ms.items())
            print(f"         {'':12} scripts, ms: {parts}", flush=True)


if __name__ == "__main__":
    main()
