"""Commits of synthetic events beside reads, for `bench.reads`, until SIGTERM.

python -m bench.reads_writer RATE CUSTOMERS
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

from bench.ranks import TOPIC_ID, UTC, make_events
from bench.servers import TENANT
from store.counters import Committed
from store.redis.client import make_client
from store.redis.counters import RedisCounters
from store.settings import Settings
from streams.aggregate import aggregate

#: Events of one commit.
COMMIT = 200
#: Events that are made at once; the same ones are counted again as others, with other identities.
MADE = 20_000


async def write(
    settings: Settings, rate: float, customers: int, *, until: int | None = None
) -> None:
    """Commit `rate` events a second (0 = without a pause), up to the offset `until`."""
    client: Any = make_client(settings, timeout_s=60, retries=0)
    counters = RedisCounters(client, settings.redis_prefix)
    generation = await counters.generation(TENANT)
    assert generation is not None
    first = offset = (await counters.watermarks(generation, TOPIC_ID)).get(0, 0)
    began_s = time.perf_counter()
    while until is None or offset < until:
        now_ms = time.time_ns() // 1_000_000
        events = make_events(MADE, customers, now_ms, seed=offset)
        for at in range(0, MADE, COMMIT):
            batch = events[at : at + COMMIT]
            answer = await counters.commit(
                generation,
                topic_id=TOPIC_ID,
                partition=0,
                expected_offset=offset or None,
                next_offset=offset + len(batch),
                deltas=aggregate(batch, UTC),
            )
            assert isinstance(answer, Committed), answer
            offset += len(batch)
            if rate:
                due_s = began_s + (offset - first) / rate
                await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
    await client.aclose()


if __name__ == "__main__":
    asyncio.run(write(Settings(), float(sys.argv[1]), int(sys.argv[2])))
