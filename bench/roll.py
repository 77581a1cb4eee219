"""Measure the daily roll beside commits: how long it blocks Redis, how long commits wait.

    python -m bench.roll [--customers 1000000] [--offers 10] [--json]

Every customer was active on each of the last 30 days, so the roll changes the windows of all of
them. Commits of COMMIT_BATCH_EVENTS events run before and during the roll, one at a time on each of
two partitions, and take the new day when the store refuses them, as a worker does.

A script may be long because of other load on the machine. So a control script that only counts, for
COUNTING_MS, runs between the roll's scripts: the time above COUNTING_MS is the machine's.
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

from bench.memory import TODAY, TOPIC_ID, Profile, filler, profiles
from bench.servers import TENANT, counters_only
from store.counters import Committed, Deltas, Generation, Refused, Rolled
from store.redis.client import Script, make_client
from store.redis.counters import RedisCounters
from store.settings import Settings
from store.windows import DAY_MS
from streams.rollover import ROLL_RECORDS

DESCRIPTION, _, DETAILS = (__doc__ or "").partition("\n")
PARTITIONS = 2
BEFORE_S = 5.0
"""Duration of the commits without a roll, for comparison."""
LOGGED_US = 300
CONTROL_EVERY = 10
"""Scripts of the roll per control script."""
COUNTED = "n + i % 7"
COUNTING_MS = 4.0
COUNTING = "local n = 0 for i = 1, tonumber(ARGV[1]) do n = n + i % 7 end return n"
BATCHES = 400


def batches(customers: int, kinds: Sequence[Profile], events: int) -> list[Deltas]:
    """Return BATCHES deltas of `events` interactions each, on the day before the roll's target.

    They are made before the measurement, so that making them does not delay it. They have no
    identities, as each is sent more than once.
    """
    random = Random(3)
    made = []
    for _ in range(BATCHES):
        rows: list[Any] = []
        actions: dict[str, list[int]] = {}
        for n in sorted(random.sample(range(customers), events)):
            offer = f"off_{random.choice(kinds[n % len(kinds)].offers):03}"
            rows += (f"C-{n:07}", [TODAY, 0, 1], [offer, TODAY])
            actions.setdefault(offer, [TODAY, 0, 0])[2] += 1
        flat = [part for item in actions.items() for part in item]
        made.append(Deltas(("impression",), (), flat, (), (), rows))
    return made


class Committer:
    """Sequential commits of one partition, and how long each took."""

    def __init__(self, store: RedisCounters, generation: Generation, partition: int) -> None:
        self._store, self._generation, self._partition = store, generation, partition
        self._expected_offset: int | None = None
        self.waits_ms: list[float] = []

    async def run(self, deltas: Sequence[Deltas], until: asyncio.Event) -> None:
        """Commit in a loop until the event is set."""
        n = self._partition
        while not until.is_set():
            began_s = time.monotonic()
            await self._commit(deltas[n % len(deltas)])
            self.waits_ms.append((time.monotonic() - began_s) * 1e3)
            n += PARTITIONS

    async def _commit(self, deltas: Deltas) -> None:
        next_offset = (self._expected_offset or 0) + 1
        while True:
            answer = await self._store.commit(
                self._generation,
                topic_id=TOPIC_ID,
                partition=self._partition,
                expected_offset=self._expected_offset,
                next_offset=next_offset,
                deltas=deltas,
            )
            if isinstance(answer, Committed):
                self._expected_offset = next_offset
                return
            assert isinstance(answer, Refused) and answer.day is not None, answer
            self._generation = self._generation._replace(day=answer.day)


class SlowLog:
    """Durations of scripts, from the server's slow log."""

    def __init__(self, client: Any) -> None:
        self._client = client
        client.config_set("slowlog-log-slower-than", LOGGED_US)
        client.config_set("slowlog-max-len", 1_000_000)
        client.slowlog_reset()

    def durations_ms(self, text: str) -> list[float]:
        """Return the durations of the scripts whose command contains `text`, in ascending order."""
        entries = self._client.slowlog_get(1_000_000)
        return sorted(e["duration"] / 1e3 for e in entries if text.encode() in e["command"])


