"""Measure how soon an event is visible: from Kafka's acknowledgement to the API's answer.

    python -m bench.freshness [--seconds 60] [--rate R] [--json]

First the worker counts a full topic; its rate there is the maximum. Then `bench.paced`, in a
process of its own, sends half of that rate (or `--rate`), while probes are sent one at a time. A
probe's time runs from Kafka's acknowledgement until an answer of the API contains it. Worker, API,
broker, Valkey and PostgreSQL are the processes that users run.

These processes, the load and the probing share the machine's processors, so the share of each is
printed ("others": everything else on the machine). If the shares add up to all processors, the
machine is the limit, and the figures are better with the load on another machine.

The speed of a shared machine varies. So a fixed amount of work is timed during the whole run, and
its speed while probing is printed relative to its speed while the maximum was measured.
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
#: The cheapest query: a commit changes all groupings at once, and there are few channels.
QUERY = "/api/v1/interaction-summary?groupBy=channel&days=1"
POLL_S = 0.004
PAUSE_S_MAX = 0.1  # between probes, random: a probe may arrive at any moment of a batch
WARM_UP_S = 3.0
PROBE_S_MAX = 30.0
TARGET_MS = 250


class Polled(NamedTuple):
    """Result of the probing."""

    probes_ms: list[float]
    """Time from acknowledged to visible of each probe, in ascending order."""
    polls: int
    lag_max: int
    """Highest lag in events that an answer reported."""
    from_history: int
    """Answers from history: the counters took longer than the budget of a read."""


class Speed:
    """Speed of the machine: the processor time of a fixed amount of work, sampled all the time.

    Time spent waiting for a processor is not included.
    """

    EVERY_S = 0.03

    def __init__(self) -> None:
        self._samples: list[tuple[float, float]] = []  # monotonic time, processor time; both in s
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            began_s = time.thread_time()
            sum(range(20_000))
            self._samples.append((time.monotonic(), time.thread_time() - began_s))
            time.sleep(self.EVERY_S)

    def between(self, began_s: float, ended_s: float) -> list[float]:
        """Return the work units per second of each half second, in ascending order."""
        halves: dict[int, list[float]] = defaultdict(list)
        for at_s, took_s in self._samples:
            if began_s <= at_s < ended_s:
                halves[int((at_s - began_s) * 2)].append(took_s)
        return sorted(len(took) / sum(took) for took in halves.values())


class Prober:
    """Client that sends probes to Kafka and polls the API for them."""

    def __init__(self, bench: Bench, port: int) -> None:
        self._topic = bench.settings.interactions_topic
        self._brokers = bench.settings.brokers
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        self.lag = self.from_history = 0

    def visible(self) -> int:
        """Return how many probes the API's answer contains now."""
        self._connection.request("GET", QUERY, headers={"X-Tenant-Id": TENANT})
        answer = self._connection.getresponse()
        body = json.loads(answer.read())
        if answer.status != 200:
            raise SystemExit(f"the API answered {answer.status}: {body}")
        self.from_history += answer.headers["X-Summary-Source"] == "history"
        self.lag = int(answer.headers.get("X-Summary-Lag") or 0)
        return sum(int(row["total"]) for row in body["summary"] if row["id"] == PROBE)

    async def run(self, seconds: float, is_over: Callable[[], bool] = lambda: False) -> Polled:
        """Send one probe after another for `seconds`, each after the one before is visible.

        Ends before that when `is_over` returns True.
        """
        random = Random(1)
        waits_ms: list[float] = []
        polls = lag_max = 0
        producer = AIOKafkaProducer(bootstrap_servers=self._brokers, acks="all", linger_ms=0)
        await producer.start()
        try:
            end_s = time.monotonic() + seconds
            for number in itertools.count(self.visible() + 1):
                if time.monotonic() > end_s or is_over():
                    break
                key = f"P-{random.randrange(1_000)}"  # spreads the probes over all partitions
                await producer.send_and_wait(self._topic, _probe(key), key=key.encode())
                acknowledged_s = time.monotonic()
                while self.visible() < number:
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
    """Return the events per second that the worker counts of `n` events already in the topic.

    Returns when history has stored all of them too.
    """
    meter = Meter(counted, n)
    wait_until(lambda: counted() > 0, worker, 60.0, "the first event")
    wait_until(meter.done, worker, 900.0, "all events counted")
    wait_until(lambda: stored() >= n, worker, 900.0, "all events in history")
    return meter.rate_s


