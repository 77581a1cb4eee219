"""Command of the chaos run: `python -m tests.chaos --seed 7`, on servers that it starts.

See tests/support/chaos.py for what a run does.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import logging
import time
from typing import Final

import psycopg

from store.postgres.migrate import migrate
from store.settings import Settings
from tests.support.chaos import ChaosRun
from tests.support.chaos_stream import Plan
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
    options = parser.parse_args()
    logging.getLogger("aiokafka").setLevel(
        logging.CRITICAL
    )  # thousands of lines while the broker is unavailable
    with start_services(options.services) as services:
        for seed in range(options.seed, options.seed + options.seeds):
            plan = Plan(seed, events=options.events, rate=options.rate, kills=options.kills)
            if options.services == "wheels":
                plan = dataclasses.replace(plan, restart=("redis", "postgres"))
            started_s = time.monotonic()
            asyncio.run(ChaosRun(plan, services, _settings_of(services, seed), _say).run())
            _say(f"seed {seed}: exact, in {time.monotonic() - started_s:.0f} s")


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
