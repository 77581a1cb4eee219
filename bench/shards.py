"""Measure a tenant with several shards on a Redis cluster of three nodes, with three workers.

    python -m bench.shards [--shards 1,4,16] [--events 100000] [--services real] [--json]

For each number of shards, on empty servers (the cluster is of Valkey from a wheel): three workers
count the events of one tenant. Printed are the processor time of each node per event of the tenant
and per event of its own shards, that of each worker, and the median time of two questions.

The tenant has a name with which its shards are spread evenly. No shard does another's work if nodes
with as many shards take the same time per event of their own. A node with more of them takes less,
because commits of its shards arrive together.

Each number runs on servers of its own, one after another, so compare ratios of one run only.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from redis import RedisCluster
from redis.crc import key_slot

from bench.cpu_time import cpu_s
from bench.ingest import Meter
from bench.servers import KINDS, TENANT, Bench, Process, servers, wait_until
from bench.tenants import counted
from cli.traffic.synthetic import Traffic
from store.records import CounterPage, Question
from store.redis.counters import open_counters
from store.redis.keys import Keys
from store.settings import Settings
from store.shards import Layout
from store.windows import DAY_MS, window_of
from streams.kafka.sender import Sender
from tests.support.redis_cluster import SLOTS, ClusterNode, redis_cluster

DESCRIPTION, _, DETAILS = (__doc__ or "").partition("\n")
NODES: Final = 3
WORKERS: Final = 3
PARTITIONS: Final = 6
CUSTOMERS: Final = 20_000
READS: Final = 200
DEADLINE_S: Final = 900.0


class Measured(NamedTuple):
    """Result for one number of shards."""

    shards: int
    on_nodes: list[int]
    """Shards of each node."""
    events_s: float
    nodes_us: list[float]
    """Processor time of each node per event of the tenant."""
    nodes_own_us: list[float]
    """Processor time of each node per event of its own shards; 0 for a node without any."""
    workers_us: list[float]
    """Processor time of each worker per event of the tenant."""
    reads_ms: dict[str, float]
    """Median time of each question."""


def measure(kind: str, shards: int, events: int) -> Measured:
    """Measure one number of shards on servers of its own. Raises SystemExit on a timeout."""
    today = time.time_ns() // 1_000_000 // DAY_MS
    with _cluster() as nodes:
        changes: dict[str, Any] = {
            "redis_url": nodes[0].url,
            "redis_cluster": True,
            "topic_partitions": PARTITIONS,
        }
        with servers(kind, **changes) as bench:
            tenant = _even_tenant(bench.settings, shards)
            layout = asyncio.run(_create(bench.settings, tenant, today, shards))
            own = asyncio.run(_produce(bench.settings, layout, events))
            events_s, nodes_s, workers_s = _count(bench, nodes, events)
            reads_ms = asyncio.run(_read(bench.settings, tenant, today))
    on_nodes, own_events = [0] * NODES, [0] * NODES
    for name in layout.names:
        node = _node_of(bench.settings, name)
        on_nodes[node] += 1
        own_events[node] += own[name]
    return Measured(
        shards,
        on_nodes,
        events_s,
        [s / events * 1e6 for s in nodes_s],
        [s / n * 1e6 if n else 0.0 for s, n in zip(nodes_s, own_events, strict=True)],
        [s / events * 1e6 for s in workers_s],
        reads_ms,
    )


@contextmanager
def _cluster() -> Iterator[list[ClusterNode]]:
    with (
        tempfile.TemporaryDirectory(prefix="interaction-summary-bench-") as folder,
        redis_cluster(Path(folder), NODES) as nodes,
    ):
        yield nodes


def _node_of(settings: Settings, name: str) -> int:
    """Return the index of the node that has a shard."""
    slot = key_slot(Keys(settings.redis_prefix).active(name).encode())
    return next(node for node in range(NODES) if slot < SLOTS * (node + 1) // NODES)


def _even_tenant(settings: Settings, shards: int) -> str:
    """Return the first of some names whose shards are spread over the nodes as evenly as can be."""

    def most_and_fewest(tenant: str) -> tuple[int, int]:
        nodes = Counter(_node_of(settings, name) for name in Layout(tenant, 1, shards).names)
        on_nodes = [nodes[node] for node in range(NODES)]
        return max(on_nodes), -min(on_nodes)

    return min((f"{TENANT}-{n}" for n in range(1_000)), key=most_and_fewest)


async def _create(settings: Settings, tenant: str, today: int, shards: int) -> Layout:
    """Create the counters of the tenant, with this number of shards."""
    async with open_counters(settings) as counters:
        generation = await counters.create(
            tenant, day=today, timezone="UTC", complete=True, watermarks=[], shards=shards
        )
    return Layout(tenant, generation.number, shards)


async def _produce(settings: Settings, layout: Layout, events: int) -> Counter[str]:
    """Fill the topic; return the number of events of each shard, by its name."""
    traffic = Traffic(seed=1, customers=CUSTOMERS, tenants=(layout.tenant,))
    now_ms = time.time_ns() // 1_000_000
    own: Counter[str] = Counter()
    async with Sender(settings, settings.interactions_topic) as sender:
        for _ in range(events):
            record = traffic.record(now_ms)
            own[layout.name_of(record.key.decode())] += 1
            await sender.send(record.key, record.value)
    return own


def _count(
    bench: Bench, nodes: Sequence[ClusterNode], events: int
) -> tuple[float, list[float], list[float]]:
    """Count all events; return events per second, and the seconds of each node and worker."""
    client = RedisCluster.from_url(nodes[0].url)
    count = partial(counted, bench, client)
    meter = Meter(count, events)

    def spent(workers: Sequence[Process]) -> tuple[list[float], list[float]]:
        return [cpu_s(node.pid) for node in nodes], [worker.cpu_s() for worker in workers]

    with ExitStack() as stack:
        stack.callback(client.close)
        workers = [stack.enter_context(_worker(bench, number)) for number in range(WORKERS)]

        def wait(done: Callable[[], bool], description: str) -> None:
            wait_until(done, workers[0], DEADLINE_S, description)
            for worker in workers:
                worker.check()

        wait(lambda: count() > 0, "the first event counted")
        began, missing = spent(workers), events - count()
        wait(meter.done, "all events counted")
        ended = spent(workers)
    share = events / missing  # the first events were counted before the clocks were read
    nodes_s, workers_s = (
        [(end - begin) * share for begin, end in zip(*pair, strict=True)]
        for pair in zip(began, ended, strict=True)
    )
    return meter.rate_s, nodes_s, workers_s


def _worker(bench: Bench, number: int) -> Process:
    env = {**bench.env, "WORKER_METRICS_PORT": "0"}
    return Process(["cli.main", "worker"], env, bench.folder / f"worker-{number}.log")


async def _read(settings: Settings, tenant: str, today: int) -> dict[str, float]:
    """Return the median time of each question, in ms; each is asked READS times."""
    questions = {
        "actions": Question(
            tenant, "action", "monthly", window_of("monthly", today), today, "UTC", 100, 0
        ),
        "customers": Question(
            tenant, "customer", "alltime", window_of("alltime", today), today, "UTC", 100, 0
        ),
    }
    medians = {}
    async with open_counters(settings) as counters:
        for name, question in questions.items():
            times = []
            for _ in range(READS):
                began_s = time.perf_counter()
                page = await counters.read(question)
                times.append(time.perf_counter() - began_s)
                if not isinstance(page, CounterPage):
                    raise SystemExit(f"the counters do not answer for {name}: {page}")
            medians[name] = statistics.median(times) * 1e3
    return medians


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.shards", description=DESCRIPTION, epilog=DETAILS
    )
    parser.add_argument("--shards", default="1,4,16", help="numbers, with commas")
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--services", choices=KINDS, default="real")
    parser.add_argument("--json", action="store_true", help="print one JSON object and no table")
    options = parser.parse_args()
    found = []
    for shards in map(int, options.shards.split(",")):
        found.append(measure(options.services, shards, options.events))
        if not options.json:
            print(describe(found[-1]), flush=True)
    if options.json:
        print(json.dumps([each._asdict() for each in found]))


def describe(m: Measured) -> str:
    """Return one line about a result."""
    nodes, own, workers = (
        ", ".join(f"{us:.1f}" for us in each) for each in (m.nodes_us, m.nodes_own_us, m.workers_us)
    )
    reads = ", ".join(f"{name} {ms:.2f} ms" for name, ms in m.reads_ms.items())
    return (
        f"{m.shards:3} shards, on the nodes {m.on_nodes}: {m.events_s:,.0f} events/s; µs of each "
        f"node per event of the tenant: {nodes} (together {sum(m.nodes_us):.1f}), per event of its "
        f"own shards: {own}; µs of each worker: {workers}; reads, p50: {reads}"
    )


if __name__ == "__main__":
    main()