def measure(bench: Bench, options: argparse.Namespace) -> dict[str, Any]:
    """Measure the maximum, then probe under the load; return all figures by name."""
    client = redis.Redis.from_url(bench.settings.redis_url)
    meta = Keys(bench.settings.redis_prefix).meta(TENANT, 1)
    ports = free_port(), free_port()
    env = dict(bench.env) | {"AUTH_MODE": "open", "WORKER_METRICS_PORT": str(ports[0])}

    def counted() -> int:
        fields: dict[bytes, bytes] = client.hgetall(meta)  # type: ignore[assignment]
        return sum(int(value) for name, value in fields.items() if name.startswith(b"w:"))

    with (
        psycopg.connect(bench.settings.database_url, autocommit=True) as connection,
        Process(["cli.main", "worker"], env, bench.folder / "worker.log") as worker,
    ):

        def stored() -> int:
            query = "SELECT coalesce(sum(next_offset), 0)::bigint FROM history_watermarks"
            return int(connection.execute(query).fetchone()[0])  # type: ignore[index]

        speed, started_s = Speed(), time.monotonic()
        maximum_s = maximum(counted, stored, worker, options.events)
        full_speed = statistics.median(speed.between(started_s, time.monotonic()))
        rate_s = options.rate or maximum_s / 2
        api_arguments = ["cli.main", "api", "--port", str(ports[1])]
        load_arguments = ["bench.paced", str(rate_s), str(options.customers)]
        with (
            Process(api_arguments, env, bench.folder / "api.log") as api,
            Process(load_arguments, env, bench.folder / "load.log") as load,
        ):
            wait_until(lambda: answers(ports[1]), api, 30.0, "the API")
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
        "maximum_s": maximum_s,
        "offered_s": rate_s,
        "counted_s": events_s,
        "probes": len(waits_ms),
        "polls": polled.polls,
        "p50_ms": waits_ms[len(waits_ms) // 2],
        "p99_ms": waits_ms[len(waits_ms) * 99 // 100],
        "max_ms": waits_ms[-1],
        "lag_max": polled.lag_max,
        # Of the machine, per half second of probing, relative to its median for the maximum.
        "speed": [speed_s / full_speed for speed_s in speed.between(began_s, ended_s)],
        "from_history": polled.from_history,
        # Of all events, by the worker's histogram: from the record's timestamp to the commit.
        "events_within_target": metric[str(TARGET_MS / 1e3)] / max(1.0, metric["+Inf"]),
        "buckets": metric,
        "processors": os.cpu_count(),
        "processor_share": shares,
    }


def answers(port: int) -> bool:
    """Return whether the API on the port is ready."""
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
    """Return the seconds that all processors together were busy since boot; 0 without /proc."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    except OSError:
        return 0.0
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields)
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _visible(port: int) -> dict[str, float]:
    """Return the buckets of the worker's metric: upper bound in s -> live events up to it."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found = re.findall(r'visible_seconds_bucket\{le="(\S+?)",reading="live"\} (\S+)', text)
    return {bound: float(events) for bound, events in found}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.freshness", description=DESCRIPTION, epilog=DETAILS
    )
    parser.add_argument("--seconds", type=float, default=60, help="duration of the probing")
    parser.add_argument(
        "--rate", type=float, help="load in events per second; default: half the maximum"
    )
    parser.add_argument(
        "--events", type=int, default=100_000, help="events that measure the maximum"
    )
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
    print(f"{found['polls']} queries, {found['from_history']} of them answered from history")
    print(f"of all events, {found['events_within_target']:.2%} counted within {TARGET_MS} ms")
    speed = found["speed"]
    print(
        f"machine speed while probing, relative to the maximum's: slowest half second "
        f"{speed[0]:.0%}, median {statistics.median(speed):.0%}, fastest {speed[-1]:.0%}"
    )
    shares = ", ".join(f"{name} {s:.0%}" for name, s in found["processor_share"].items())
    total = sum(found["processor_share"].values())
    print(f"processors: {shares}; total {total:.0%} of {found['processors']}00%")


if __name__ == "__main__":
    main()
