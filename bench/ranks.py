"""Measure what ranks of customers cost: processor time and memory of Redis, with all and with none.

    python -m bench.ranks [--events 200000] [--customers 78500] [--redis-server PROGRAM]

Two servers with append-only files count the same events, in turns of 10,000: in commits of 200,
whose actions, treatments and channels are folded every 5,000 events, as a worker does after a
backlog. One ranks customers in all periods, the other one in none. Then the second one builds all
ranks.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import redis

from bench.cpu_time import cpu_s
from bench.servers import TENANT, counters_only
from store.counters import Committed, Generation
from store.records import Event, SourcedEvent
from store.redis.client import make_client
from store.redis.counters import RedisCounters
from store.settings import Settings
from store.windows import DAY_MS, Calendar
from streams.aggregate import aggregate
from streams.customer_ranks import BUILD_CUSTOMERS
from streams.folds import PENDING_EVENTS_MAX

DESCRIPTION, _, DETAILS = (__doc__ or "").partition("\n")
TOPIC_ID = "00000000-0000-0000-0000-000000000001"
COMMIT, TURN, LATE = 200, 10_000, 0.1
UTC = Calendar("UTC")


def make_events(n: int, customers: int, now_ms: int, *, seed: int = 1) -> list[SourcedEvent]:
    """Return `n` events of 200 actions, 600 treatments and 6 channels, a tenth of them late."""
    rng = random.Random(seed)
    found = []
    for offset in range(n):
        action = rng.randrange(200)
        late_ms = rng.randrange(30 * DAY_MS) if rng.random() < LATE else 0
        event = Event(
            event_id=rng.randbytes(16),
            tenant=TENANT,
            customer=f"C-{rng.randrange(customers):07d}",
            offer=f"off_{action:03d}",
            creative=f"cr_{action:03d}_{rng.randrange(3)}",
            channel=f"ch_{rng.randrange(6)}",
            outcome=rng.choice(("impression", "impression", "click", "dismiss")),
            occurred_ms=now_ms - late_ms,
            interaction_id=None,
            direction=None,
            campaign=None,
            recommendation=None,
            conversion_value=None,
            context=None,
        )
        found.append(SourcedEvent(event, offset, now_ms))
    return found


class Server:
    """Counters on one server, and what it has spent on them."""

    def __init__(self, url: str, *, all_ranks: bool) -> None:
        self.info = redis.Redis.from_url(url)
        self.info.config_set("appendonly", "yes")
        self.client: Any = make_client(Settings(redis_url=url), timeout_s=60, retries=0)
        self.counters = RedisCounters(self.client, "is", all_ranks=all_ranks)
        self.pid = int(self.info.info("server")["process_id"])
        self.spent_s = 0.0
        self.generation: Generation
        self._next: int | None = None

    async def start(self, now_ms: int) -> None:
        self.generation = await self.counters.create(
            TENANT, day=UTC.day_of(now_ms), timezone="UTC", complete=True, watermarks=()
        )

    async def count(self, events: Sequence[SourcedEvent]) -> None:
        """Commit the events that follow, and fold what is pending."""
        began_s = cpu_s(self.pid)
        for first in range(0, len(events), COMMIT):
            batch = events[first : first + COMMIT]
            end = batch[-1].offset + 1
            answer = await self.counters.commit(
                self.generation,
                topic_id=TOPIC_ID,
                partition=0,
                expected_offset=self._next,
                next_offset=end,
                deltas=aggregate(batch, UTC),
                keep_pending=True,
            )
            assert isinstance(answer, Committed), answer
            self._next, pending = end, answer.pending
            while pending >= PENDING_EVENTS_MAX or (pending and end == events[-1].offset + 1):
                pending = (await self.counters.fold(self.generation)).pending
        self.spent_s += cpu_s(self.pid) - began_s

    async def build(self) -> list[float]:
        """Build all ranks; return how long Redis took for each step, in ms."""
        took_ms = []
        while True:
            self.info.config_resetstat()
            step = await self.counters.ranks.build(
                self.generation, ("daily", "weekly", "monthly"), customers_max=BUILD_CUSTOMERS
            )
            assert step is not None
            stats: Any = self.info.info("commandstats")
            took_ms.append(stats["cmdstat_evalsha"]["usec"] / 1e3)
            if not step.left:
                return took_ms

    def memory(self) -> int:
        return int(self.info.info("memory")["used_memory"])


async def measure(urls: Sequence[str], options: argparse.Namespace) -> None:
    now_ms = time.time_ns() // 1_000_000
    servers = [Server(url, all_ranks=i == 0) for i, url in enumerate(urls)]
    events = make_events(options.events, options.customers, now_ms)
    empty = [server.memory() for server in servers]
    for server in servers:
        await server.start(now_ms)
    for turn, first in enumerate(range(0, len(events), TURN)):
        for server in servers if turn % 2 else reversed(servers):
            await server.count(events[first : first + TURN])
    customers = len({each.event.customer for each in events})
    print(f"{len(events):,} events of {customers:,} customers")
    us = [server.spent_s / len(events) * 1e6 for server in servers]
    used = [server.memory() - before for server, before in zip(servers, empty, strict=True)]
    print(f"µs of Redis per event: {us[0]:.1f} with all ranks, {us[1]:.1f} without: ", end="")
    print(f"{us[1] / us[0]:.2f}")
    print(f"MB: {used[0] / 1e6:.1f} with all ranks, {used[1] / 1e6:.1f} without")
    print(f"bytes per customer that the ranks take: {(used[0] - used[1]) / customers:.0f}")
    began_s = time.monotonic()
    took_ms = sorted(await servers[1].build())
    print(
        f"build of all ranks: {len(took_ms)} steps of {BUILD_CUSTOMERS}, ms of Redis: median "
        f"{took_ms[len(took_ms) // 2]:.1f}, p99 {took_ms[len(took_ms) * 99 // 100]:.1f}, max "
        f"{took_ms[-1]:.1f}; together {sum(took_ms) / 1e3:.2f} s, with pauses of this bench "
        f"{time.monotonic() - began_s:.1f} s"
    )
    for server in servers:
        await server.client.aclose()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.ranks", description=DESCRIPTION, epilog=DETAILS
    )
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--customers", type=int, default=78_500, help="of whom events are made")
    parser.add_argument(
        "--redis-server", type=Path, help="program to start instead of the wheel's Valkey"
    )
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        urls = [stack.enter_context(counters_only(options.redis_server)) for _ in range(2)]
        asyncio.run(measure(urls, options))


if __name__ == "__main__":
    main()
