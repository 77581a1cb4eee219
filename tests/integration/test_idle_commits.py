"""Idle commits: watermarks of tenants without events, where the next start begins to read."""

from __future__ import annotations

import asyncio

import pytest

from store.settings import Settings
from tests.support.events import make_event
from tests.support.pipeline_fixture import PipelineFixture, fresh, open_pipeline, values_of
from tests.support.waiting import eventually_async
from tests.support.worker_fixture import make_events, now_ms

pytestmark = pytest.mark.anyio


async def test_watermarks_of_idle_tenants_move_while_the_partition_is_saturated(
    settings: Settings,
) -> None:
    values = values_of(make_events(10))
    size = sum(map(len, fresh(values, 0)))
    async with open_pipeline(
        settings, idle_commit_s=0.01, fetch_bytes_max=size, queue_batches=4
    ) as fixture:
        first = values_of([make_event(tenant="idle", occurred_ms=now_ms()) for _ in values])
        fixture.submit(0, first)
        saturating = asyncio.create_task(saturate(fixture, values))

        async def moved() -> bool:
            generation = await fixture.counters.generation("idle")
            assert generation is not None
            watermarks = await fixture.counters.watermarks(generation, fixture.topic_id)
            assert watermarks[0] > len(first), watermarks
            return True

        try:
            await eventually_async(moved, message="the watermark of the idle tenant moved")
        finally:
            saturating.cancel()


async def saturate(fixture: PipelineFixture, values: list[bytes]) -> None:
    """Submit batches for ever, so that the partition's queue is never empty."""
    number = 0
    while True:
        if not fixture.pipeline.full_partitions():
            number += 1
            fixture.submit(number, fresh(values, number))
        await asyncio.sleep(0)
