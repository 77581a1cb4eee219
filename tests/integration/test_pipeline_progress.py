"""Batches that are not counted as a whole yet, and backlogs of several partitions."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from store.redis.client import make_client
from store.redis.keys import Keys
from store.settings import Settings
from streams.kafka.consumer import Batch
from tests.support.pipeline_fixture import Record, open_pipeline, values_of
from tests.support.waiting import eventually_async
from tests.support.worker_fixture import make_events, now_ms

pytestmark = pytest.mark.anyio


async def test_progress_grows_while_one_tenant_of_a_batch_cannot_be_counted(
    settings: Settings,
) -> None:
    events = [
        msgspec.structs.replace(event, tenant="stuck" if n < 4 else f"t{n % 3}")
        for n, event in enumerate(make_events(20))
    ]
    meta = Keys(settings.redis_prefix).meta("stuck", 1)
    client: Any = make_client(settings, timeout_s=5, retries=0)
    async with open_pipeline(settings) as fixture:
        await fixture.process(0, values_of(events))
        assert fixture.pipeline.progress() == fixture.pipeline.positions == {0: 20}
        await client.rename(meta, "kept")
        await client.set(meta, "not a hash")  # each commit of the tenant fails

        more = [
            msgspec.structs.replace(e, interaction_id=f"again-{e.interaction_id}") for e in events
        ]
        fixture.submit(1, values_of(more))

        async def others_are_counted() -> bool:
            return fixture.pipeline.progress() == {0: 20 + 16}

        await eventually_async(others_are_counted, message="the other tenants' events counted")
        assert fixture.pipeline.positions == {0: 20}
        await client.rename("kept", meta)

        async def all_are_counted() -> bool:
            return fixture.pipeline.positions == {0: 40}

        await eventually_async(all_are_counted, message="all events counted")
        assert fixture.pipeline.progress() == {0: 40}
    await client.aclose()


async def test_the_backlogs_of_partitions_are_folded_once_when_the_last_one_ends(
    settings: Settings,
) -> None:
    """Meanwhile the deltas of a partition without a backlog are pending, too."""
    parts: dict[int, list[Any]] = {p: make_events(4) for p in range(2)}
    key = Keys(settings.redis_prefix).meta("acme", 1)
    client: Any = make_client(settings, timeout_s=5, retries=0)

    async with open_pipeline(settings, partitions=2) as fixture:
        await fixture.history.start_session(fixture.topic_id, {0: None, 1: None})
        await fixture.pipeline.assign({0: 0, 1: 0})

        async def count(partition: int, first: int, end: int, *, waiting: int) -> None:
            values = values_of(parts[partition][first:end])
            records = [Record(first + i, value, now_ms()) for i, value in enumerate(values)]
            batch = Batch(partition, first, records, end + waiting, 0)
            fixture.pipeline.submit(batch, lambda: None)

            async def is_counted() -> bool:
                return fixture.pipeline.positions[partition] == end

            await eventually_async(is_counted, message="a batch counted")

        async def pending() -> int:
            return int(await client.hget(key, "pending") or 0)

        await count(0, 0, 2, waiting=5_000)
        assert await pending() == 2
        await count(1, 0, 2, waiting=5_000)
        await count(0, 2, 3, waiting=0)
        await count(0, 3, 4, waiting=0)
        assert await pending() == 6, "the other partition has a backlog"
        await count(1, 2, 4, waiting=0)

        async def is_folded() -> bool:
            return await pending() == 0

        await eventually_async(is_folded, message="nothing is pending")
    await client.aclose()
