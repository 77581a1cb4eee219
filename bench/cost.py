"""Measure how cost grows with work: with customers, with events, and with tenants.

    python -m bench.cost [--json docs/cost.json] [--picture docs/cost.png]
    python -m bench.cost --customers 10000 --events 100000 --tenants 1 --many-events 0
    python -m bench.cost --draw docs/cost.json --picture docs/cost.png

The second takes a minute; the third draws earlier results and measures nothing. Each point runs on
empty servers of its own: events are produced, and one worker counts and stores them from the start
of the topic. Points:

- customers: `--events` events of each of the numbers in `--customers`, one tenant
- tenants: `--events` events of the second number of customers, spread over each of `--tenants`
- events: one run of `--many-events` events of the second number of customers, one tenant, measured
  in PARTS parts, so that each part shows what an event costs at that size

Of each point: events per second (from the first one counted to the last), the processor time of
each process per event until history has stored them too, Redis' memory, and the time from the start
of a worker's process to its partitions, with the counters of the point. The defaults take about ten
minutes on two cores that do nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import psycopg
import redis

from bench.bulk import fill
from bench.cost_picture import draw
from bench.servers import KINDS, Bench, Process, servers, wait_until
from store.redis.keys import Keys

DEADLINE_S: Final = 1_200.0
PARTS: Final = 5
PARTITIONS: Final = 4
DESCRIPTION, _, DETAILS = (__doc__ or "").partition("\n")


class Point(NamedTuple):
    """One measurement."""

    sweep: str
    """What grows: customers, tenants or events."""
    customers: int
    tenants: int
    events: int
    """Events in all stores at the end."""
    events_s: float
    cost_us: dict[str, float]
    """Processor time of each process, per event."""
    redis_bytes: int
    customers_seen: int
    start_s: float | None
    """None: not measured, the run goes on."""


class _Sample(NamedTuple):
    """State of a run at one moment."""

    at_s: float
    events: int
    spent_s: dict[str, float]


class _Stores:
    """What a run looks at in the stores."""

    def __init__(self, bench: Bench, tenants: Sequence[str]) -> None:
        self._keys = Keys(bench.settings.redis_prefix)
        self._tenants = tenants
        self._redis: Any = redis.Redis.from_url(bench.settings.redis_url)
        self._postgres = psycopg.connect(bench.settings.database_url, autocommit=True)

    def counted(self) -> int:
        """Return the number of events that the counters have."""
        pipeline = self._redis.pipeline(transaction=False)
        for tenant in self._tenants:
            pipeline.hget(self._keys.meta(tenant, 1), "events")
        return sum(int(n or 0) for n in pipeline.execute())

    def stored(self) -> int:
        """Return the number of offsets that history has passed."""
        query = "SELECT coalesce(sum(next_offset), 0)::bigint FROM history_watermarks"
        return int(self._postgres.execute(query).fetchone()[0])  # type: ignore[index]

    def customers(self) -> int:
        """Return the number of customers that have counters."""
        ranks = (self._keys.rank(tenant, 1, "customer", "a") for tenant in self._tenants)
        return sum(int(self._redis.zcard(rank)) for rank in ranks)

    def redis_bytes(self) -> int:
        """Return the memory that Redis uses for data, with its overhead."""
        info = self._redis.info("memory")
        return int(info["used_memory"]) - int(info["used_memory_startup"])

    def close(self) -> None:
        self._redis.close()
        self._postgres.close()


def measure(
    sweep: str, *, kind: str, customers: int, tenants: int, events: int, parts: int = 1
) -> list[Point]:
    """Measure one run, in `parts` equal parts, on servers of its own."""
    names = [f"t{number:03}" for number in range(tenants)]
    with servers(kind, topic_partitions=PARTITIONS) as bench:
        fill(bench.settings, events=events, customers=customers, tenants=names)
        stores = _Stores(bench, names)
        try:
            points = []
            with _worker(bench, "busy") as worker:
                wait_until(lambda: stores.counted() > 0, worker, DEADLINE_S, "the first event")
                before = _sample(bench, worker, stores.counted())
                for part in range(1, parts + 1):
                    end = events * part // parts
                    _wait(stores.counted, end, worker)
                    counted_s = time.monotonic()
                    if part == parts:
                        _wait(stores.stored, events, worker)
                    after = _sample(bench, worker, stores.counted())
                    n = after.events - before.events
                    cost_us = {
                        name: (spent - before.spent_s[name]) / n * 1e6
                        for name, spent in after.spent_s.items()
                    }
                    points.append(
                        Point(
                            sweep=sweep,
                            customers=customers,
                            tenants=tenants,
                            events=end,
                            events_s=n / (counted_s - before.at_s),
                            cost_us=cost_us,
                            redis_bytes=stores.redis_bytes(),
                            customers_seen=stores.customers(),
                            start_s=None,
                        )
                    )
                    before = after
            points[-1] = points[-1]._replace(start_s=_start(bench))
            return points
        finally:
            stores.close()


def _wait(count: Callable[[], int], events: int, worker: Process) -> None:
    wait_until(lambda: count() >= events, worker, DEADLINE_S, "all events counted and stored")


def _sample(bench: Bench, worker: Process, events: int) -> _Sample:
    return _Sample(time.monotonic(), events, {"worker": worker.cpu_s()} | bench.cpu_s())


def _start(bench: Bench) -> float:
    """Return the seconds from the start of a worker's process to its partitions."""
    log = bench.folder / "again.log"
    began_s = time.monotonic()
    with _worker(bench, "again") as worker:
        wait_until(
            lambda: log.exists() and "partitions assigned" in log.read_text(),
            worker,
            DEADLINE_S,
            "the partitions",
        )
        return time.monotonic() - began_s


