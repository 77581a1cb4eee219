"""Measure the commit script: how long it blocks Redis, and the cost per event there and in Python.

    python -m bench.commit [--events 200000] [--slice 500] [--remembered 1000000] [--json]

Synthetic events of one tenant are committed in batches of `--slice` events, as the worker commits
them, but without Kafka and without history. Before that, `--remembered` identities are stored for
each of three days.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import redis

from bench.cpu_time import cpu_s
from bench.servers import TENANT, counters_only
from cli.traffic.synthetic import Traffic
from store.counters import Committed, Deltas, Generation
from store.identity_owners import ENTRY_BYTES
from store.records import Event, SourcedEvent
from store.redis.client import make_client
from store.redis.counters import SLOT_MS, RedisCounters
from store.settings import Settings
from store.windows import Calendar
from streams.aggregate import aggregate
from streams.decode.decoder import Decoder

DESCRIPTION, _, DETAILS = (__doc__ or "").partition("\n")
TOPIC_ID = "00000000-0000-0000-0000-000000000001"
LOGGED_US = 500
"""Slow log threshold: shorter than the script of a full batch, longer than a command it calls."""


def synthetic(events: int, customers: int, now_ms: int) -> list[SourcedEvent]:
    """Return that many decoded events of one tenant, all recorded at `now_ms`."""
    traffic = Traffic(seed=1, customers=customers, tenants=(TENANT,))
    decode = Decoder(future_tolerance_s=300, event_bytes_max=1_000_000).decode
    made = []
    for offset in range(events):
        event = decode(traffic.record(now_ms).value, now_ms)
        assert isinstance(event, Event)
        made.append(SourcedEvent(event, offset, now_ms))
    return made


class Committer:
    """Sequential commits of one partition, as its only worker makes them."""

    def __init__(self, counters: RedisCounters, generation: Generation) -> None:
        self._counters, self.generation = counters, generation
        self._next: int | None = None

    async def start(self) -> None:
        """Commit nothing at offset 0: the partition has a watermark from its first commit on."""
        await self._commit(Deltas(), next_offset=0)

    async def __call__(self, deltas: Deltas, events: int) -> None:
        """Commit the deltas of the next `events` offsets."""
        await self._commit(deltas, next_offset=(self._next or 0) + events)

    async def _commit(self, deltas: Deltas, next_offset: int) -> None:
        answer = await self._counters.commit(
            self.generation,
            topic_id=TOPIC_ID,
            partition=0,
            expected_offset=self._next,
            next_offset=next_offset,
            deltas=deltas,
        )
        assert isinstance(answer, Committed), answer
        self._next = next_offset


async def remember(commit: Committer, slot: int, identities: int) -> None:
    """Commit random identities of one arrival slot, without any count."""
    random = Random(slot)
    for first in range(0, identities, 5_000):
        n = min(5_000, identities - first)
        await commit(Deltas(identities=[slot, random.randbytes(ENTRY_BYTES * n)]), n)


async def measure(url: str, options: argparse.Namespace) -> dict[str, float]:
    """Return the costs of the second half of the events, by name."""
    settings = Settings(redis_url=url)
    client: Any = make_client(settings, timeout_s=60, retries=0)
    counters = RedisCounters(client, settings.redis_prefix)
    info = redis.Redis.from_url(url)
    pid = int(info.info("server")["process_id"])
    now_ms = time.time_ns() // 1_000_000
    calendar = Calendar("UTC")
    commit = Committer(
        counters,
        await counters.create(
            TENANT, day=calendar.day_of(now_ms), timezone="UTC", complete=True, watermarks=()
        ),
    )
    await commit.start()
    slot = now_ms // SLOT_MS
    for before in range(3 if options.remembered else 0):
        await remember(commit, slot - before, options.remembered)
    events = synthetic(options.events, options.customers, now_ms)
    warm = len(events) // 2  # the first half creates the groups; the second half is measured
    aggregated_s = 0.0
    began_cpu_s = 0.0
    for first in range(0, len(events), options.slice):
        if first <= warm < first + options.slice:
            info.config_resetstat()
            info.slowlog_reset()
            # Redis also logs each command that a script calls; logging all doubles its time.
            info.config_set("slowlog-log-slower-than", LOGGED_US)
            info.config_set("slowlog-max-len", 100_000)
            began_cpu_s, aggregated_s, began = cpu_s(pid), 0.0, first
        batch: Sequence[SourcedEvent] = events[first : first + options.slice]
        began_s = time.thread_time()
        deltas = aggregate(batch, calendar)
        aggregated_s += time.thread_time() - began_s
        await commit(deltas, len(batch))
    measured = len(events) - began
    spent_s = cpu_s(pid) - began_cpu_s
    percentiles: Any = info.info("latencystats")
    stats: Any = info.info("commandstats")
    slow: Any = info.slowlog_get(100_000)
    durations = sorted(e["duration"] for e in slow if e["command"].startswith(b"EVALSHA"))
    await client.aclose()
    return {
        "script_us_per_event": stats["cmdstat_evalsha"]["usec"] / measured,
        "valkey_cpu_us_per_event": spent_s / measured * 1e6,
        "aggregate_us_per_event": aggregated_s / measured * 1e6,
        "script_ms_mean": stats["cmdstat_evalsha"]["usec_per_call"] / 1e3,
        # Other load on the machine raises the other percentiles, but hardly the lowest tenth.
        "script_ms_p10": durations[len(durations) // 10] / 1e3,
        "script_ms_median": statistics.median(durations) / 1e3,
        "script_ms_p99": percentiles["latency_percentiles_usec_evalsha"]["p99"] / 1e3,
        "script_ms_max": durations[-1] / 1e3,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.commit", description=DESCRIPTION, epilog=DETAILS
    )
    parser.add_argument("--events", type=int, default=200_000, help="the second half is measured")
    parser.add_argument("--customers", type=int, default=20_000)
    parser.add_argument("--slice", type=int, default=500, help="events of one commit")
    parser.add_argument(
        "--remembered",
        type=int,
        default=1_000_000,
        help="identities of each of three days, stored before the measurement",
    )
    parser.add_argument(
        "--redis-server", type=Path, help="program to start instead of the wheel's Valkey"
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with counters_only(options.redis_server) as url:
        found = asyncio.run(measure(url, options))
    if options.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name:26} {value:8.2f}")


if __name__ == "__main__":
    main()
