"""A rebuild that is cancelled, at whatever moment, leaves nothing."""

from __future__ import annotations

import asyncio
import itertools
import random

import pytest

from store.settings import Settings
from store.windows import DAY_MS
from streams.rebuild import Options, Rebuilder
from streams.rebuild.plan import From
from streams.rebuild.progress import Progress
from tests.support.events import NOW_MS, make_event
from tests.support.replay import ReplayFixture


async def fill(replay: ReplayFixture) -> None:
    """Count and store events of two partitions."""
    chosen = random.Random(5)
    for partition in range(2):
        events = [
            make_event(
                customer=f"C-{chosen.randrange(40)}",
                occurred_ms=NOW_MS - chosen.randrange(50 * DAY_MS),
            )
            for _ in range(100)
        ]
        await replay.send(partition, events)
    ends = {partition: len(events) for partition, events in replay.topic.items()}
    await replay.count(ends)
    await replay.store_history(ends)


async def is_cancelled(replay: ReplayFixture, source: From, reports: int) -> bool:
    """Run a rebuild that is cancelled while it makes a report, after `reports` others.

    Returns False if it ends before, without having changed anything.
    """
    seen = itertools.count()

    def report(_: Progress) -> None:
        if next(seen) == reports:
            task.cancel()

    rebuilder = Rebuilder(
        replay.settings, replay.counters, replay.pool, now_ms=lambda: NOW_MS, report=report
    )

    async def rebuild() -> None:
        options = Options(source=source, dry_run=True)
        assert [outcome async for outcome in rebuilder.rebuild(["acme"], options)]

    task = asyncio.create_task(rebuild())
    await asyncio.wait({task}, timeout=60)
    if not task.cancelled():
        task.result()  # raises what went wrong
    return task.cancelled()


@pytest.mark.parametrize("source", ["topic", "history", "auto"])
def test_nothing_is_left_whenever_it_is_cancelled(settings: Settings, source: From) -> None:
    async def check() -> int:
        async with ReplayFixture(settings) as replay:
            await fill(replay)
            before = await replay.counters.generations("acme")
            for reports in itertools.count():
                cancelled = await is_cancelled(replay, source, reports)
                assert await replay.counters.generations("acme") == before, reports
                assert not await replay.client.keys("is:*:rebuild"), reports
                if not cancelled:
                    return reports
        return 0

    assert asyncio.run(check()) >= 3