def _worker(bench: Bench, name: str) -> Process:
    return Process(["cli.main", "worker"], bench.env, bench.folder / f"{name}.log")


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.cost",
        description=DESCRIPTION,
        epilog=DETAILS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--customers", type=_numbers, default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--tenants", type=_numbers, default=[1, 100])
    parser.add_argument("--events", type=int, default=500_000)
    parser.add_argument("--many-events", type=int, default=5_000_000, help="0: leave this out")
    parser.add_argument("--services", choices=KINDS, default="real")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    parser.add_argument("--picture", type=Path, help="draw the results into this PNG file")
    parser.add_argument("--draw", type=Path, help="draw these results, and measure nothing")
    options = parser.parse_args()
    found = json.loads(options.draw.read_text()) if options.draw else _measure(options)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    if options.picture:
        draw(found["points"], options.picture)


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    usual = options.customers[min(1, len(options.customers) - 1)]
    runs = [
        *(("customers", customers, 1, options.events, 1) for customers in options.customers),
        *(("tenants", usual, tenants, options.events, 1) for tenants in options.tenants),
        *([("events", usual, 1, options.many_events, PARTS)] if options.many_events else []),
    ]
    points: list[Point] = []
    for sweep, customers, tenants, events, parts in runs:
        same = [
            p for p in points if (p.customers, p.tenants, p.events) == (customers, tenants, events)
        ]
        if same:  # one run for two sweeps
            points += [point._replace(sweep=sweep) for point in same]
            continue
        for point in measure(
            sweep,
            kind=options.services,
            customers=customers,
            tenants=tenants,
            events=events,
            parts=parts,
        ):
            points.append(point)
            _print(point)
    return {
        "cores": os.cpu_count(),
        "services": options.services,
        "points": [point._asdict() for point in points],
    }


def _print(p: Point) -> None:
    costs = ", ".join(f"{name} {us:.1f}" for name, us in p.cost_us.items())
    start = "" if p.start_s is None else f"; start {p.start_s:.1f} s"
    print(
        f"{p.sweep}: {p.events:,} events, {p.tenants} tenants, {p.customers_seen:,} of "
        f"{p.customers:,} customers: {p.events_s:,.0f} events/s; µs of processor per event: "
        f"{costs}; Redis {p.redis_bytes / 2**20:,.0f} MiB{start}",
        flush=True,
    )


if __name__ == "__main__":
    main()
