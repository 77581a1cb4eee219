"""Measure the worker's events per second.

    python -m bench.ingest [--events 100000] [--rounds 3] [--json]

The worker runs with its defaults: exact counters, ranks, deduplication, and history in PostgreSQL.
Time runs from the first counted events to the last, so process start and group join are excluded.
The rate until history has stored all events, and the processor time of each process, are printed
too. `bench.peers` compares it with other systems.
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
    """Result of one run of the worker."""

    events_s: float
    stored_s: float
    """Events per second until history has stored them too."""
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
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument(
        "--all-ranks", action="store_true", help="keep all ranks of customers (RANKS_KEPT_DAYS=0)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object and no table")
    options = parser.parse_args()
    rounds: list[Measured] = []
    changes: dict[str, Any] = {"ranks_kept_days": 0} if options.all_ranks else {}
    with servers(topic_partitions=options.partitions, **changes) as bench:
        client = redis.Redis.from_url(bench.settings.redis_url)
        client.config_set("slowlog-log-slower-than", 5_000)
        asyncio.run(produce(bench.settings, options.events, options.customers))
        for n in range(options.rounds):
            measured = measure_worker(bench, client, options.events, n)
            rounds.append(measured)
            if not options.json:
                _print_round(n, measured)
        client.close()
    if options.json:
        table = [measured._asdict() for measured in rounds]
        print(json.dumps({"events": options.events, "rounds": table}))
        return
    rate = statistics.median(measured.events_s for measured in rounds)
    print(f"median {rate:8.0f} events/s")


def _print_round(n: int, measured: Measured) -> None:
    costs = ", ".join(f"{part} {us:.0f}" for part, us in measured.cost_us.items())
    print(f"round {n + 1}: {measured.events_s:8.0f} events/s   (µs of CPU/event: {costs})")
    print(f"         {measured.stored_s:8.0f} events/s until history has stored them too")
    parts = ", ".join(f"{part} {ms:.1f}" for part, ms in measured.script_ms.items())
    print(f"         scripts, ms: {parts}", flush=True)


if __name__ == "__main__":
    main()
