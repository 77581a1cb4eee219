"""Measure what a rebuild costs live traffic: freshness and reads, quiet and during rebuilds.

    python -m bench.rebuild_live [--events 1000000] [--rate 1000] [--services real] [--json]

In one run: a worker counts all events, then live events come in at a steady rate, while probes and
reads are timed: first with nothing else (quiet), then during `rebuild --from topic` and
`--from history` with their defaults, and quiet again. Freshness is the time from Kafka's
acknowledgement of a probe to the API's answer that contains it. Reads are pages of 100 rows of all
groupings and periods. The ratios compare each p99 with that of both quiet spans together: the
target is a ratio of at most 2. The speed of a shared machine varies, hence one run, and quiet spans
before and after.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import itertools
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import psycopg
import redis

from bench.freshness import Prober, answers
from bench.ingest import Meter
from bench.servers import KINDS, ROOT, TENANT, Bench, Process, produce, servers, wait_until
from cli.embedded.server import free_port
from store.records import GROUPINGS
from store.redis.keys import Keys

DESCRIPTION, _, DETAILS = (__doc__ or "").partition("\n")
READ_EVERY_S = 0.015
WARM_UP_S = 3.0
SOURCES = ("topic", "history")


class Span(NamedTuple):
    """Figures of one span of time."""

    name: str
    seconds: float
    freshness_ms: list[float]
    """In ascending order."""
    reads_ms: list[float]
    """In ascending order."""
    from_history: int
    """Answers to probes that came from history."""

    def line(self) -> str:
        """Return the figures as text."""
        return (
            f"{self.name}: {self.seconds:.1f} s; freshness p50 {_p(self.freshness_ms, 50):.0f} ms, "
            f"p99 {_p(self.freshness_ms, 99):.0f} ms ({len(self.freshness_ms)} probes); reads p50 "
            f"{_p(self.reads_ms, 50):.1f} ms, p99 {_p(self.reads_ms, 99):.1f} ms "
            f"({len(self.reads_ms)}); {self.from_history} answers from history"
        )


def _p(ascending: list[float], percent: int) -> float:
    return ascending[min(len(ascending) - 1, len(ascending) * percent // 100)]


class Reads:
    """Thread that reads all groupings and periods in turn, at a moderate rate."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        self._over = threading.Event()
        self._times_ms: list[float] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> list[float]:
        """Return the response times in ms, in ascending order."""
        self._over.set()
        self._thread.join(60)
        return sorted(self._times_ms)

    def _run(self) -> None:
        for grouping, days in itertools.cycle(itertools.product(GROUPINGS, (1, 7, 30, 365))):
            if self._over.wait(READ_EVERY_S):
                return
            began_s = time.monotonic()
            path = f"/api/v1/interaction-summary?groupBy={grouping}&days={days}"
            self._connection.request("GET", path, headers={"X-Tenant-Id": TENANT})
            answer = self._connection.getresponse()
            answer.read()
            if answer.status == 200:
                self._times_ms.append((time.monotonic() - began_s) * 1e3)


def measured(
    name: str, bench: Bench, port: int, seconds: float, is_over: Callable[[], bool]
) -> Span:
    """Probe and read until `is_over`, for at most `seconds`."""
    began_s, reads = time.monotonic(), Reads(port)
    polled = asyncio.run(Prober(bench, port).run(seconds, is_over))
    return Span(
        name, time.monotonic() - began_s, polled.probes_ms, reads.stop(), polled.from_history
    )


