"""The counters that `bench.reads` reads: commits of synthetic events, without a worker."""

from __future__ import annotations

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


async def write(settings: Settings, customers: int, *, events: int) -> None:
    """Commit `events` events, a multiple of MADE, to the tenant's counters."""
    client: Any = make_client(settings, timeout_s=60, retries=0)
    counters = RedisCounters(client, settings.redis_prefix)
    generation = await counters.generation(TENANT)
    assert generation is not None
    offset = 0
    while offset < events:
        now_ms = time.time_ns() // 1_000_000
        made = make_events(MADE, customers, now_ms, seed=offset)
        for at in range(0, MADE, COMMIT):
            batch = made[at : at + COMMIT]
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
    await client.aclose()
