"""How soon an event is visible: from Kafka's acknowledgement to the API's answer, under load.

    python -m bench.freshness [--seconds 60] [--rate R] [--json]

First the worker empties a full topic: that is its maximum. Then bench/paced.py sends half of that
(or --rate), from a process of its own, while probes are sent one by one: the time runs from Kafka's
acknowledgement of a probe until an answer of the API has it. All are the processes that users run:
worker, API, broker, Valkey, PostgreSQL. They, the load and the probing share the machine's
processors, so the shares are printed ("others": whatever else the machine does). Where they add up
to all there is, the figures are those of the machine, and better with the load elsewhere. A shared
machine does not always run at one speed: a fixed piece of work is timed all along, and how fast it
was while probing, beside how fast it was while the maximum was found, is printed too.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import itertools
import json
import os
import re
import statistics
import threading
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import psycopg
import redis
from aiokafka import AIOKafkaProducer

from bench.ingest import Meter
from bench.servers import KINDS, TENANT, Bench, Process, produce, servers, wait_until
from cli.embedded.server import free_port
from store.redis.keys import Keys
from streams.decode.timestamps import format_ms

DESCRIPTION, _, DETAILS = (__doc__ or "").partition("\n")
PROBE = "probe"
#: The cheapest question: a commit changes all groupings at once, and channels are few.
QUESTION = "/api/v1/interaction-summary?groupBy=channel&days=1"
POLL_S = 0.004
PAUSE_S_MAX = 0.1  # between probes, at random, so that they meet batches at any moment
WARM_UP_S = 3.0
PROBE_S_MAX = 30.0
TARGET_MS = 250


class Polled(NamedTuple):
    probes_ms: list[float]
    """From acknowledged to visible, in ascending order."""
    polls: int
    lag_max: int
    """The most events that an answer said it did not have yet."""
    from_history: int
    """Answers that were not of the counters: these were slower than the budget of a read."""


class Speed:
    """How fast the machine runs, by the processor time that a fixed piece of work takes, many times
    a second. What only waits for a processor does not count."""

    EVERY_S = 0.03

    def __init__(self) -> None:
        self._took: list[tuple[float, float]] = []  # when, and processor time in s
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            began_s = time.thread_time()
            sum(range(20_000))
            self._took.append((time.monotonic(), time.thread_time() - began_s))
            time.sleep(self.EVERY_S)

    def between(self, began_s: float, ended_s: float) -> list[float]:
        """Pieces of work a second, of each half second, in ascending order."""
        halves: dict[int, list[float]] = defaultdict(list)
        for at_s, took_s in self._took:
            if began_s <= at_s < ended_s:
                halves[int((at_s - began_s) * 2)].append(took_s)
        return sorted(len(took) / sum(took) for took in halves.values())


class Prober:
    """Sends probes and asks for them, both as anybody would."""

    def __init__(self, bench: Bench, port: int) -> None:
        self._topic = bench.settings.interactions_topic
        self._brokers = bench.settings.brokers
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        self.lag = self.from_history = 0

    def seen(self) -> int:
        """Probes that the API has by now."""
        self._connection.request("GET", QUESTION, headers={"X-Tenant-Id": TENANT})
        answer = self._connection.getresponse()
        body = json.loads(answer.read())
        if answer.status != 200:
            raise SystemExit(f"no answer: {answer.status} {body}")
        self.from_history += answer.headers["X-Summary-Source"] == "history"
        self.lag = int(answer.headers.get("X-Summary-Lag") or 0)
        return sum(int(row["total"]) for row in body["summary"] if row["id"] == PROBE)

    async def run(self, seconds: float) -> Polled:
        random = Random(1)
        waits_ms: list[float] = []
        polls = lag_max = 0
        producer = AIOKafkaProducer(bootstrap_servers=self._brokers, acks="all", linger_ms=0)
        await producer.start()
        try:
            end_s = time.monotonic() + seconds
            for number in itertools.count(self.seen() + 1):
                if time.monotonic() > end_s:
                    break
                key = f"P-{random.randrange(1_000)}"  # so that they go to any partition
                await producer.send_and_wait(self._topic, _probe(key), key=key.encode())
                acknowledged_s = time.monotonic()
                while self.seen() < number:
                    polls += 1
                    lag_max = max(lag_max, self.lag)
                    if time.monotonic() > acknowledged_s + PROBE_S_MAX:
                        raise SystemExit(f"a probe is not visible after {PROBE_S_MAX:.0f} s")
                    await asyncio.sleep(POLL_S)
                waits_ms.append((time.monotonic() - acknowledged_s) * 1e3)
                await asyncio.sleep(random.uniform(0, PAUSE_S_MAX))
        finally:
            await producer.stop()
        return Polled(sorted(waits_ms), polls + len(waits_ms), lag_max, self.from_history)


def _probe(customer: str) -> bytes:
    event = {
        "tenantId": TENANT,
        "interactionId": f"probe-{time.time_ns()}",
        "customerId": customer,
        "offerId": PROBE,
        "channelId": PROBE,
        "outcomeTypeKey": "impression",
        "timestamp": format_ms(time.time_ns() // 1_000_000),
    }
    return json.dumps(event).encode()


def maximum(
    counted: Callable[[], int], stored: Callable[[], int], worker: Process, n: int
) -> float:
    """Events per second that the worker counts when all are there already. Returns when history
    has them too."""
    meter = Meter(counted, n)
    wait_until(lambda: counted() > 0, worker, 60.0, "the first event")
    wait_until(meter.done, worker, 900.0, "all events counted")
    wait_until(lambda: stored() >= n, worker, 900.0, "all events in history")
    return meter.rate_s


def measure(bench: Bench, options: argparse.Namespace) -> dict[str, Any]:
    client = redis.Redis.from_url(bench.settings.redis_url)
    meta = Keys(bench.settings.redis_prefix).meta(TENANT, 1)
    ports = free_port(), free_port()
    env = dict(bench.env) | {"AUTH_MODE": "open", "WORKER_METRICS_PORT": str(ports[0])}

    def counted() -> int:
        marks: dict[bytes, bytes] = client.hgetall(meta)  # type: ignore[assignment]
        return sum(int(value) for name, value in marks.items() if name.startswith(b"w:"))

    with (
        psycopg.connect(bench.settings.database_url, autocommit=True) as connection,
        Process(["cli.main", "worker"], env, bench.folder / "worker.log") as worker,
    ):

        def stored() -> int:
            query = "SELECT coalesce(sum(next_offset), 0)::bigint FROM history_watermarks"
            return int(connection.execute(query).fetchone()[0])  # type: ignore[index]

        speed, started_s = Speed(), time.monotonic()
        most_s = maximum(counted, stored, worker, options.events)
        full_speed = statistics.median(speed.between(started_s, time.monotonic()))
        rate_s = options.rate or most_s / 2
        api_arguments = ["cli.main", "api", "--port", str(ports[1])]
        load_arguments = ["bench.paced", str(rate_s), str(options.customers)]
        with (
            Process(api_arguments, env, bench.folder / "api.log") as api,
            Process(load_arguments, env, bench.folder / "load.log") as load,
        ):
            wait_until(lambda: _answers(ports[1]), api, 30.0, "the API")
            before_load = counted()
            wait_until(lambda: counted() > before_load, load, 30.0, "the load")
            time.sleep(WARM_UP_S)
            processes = {"worker": worker, "api": api, "load": load}
            began_s, began_n, began_cpu = time.monotonic(), counted(), _spent(bench, processes)
            began_metric, began_busy_s = _visible(ports[0]), _busy_s()
            polled = asyncio.run(Prober(bench, ports[1]).run(options.seconds))
            ended_s = time.monotonic()
            took_s = ended_s - began_s
            events_s = (counted() - began_n) / took_s
            cpu, busy_s = _spent(bench, processes), _busy_s() - began_busy_s
            metric = {k: v - began_metric[k] for k, v in _visible(ports[0]).items()}
            for process in processes.values():
                process.check()
    client.close()
    waits_ms = polled.probes_ms
    shares = {name: (cpu[name] - began_cpu[name]) / took_s for name in cpu}
    shares["others"] = max(0.0, busy_s / took_s - sum(shares.values()))
    return {
        "maximum_s": most_s,
        "offered_s": rate_s,
        "counted_s": events_s,
        "probes": len(waits_ms),
        "polls": polled.polls,
        "p50_ms": waits_ms[len(waits_ms) // 2],
        "p99_ms": waits_ms[len(waits_ms) * 99 // 100],
        "max_ms": waits_ms[-1],
        "lag_max": polled.lag_max,
        # Of the machine, in half seconds of probing, as a part of what it was for the maximum.
        "speed": [found / full_speed for found in speed.between(began_s, ended_s)],
        "from_history": polled.from_history,
        # Of every event, by the worker's own histogram: from the record's time stamp to the count.
        "events_within_target": metric[str(TARGET_MS / 1e3)] / max(1.0, metric["+Inf"]),
        "buckets": metric,
        "processors": os.cpu_count(),
        "processor_share": shares,
    }


def _answers(port: int) -> bool:
    try:
        return bool(urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5).status)
    except OSError:
        return False


def _spent(bench: Bench, processes: dict[str, Process]) -> dict[str, float]:
    return {
        **{name: process.cpu_s() for name, process in processes.items()},
        **bench.cpu_s(),
        "probing": time.process_time(),
    }


def _busy_s() -> float:
    """Seconds that all processors together have worked so far, for anybody; 0 without /proc."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    except OSError:
        return 0.0
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields)
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _visible(port: int) -> dict[str, float]:
    """Bucket (its bound, in s) -> live events up to it, as the worker's metric has them."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found = re.findall(r'visible_seconds_bucket\{le="(\S+?)",reading="live"\} (\S+)', text)
    return {bound: float(events) for bound, events in found}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.freshness", description=DESCRIPTION, epilog=DETAILS
    )
    parser.add_argument("--seconds", type=float, default=60, help="for how long probes are sent")
    parser.add_argument("--rate", type=float, help="events a second; default: half the maximum")
    parser.add_argument("--events", type=int, default=100_000, help="that find the maximum")
    parser.add_argument("--customers", type=int, default=20_000)
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--services", choices=KINDS, default="wheels")
    parser.add_argument("--json", action="store_true", help="print one JSON object and no text")
    options = parser.parse_args()
    with servers(options.services, topic_partitions=options.partitions) as bench:
        asyncio.run(produce(bench.settings, options.events, options.customers))
        found = measure(bench, options)
    if options.json:
        print(json.dumps(found))
        return
    print(f"maximum {found['maximum_s']:.0f} events/s; offered {found['offered_s']:.0f},", end=" ")
    print(f"counted {found['counted_s']:.0f} events/s; lag at most {found['lag_max']} events")
    print(
        f"acknowledged to visible, {found['probes']} probes: p50 {found['p50_ms']:.0f} ms, "
        f"p99 {found['p99_ms']:.0f} ms, max {found['max_ms']:.0f} ms (target: p99 {TARGET_MS} ms)"
    )
    print(f"{found['polls']} questions, {found['from_history']} of them answered by history")
    print(f"of all events {found['events_within_target']:.2%} counted within {TARGET_MS} ms")
    speed = found["speed"]
    print(
        f"the machine's speed while probing, as a part of that at the maximum: slowest half second "
        f"{speed[0]:.0%}, median {statistics.median(speed):.0%}, fastest {speed[-1]:.0%}"
    )
    shares = ", ".join(f"{name} {s:.0%}" for name, s in found["processor_share"].items())
    total = sum(found["processor_share"].values())
    print(f"processors: {shares}; in all {total:.0%} of {found['processors']}00%")


if __name__ == "__main__":
    main()