def during_rebuild(bench: Bench, port: int, source: str, arguments: list[str]) -> Span:
    """Probe and read while `rebuild` runs; print its result."""
    command = [sys.executable, "-m", "cli.main", "rebuild", "--tenant", TENANT, "--from", source]
    with subprocess.Popen(
        [*command, *arguments],
        cwd=ROOT,
        env=dict(bench.env),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as rebuild:
        try:
            span = measured(
                f"rebuild from {source}", bench, port, 3_600, lambda: rebuild.poll() is not None
            )
        finally:
            rebuild.kill()
        output = rebuild.stdout.read() if rebuild.stdout else ""
        if rebuild.wait() != 0:
            raise SystemExit(f"rebuild --from {source} failed: {output}")
    print(f"  {output.strip()}", flush=True)
    return span


def measure(bench: Bench, options: argparse.Namespace) -> list[Span]:
    """Return the spans in the order in which they were measured."""
    meta = Keys(bench.settings.redis_prefix).meta(TENANT, 1)
    port = free_port()
    env = dict(bench.env) | {"AUTH_MODE": "open"}
    client = redis.Redis.from_url(bench.settings.redis_url)

    def counted() -> int:
        fields: dict[bytes, bytes] = client.hgetall(meta)  # type: ignore[assignment]
        return sum(int(value) for name, value in fields.items() if name.startswith(b"w:"))

    def stored() -> bool:
        with psycopg.connect(bench.settings.database_url) as connection:
            query = "SELECT coalesce(sum(next_offset), 0)::bigint FROM history_watermarks"
            (n,) = connection.execute(query).fetchone() or (0,)
            return bool(n >= options.events)

    spans = []
    with Process(["cli.main", "worker"], env, bench.folder / "worker.log") as worker:
        meter = Meter(counted, options.events)
        wait_until(lambda: counted() > 0, worker, 60.0, "the first event")
        wait_until(meter.done, worker, 3_600.0, "all events counted")
        wait_until(stored, worker, 3_600.0, "all events in history")
        print(f"live {meter.rate_s:.0f} events/s", flush=True)
        load = ["bench.paced", str(options.rate), str(options.customers)]
        with (
            Process(["cli.main", "api", "--port", str(port)], env, bench.folder / "api.log") as api,
            Process(load, env, bench.folder / "load.log") as paced,
        ):
            wait_until(lambda: answers(port), api, 30.0, "the API")
            time.sleep(WARM_UP_S)
            steps: list[Callable[[], Span]] = []
            for source in options.sources:
                steps.append(lambda: measured("quiet", bench, port, options.quiet_s, lambda: False))
                steps.append(
                    lambda source=source: during_rebuild(bench, port, source, options.rebuild)  # type: ignore[misc]
                )
            steps.append(steps[0])
            for step in steps:
                spans.append(step())
                print(spans[-1].line(), flush=True)
                for process in (worker, api, paced):
                    process.check()
    client.close()
    return spans


def ratios(spans: list[Span]) -> dict[str, dict[str, float]]:
    """Return p99 of each rebuild, relative to p99 of all quiet spans together."""
    quiet = [span for span in spans if span.name == "quiet"]
    fresh = _p(sorted(ms for span in quiet for ms in span.freshness_ms), 99)
    reads = _p(sorted(ms for span in quiet for ms in span.reads_ms), 99)
    return {
        span.name: {
            "freshness_p99": round(_p(span.freshness_ms, 99) / fresh, 2),
            "reads_p99": round(_p(span.reads_ms, 99) / reads, 2),
        }
        for span in spans
        if span.name != "quiet"
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.rebuild_live", description=DESCRIPTION, epilog=DETAILS
    )
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--customers", type=int, default=100_000)
    parser.add_argument("--rate", type=float, default=1_000, help="live events per second")
    parser.add_argument("--quiet-s", type=float, default=20, help="length of each quiet span")
    parser.add_argument("--sources", nargs="+", default=list(SOURCES), choices=SOURCES)
    parser.add_argument("--services", choices=KINDS, default="real")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    parser.add_argument("rebuild", nargs="*", help="further options of `rebuild`, after --")
    options = parser.parse_args()
    with servers(options.services) as bench:
        asyncio.run(produce(bench.settings, options.events, options.customers))
        spans = measure(bench, options)
    found: dict[str, Any] = ratios(spans)
    for name, ratio in found.items():
        print(
            f"{name}: freshness p99 {ratio['freshness_p99']:.2f} x quiet, reads p99 "
            f"{ratio['reads_p99']:.2f} x quiet (target: at most 2)"
        )
    if options.json:
        print(json.dumps(found | {"spans": [span._asdict() for span in spans]}))


if __name__ == "__main__":
    main()
