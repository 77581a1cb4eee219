"""A tenant's first events in two partitions that two workers read: each is counted exactly once.

And no worker steps back because of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from random import Random
from typing import Any

import msgspec
import pytest

from store.records import CounterPage, Event, Question
from store.settings import Settings
from store.windows import Calendar, window_of
from tests.support.pipeline_fixture import PipelineFixture, open_pipeline, values_of
from tests.support.worker_fixture import make_events, now_ms

pytestmark = pytest.mark.anyio
BATCH = 4
#: Calls of the creator that the other worker comes in front of, and None: it comes last.
STEPS = ("active_counted", "floors", "create", "commit", None)


@contextlib.asynccontextmanager
async def two_pipelines(settings: Settings) -> AsyncIterator[list[PipelineFixture]]:
    """Yield pipelines of two partitions of one topic."""
    options: dict[str, Any] = {"topic_id": str(uuid.uuid4()), "partitions": 2}
    async with (
        open_pipeline(settings, partition=0, **options) as first,
        open_pipeline(settings, partition=1, **options) as second,
    ):
        yield [first, second]


def of_tenants(*tenants: str) -> list[Event]:
    """Return a batch of BATCH events of these tenants, in turn."""
    return [
        msgspec.structs.replace(event, tenant=tenants[i % len(tenants)])
        for i, event in enumerate(make_events(BATCH))
    ]


async def total_of(fixture: PipelineFixture, tenant: str) -> int:
    today = Calendar("UTC").day_of(now_ms())
    window = window_of("alltime", today)
    question = Question(tenant, "action", "alltime", window, today, "UTC", 100, 0)
    answer = await fixture.counters.read(question)
    assert isinstance(answer, CounterPage), "the counters are complete"
    return sum(group.total for group in answer.page.groups)


def before_call(target: Any, name: str, go: Callable[[], Awaitable[None]]) -> None:
    """Have `go` run once, in front of the next call of the method."""
    original = getattr(target, name)

    async def call(*args: Any, **options: Any) -> Any:
        setattr(target, name, original)
        await go()
        return await original(*args, **options)

    async def iterate(*args: Any, **options: Any) -> AsyncIterator[Any]:
        setattr(target, name, original)
        await go()
        async for each in original(*args, **options):
            yield each

    setattr(target, name, iterate if name == "active_counted" else call)


@pytest.mark.parametrize("other_restarts", [False, True])
@pytest.mark.parametrize("step", STEPS)
async def test_a_new_tenant_in_two_partitions_is_counted_exactly_once(
    settings: Settings, step: str | None, other_restarts: bool
) -> None:
    """The other worker counts the tenant's events, and reports that, in the middle of its creation.

    Before, it has counted more than the creator knows of.
    """
    async with two_pipelines(settings) as (creator, other):
        for number in range(3):
            await other.count(number, values_of(of_tenants("acme")))
        await creator.count(0, values_of(of_tenants("acme")))
        await creator.report()
        await other.report()
        if other_restarts:
            assert await other.restart() == 3 * BATCH

        async def count_in_other() -> None:
            await other.count(3, values_of(of_tenants("new", "acme")))
            await other.report()

        if step is not None:
            before_call(creator.counters, step, count_in_other)
        await creator.count(1, values_of(of_tenants("acme", "new")))
        if step is None:
            assert await other.restart() == 3 * BATCH, "it reads nothing again"
            await count_in_other()
        await other.count(4, values_of(of_tenants("new", "acme")))
        for fixture, batches in ((creator, 2), (other, 5)):
            await fixture.report()
            assert await fixture.restart() == batches * BATCH, "it reads nothing again"
        assert await total_of(creator, "new") == 3 * BATCH // 2
        assert await total_of(creator, "acme") == 11 * BATCH // 2


@pytest.mark.parametrize("seed", range(2))
async def test_new_tenants_all_the_time_are_counted_exactly_once(
    settings: Settings, seed: int
) -> None:
    """In each round both workers meet the same new tenant; they report and restart at random."""
    random = Random(seed)
    rounds = 12
    async with two_pipelines(settings) as fixtures:

        async def count_round(fixture: PipelineFixture, number: int) -> None:
            if random.random() < 0.5:
                await fixture.report()
            await fixture.count(number, values_of(of_tenants("acme", f"new-{number}")))
            if random.random() < 0.5:
                await fixture.report()

        for number in range(rounds):
            await asyncio.gather(*(count_round(fixture, number) for fixture in fixtures))
            for fixture in fixtures:
                if random.random() < 0.3:
                    await fixture.pipeline._commit_idle(fixture.partition)
                    await fixture.report()
                    assert await fixture.restart() == (number + 1) * BATCH, "it reads nothing again"
        for number in range(rounds):
            assert await total_of(fixtures[0], f"new-{number}") == BATCH, number
        assert await total_of(fixtures[0], "acme") == rounds * BATCH
