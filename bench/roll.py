"""The roll at midnight beside commits that go on: how long it holds Redis, how long commits wait.

    python -m bench.roll [--customers 1000000] [--offers 10] [--json]

Every customer was active on each of the last 30 days, so midnight changes the windows of all of
them. Commits of COMMIT_BATCH_EVENTS events go on before and during the roll, one after the other on
each of two partitions, and take the new day when they are refused, as a worker does.

A long script may be the machine's doing. So now and then, between the roll's own scripts, there is
one that only counts, for COUNTING_MS: what its longest is over that, the machine has taken.
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

from bench.memory import LOG, TODAY, Profile, filler, profiles
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
"""Commits alone, to compare with."""
LOGGED_US = 300
EVERY = 10
"""Scripts of the roll for each one that only counts."""
COUNTED = "n + i % 7"
COUNTING_MS = 4.0
COUNTING = "local n = 0 for i = 1, tonumber(ARGV[1]) do n = n + i % 7 end return n"
BATCHES = 400


def batches(customers: int, kinds: Sequence[Profile], events: int) -> list[Deltas]:
    """Deltas of the new day and of the old one, `events` interactions each; made beforehand, so
    that making them delays nothing that is measured. Without identities: each is sent again."""
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
    """The commits of one partition, one after the other, and how long each waited."""

    def __init__(self, store: RedisCounters, generation: Generation, partition: int) -> None:
        self._store, self._generation, self._partition = store, generation, partition
        self._believed: int | None = None
        self.waits_ms: list[float] = []

    async def go(self, deltas: Sequence[Deltas], until: asyncio.Event) -> None:
        n = self._partition
        while not until.is_set():
            began_s = time.monotonic()
            await self._commit(deltas[n % len(deltas)])
            self.waits_ms.append((time.monotonic() - began_s) * 1e3)
            n += PARTITIONS

    async def _commit(self, deltas: Deltas) -> None:
        next_offset = (self._believed or 0) + 1
        while True:
            answer = await self._store.commit(
                self._generation,
                topic_id=LOG,
                partition=self._partition,
                expected_offset=self._believed,
                next_offset=next_offset,
                deltas=deltas,
            )
            if isinstance(answer, Committed):
                self._believed = next_offset
                return
            assert isinstance(answer, Refused) and answer.day is not None, answer
            self._generation = self._generation._replace(day=answer.day)


class Log:
    """What the server's slow log says of scripts."""

    def __init__(self, client: Any) -> None:
        self._client = client
        client.config_set("slowlog-log-slower-than", LOGGED_US)
        client.config_set("slowlog-max-len", 1_000_000)
        client.slowlog_reset()

    def take_ms(self, of: str) -> list[float]:
        """Durations of the scripts whose command has `of` in it, in ascending order."""
        entries = self._client.slowlog_get(1_000_000)
        return sorted(e["duration"] / 1e3 for e in entries if of.encode() in e["command"])


class Roller:
    def __init__(self, store: RedisCounters, generation: Generation, client: Any) -> None:
        self._store, self._generation, self._client = store, generation, client
        self.turns = 50_000

    async def calibrate(self, topic_id: Log) -> None:
        """Makes the script that only counts take COUNTING_MS when nothing comes between."""
        for _ in range(50):
            await self.count()
        quick_ms = topic_id.take_ms(COUNTED)[5]
        self.turns = int(self.turns * COUNTING_MS / quick_ms)

    async def count(self) -> None:
        await self._client.eval(COUNTING, 0, self.turns)

    async def go(self, records_max: int) -> tuple[float, int]:
        """Seconds and records."""
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
            if calls % EVERY == 0:
                await self.count()


def spread(values_ms: Sequence[float]) -> dict[str, float]:
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
    settings = Settings(redis_url=url)
    client: Any = make_client(settings, timeout_s=60, retries=0)
    info = redis.Redis.from_url(url, socket_timeout=600)
    store = RedisCounters(client, settings.redis_prefix)
    kinds = profiles(options.offers)
    fill = await filler(store, TENANT, TODAY, "C-{:07}")
    await fill.days(options.customers, kinds, 0, 29, identities=True)
    roller = Roller(store, fill.generation, client)
    topic_id = Log(info)
    await roller.calibrate(topic_id)
    deltas = batches(options.customers, kinds, options.slice)
    found: dict[str, Any] = {"customers": options.customers, "records_max": options.records}
    committers = [Committer(store, fill.generation, 1 + p) for p in range(PARTITIONS)]
    for phase in ("before", "during"):
        info.slowlog_reset()
        for committer in committers:
            committer.waits_ms = []
        done = asyncio.Event()
        going = [asyncio.create_task(c.go(deltas, done)) for c in committers]
        if phase == "during":
            took_s, records = await roller.go(options.records)
            found |= {"roll_s": round(took_s, 1), "records": records}
        else:
            await asyncio.sleep(BEFORE_S)
        done.set()
        await asyncio.gather(*going)
        waits = [wait for c in committers for wait in c.waits_ms]
        found[f"commit_waits_{phase}"] = spread(waits)
        found[f"commit_scripts_{phase}"] = spread(topic_id.take_ms(Script("commit").sha))
    found["roll_scripts"] = spread(topic_id.take_ms(Script("roll").sha))
    found["counting_scripts"] = spread(topic_id.take_ms(COUNTED))
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
        "--records", type=int, default=ROLL_RECORDS, help="records of one script of the roll"
    )
    parser.add_argument(
        "--slice", type=int, default=defaults.commit_batch_events, help="events of one commit"
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
        line = "  ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
        print(f"{name:24} {line}")


if __name__ == "__main__":
    main()