class Roller:
    """The daily roll of one generation, with control scripts between its scripts."""

    def __init__(self, store: RedisCounters, generation: Generation, client: Any) -> None:
        self._store, self._generation, self._client = store, generation, client
        self.turns = 50_000

    async def calibrate(self, slow_log: SlowLog) -> None:
        """Set the turns of the control script so that it takes COUNTING_MS on an idle machine."""
        for _ in range(50):
            await self.count()
        quick_ms = slow_log.durations_ms(COUNTED)[5]
        self.turns = int(self.turns * COUNTING_MS / quick_ms)

    async def count(self) -> None:
        """Run the control script once."""
        await self._client.eval(COUNTING, 0, self.turns)

    async def run(self, records_max: int) -> tuple[float, int]:
        """Roll to the next day in scripts of `records_max` records; return seconds and records."""
        began_s, records, calls = time.monotonic(), 0, 0
        while True:
            answer = await self._store.roll(
                self._generation,
                TODAY + 1,
                now_ms=(TODAY + 1) * DAY_MS,
                records_max=records_max,
            )
            assert isinstance(answer, Rolled)
            records += answer.records
            calls += 1
            if answer.finished:
                return time.monotonic() - began_s, records
            if calls % CONTROL_EVERY == 0:
                await self.count()


def spread(values_ms: Sequence[float]) -> dict[str, float]:
    """Return number, median, 99th percentile and maximum of the values."""
    if not values_ms:
        return {"n": 0}
    values = sorted(values_ms)
    return {
        "n": len(values),
        "p50_ms": round(statistics.median(values), 2),
        "p99_ms": round(values[len(values) * 99 // 100], 2),
        "max_ms": round(values[-1], 2),
    }


async def measure(url: str, options: argparse.Namespace) -> dict[str, Any]:
    """Fill the counters, then commit without and with a roll; return all figures by name."""
    settings = Settings(redis_url=url)
    client: Any = make_client(settings, timeout_s=60, retries=0)
    info = redis.Redis.from_url(url, socket_timeout=600)
    store = RedisCounters(client, settings.redis_prefix)
    kinds = profiles(options.offers)
    fill = await filler(store, TENANT, TODAY, "C-{:07}")
    await fill.days(options.customers, kinds, 0, 29, identities=True)
    roller = Roller(store, fill.generation, client)
    slow_log = SlowLog(info)
    await roller.calibrate(slow_log)
    deltas = batches(options.customers, kinds, options.slice)
    found: dict[str, Any] = {"customers": options.customers, "records_max": options.records}
    committers = [Committer(store, fill.generation, 1 + p) for p in range(PARTITIONS)]
    for phase in ("before", "during"):
        info.slowlog_reset()
        for committer in committers:
            committer.waits_ms = []
        done = asyncio.Event()
        committing = [asyncio.create_task(c.run(deltas, done)) for c in committers]
        if phase == "during":
            took_s, records = await roller.run(options.records)
            found |= {"roll_s": round(took_s, 1), "records": records}
        else:
            await asyncio.sleep(BEFORE_S)
        done.set()
        await asyncio.gather(*committing)
        waits = [wait for c in committers for wait in c.waits_ms]
        found[f"commit_waits_{phase}"] = spread(waits)
        found[f"commit_scripts_{phase}"] = spread(slow_log.durations_ms(Script("commit").sha))
    found["roll_scripts"] = spread(slow_log.durations_ms(Script("roll", include=["windows"]).sha))
    found["counting_scripts"] = spread(slow_log.durations_ms(COUNTED))
    await client.aclose()
    info.close()
    return found


def main() -> None:
    defaults = Settings()
    parser = argparse.ArgumentParser(
        prog="python -m bench.roll", description=DESCRIPTION, epilog=DETAILS
    )
    parser.add_argument("--customers", type=int, default=1_000_000)
    parser.add_argument("--offers", type=int, default=10, help="distinct offers of a customer")
    parser.add_argument(
        "--records", type=int, default=ROLL_RECORDS, help="records per script of the roll"
    )
    parser.add_argument(
        "--slice", type=int, default=defaults.commit_batch_events, help="events of one commit"
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
        line = "  ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
        print(f"{name:24} {line}")


if __name__ == "__main__":
    main()
