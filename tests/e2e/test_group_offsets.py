"""Offsets of the consumer group, as Kafka's own tools show them."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from store.settings import Settings
from tests.support.program import read_topic
from tests.support.waiting import eventually_async
from tests.support.worker_fixture import WorkerFixture, make_events, open_worker_fixture


@pytest.mark.anyio
async def test_the_group_has_no_lag_once_all_is_stored(settings: Settings) -> None:
    """The stores decide where to continue, but monitoring tools compute lag from these offsets."""
    async with open_worker_fixture(settings) as fixture:
        for n in range(1, 4):
            await fixture.send(make_events(100))
            await fixture.wait_counted(100 * n)
        records = await asyncio.to_thread(read_topic, settings, settings.interactions_topic)
        assert len(records) == 300
        ends = Counter(record.partition for record in records)

        async def are_the_ends() -> bool:
            found = await asyncio.to_thread(committed, fixture)
            assert found == ends, f"committed {found}, of {ends}"
            return True

        await eventually_async(are_the_ends, message="the group's offsets are the ends")


def committed(fixture: WorkerFixture) -> dict[int, int]:
    """Return the offset that the group committed to Kafka, by partition."""
    admin, group = fixture.admin(), fixture.settings.consumer_group
    try:
        found = admin.list_group_offsets(group)[group]
    finally:
        admin.close()
    return {tp.partition: marked.offset for tp, marked in found.items() if marked.offset >= 0}
