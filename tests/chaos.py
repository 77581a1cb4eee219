"""Command of the chaos run: `python -m tests.chaos --seed 7`, on servers that it starts.

See tests/support/chaos.py for what a run does.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import logging
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psycopg

from store.postgres.migrate import migrate
from store.settings import Settings
from tests.support.chaos import ChaosRun
from tests.support.chaos_cluster import ClusterFaults, ClusterService, chaos_cluster
from tests.support.chaos_stream import Plan
from tests.support.redis_cluster import CliCluster
from tests.support.resources import make_settings, make_topics
from tests.support.services.base import Services
from tests.support.services.start import start_services

#: Settings of a topic that takes µs and ns as timestamps, as brokers before 3.6 do. By default a
#: broker refuses what is more than an hour ahead.
ANY_TIMESTAMP: Final = {"message.timestamp.after.max.ms": str(2**63 - 1)}


def main() -> None:
    """Run the seeds of the command line on servers of this process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds, from --seed on")
    parser.add_argument("--events", type=int, default=300_000)
    parser.add_argument("--rate", type=float, default=4_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--services", default="real", choices=("wheels", "docker", "real"))
    parser.add_argument(
        "--cluster",
        action="store_true",
        help="counters in a Redis cluster of 3 + 3",
    )
    options = parser.parse_args()
    logging.getLogger("aiokafka").setLevel(
        logging.CRITICAL
    )  # thousands of lines while the broker is unavailable
    with start_services(options.services) as services, _cluster(options.cluster) as cluster:
        for seed in range(options.seed, options.seed + options.seeds):
            plan = Plan(seed, events=options.events, rate=options.rate, kills=options.kills)
            if options.services == "wheels":
                plan = dataclasses.replace(plan, restart=("redis", "postgres"))
            started_s = time.monotonic()
            asyncio.run(_run(plan, services, cluster))
            _say(f"seed {seed}: exact, in {time.monotonic() - started_s:.0f} s")


@contextmanager
def _cluster(wanted: bool) -> Iterator[CliCluster | None]:
    if not wanted:
        yield None
        return
    with (
        tempfile.TemporaryDirectory(prefix="chaos-cluster-") as folder,
        chaos_cluster(Path(folder)) as cluster,
    ):
        yield cluster


async def _run(plan: Plan, services: Services, cluster: CliCluster | None) -> None:
    settings = await asyncio.to_thread(_settings_of, services, plan.seed)
    if cluster is None:
        await ChaosRun(plan, services, settings, _say).run()
        return
    redis = ClusterService(cluster)
    settings = settings.model_copy(update={"redis_url": redis.url, "redis_cluster": True})
    faults = ClusterFaults(cluster, plan.seed)
    more = [("reshard", faults.reshard)] * 3 + [("failover", faults.fail_over)] * 2
    plan = dataclasses.replace(plan, restart=("kafka", "postgres"))
    await ChaosRun(plan, services._replace(redis=redis), settings, _say, more).run()


def _settings_of(services: Services, seed: int) -> Settings:
    """Create a database and topics for this seed, and return settings with them."""
    name = f"chaos_{seed}"
    with psycopg.connect(services.postgres.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    head, _, _ = services.postgres.url.rpartition("/")
    asyncio.run(migrate(f"{head}/{name}"))
    topics = make_topics(services.kafka.bootstrap, ANY_TIMESTAMP)
    return make_settings(services.kafka.bootstrap, services.redis.url, f"{head}/{name}", topics)


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
