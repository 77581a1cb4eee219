"""The commit script alone: how long it holds Redis, and what an event costs there and in Python.

    python -m bench.commit [--events 200000] [--slice 500] [--remembered 1000000] [--json]

Synthetic events of one tenant are committed as the worker commits them, slice by slice, with no
Kafka and no history, beside identities that are remembered of the days before.
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

from bench.servers import TENANT, counters_only, cpu_s
from cli.traffic.synthetic import Traffic
from store.counters import Committed, Deltas, Generation
from store.records import Event, SourcedEvent
from store.redis.client import make_client
from store.redis.counters import SLOT_MS, RedisCounters
from store.settings import Settings
from store.windows import Calendar
from streams.aggregate import aggregate
from streams.decode.decoder import Decoder

DESCRIPTION, _, DETAILS = (__doc__ or "").partition("\n")
LOG = "00000000-0000-0000-0000-000000000001"
LOGGED_US = 500
"""Shorter than any script of a whole slice, longer than what a script calls."""


def synthetic(events: int, customers: int, now_ms: int) -> list[SourcedEvent]:
    traffic = Traffic(seed=1, customers=customers, tenants=(TENANT,))
    decode = Decoder(future_tolerance_s=300, event_bytes_max=1_000_000).decode
    made = []
    for offset in range(events):
        event = decode(traffic.record(now_ms).value, now_ms)
        assert isinstance(event, Event)
        made.append(SourcedEvent(event, offset, now_ms))
    return made


class Committer:
    """Commits deltas one after the other, as the only worker of one partition does."""

    def __init__(self, counters: RedisCounters, generation: Generation) -> None:
        self._counters, self.generation = counters, generation
        self._next = 0

    async def __call__(self, deltas: Deltas, events: int) -> None:
        answer = await self._counters.commit(
            self.generation,
            topic_id=LOG,
            partition=0,
            expected_offset=self._next,
            next_offset=self._next + events,
            deltas=deltas,
        )
        assert isinstance(answer, Committed), answer
        self._next += events


async def remember(commit: Committer, slot: int, identities: int) -> None:
    """Random identities in one slot, and nothing else."""
    random = Random(slot)
    for first in range(0, identities, 5_000):
        n = min(5_000, identities - first)
        await commit(Deltas(identities=[slot, random.randbytes(8 * n)]), n)


async def measure(url: str, options: argparse.Namespace) -> dict[str, float]:
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
    # Watermarks begin with the first commit.
    commit._next = 0
    answer = await counters.commit(
        commit.generation,
        topic_id=LOG,
        partition=0,
        expected_offset=None,
        next_offset=0,
        deltas=Deltas(),
    )
    assert isinstance(answer, Committed)
    slot = now_ms // SLOT_MS
    for before in range(3 if options.remembered else 0):
        await remember(commit, slot - before, options.remembered)
    events = synthetic(options.events, options.customers, now_ms)
    warm = len(events) // 2  # first half: the groups come into being; second half is measured
    cuts = range(0, len(events), options.slice)
    aggregated_s = 0.0
    began_cpu_s = 0.0
    for first in cuts:
        if first <= warm < first + options.slice:
            info.config_resetstat()
            info.slowlog_reset()
            # Redis also logs what a script calls, and logging all of that doubles its time.
            info.config_set("slowlog-log-slower-than", LOGGED_US)
            info.config_set("slowlog-max-len", 100_000)
            began_cpu_s, aggregated_s, began = cpu_s(pid), 0.0, first
        part: Sequence[SourcedEvent] = events[first : first + options.slice]
        began_s = time.thread_time()
        deltas = aggregate(part, calendar)
        aggregated_s += time.thread_time() - began_s
        await commit(deltas, len(part))
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
        # What others on the machine take away shows in the rest, hardly in the quickest tenth.
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
        "--remembered", type=int, default=1_000_000, help="identities of each of three days"
    )
    parser.add_argument("--redis-server", type=Path, help="this one, and not Valkey of the wheel")
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
