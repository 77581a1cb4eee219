"""One identity with two contents, in two partitions: counters and history keep the same one."""

from __future__ import annotations

import uuid
from contextlib import AsyncExitStack
from random import Random
from typing import Any, NamedTuple

import msgspec
import pytest

from store.postgres.history import PostgresHistory
from store.records import CounterPage, Event, Question
from store.settings import Settings
from store.windows import window_of
from tests.support.pipeline_fixture import (
    PipelineFixture,
    history_locked,
    open_pipeline,
    values_of,
)
from tests.support.worker_fixture import UTC, make_events, now_ms

pytestmark = pytest.mark.anyio
PAIRS = 20


def question() -> Question:
    today = UTC.day_of(now_ms())
    return Question("acme", "action", "alltime", window_of("alltime", today), today, "UTC", 100, 0)


def of_offer(events: list[Event], offer: str) -> list[bytes]:
    """Return the events with the same ids, and another offer."""
    return values_of([msgspec.structs.replace(event, offer=offer) for event in events])


class Answers(NamedTuple):
    counters: dict[str, int]
    history: dict[str, int]


async def answers(fixture: PipelineFixture) -> Answers:
    """Return offer -> events, of both stores."""
    counted = await fixture.counters.read(question())
    assert isinstance(counted, CounterPage), counted
    stored = await PostgresHistory(fixture.pool).read(question())
    counts, rows = ({g.id: g.total for g in page.groups} for page in (counted.page, stored))
    return Answers(counts, rows)


@pytest.mark.parametrize("both_read_again", [False, True])
@pytest.mark.parametrize("first", [0, 1])
async def test_history_stores_what_was_counted(
    settings: Settings, first: int, both_read_again: bool
) -> None:
    """The worker is killed before history has the originals, and reads the copies first."""
    where: Any = {"topic_id": str(uuid.uuid4()), "partitions": 2}
    events = make_events(PAIRS)
    originals, copies = of_offer(events, "original"), of_offer(events, "copy")
    async with (
        history_locked(settings),
        open_pipeline(settings, partition=first, **where) as of_originals,
        open_pipeline(settings, partition=1 - first, **where) as of_copies,
    ):
        await of_originals.count(0, originals)
        if both_read_again:
            await of_copies.count(0, copies)
    async with (
        open_pipeline(settings, partition=1 - first, **where) as of_copies,
        open_pipeline(settings, partition=first, **where) as of_originals,
    ):
        await of_copies.process(0, copies)
        await of_originals.process(0, originals)
        expected = {"original": PAIRS}
        assert await answers(of_originals) == Answers(expected, expected)


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(n, marks=pytest.mark.long) for n in range(1, 12))]
)
async def test_any_order_with_restarts(settings: Settings, seed: int) -> None:
    """Batches of two partitions share identities; workers are killed with history behind."""
    random = Random(seed)
    where: Any = {"topic_id": str(uuid.uuid4()), "partitions": 2}
    pool = make_events(30)
    batches = 4
    picked = [[random.sample(pool, 6) for _ in range(batches)] for _ in (0, 1)]
    topic = [[of_offer(events, f"{p}-{n}") for n, events in enumerate(picked[p])] for p in (0, 1)]
    done = [0, 0]
    while min(done) < batches:
        async with history_locked(settings), AsyncExitStack() as stack:
            workers = [
                await stack.enter_async_context(open_pipeline(settings, partition=p, **where))
                for p in (0, 1)
            ]
            read = [0, 0]
            for _ in range(random.randint(2, 9)):
                p = random.choice((0, 1))
                if read[p] < batches:
                    await workers[p].count(read[p], topic[p][read[p]])
                    read[p] += 1
            done = [max(d, r) for d, r in zip(done, read, strict=True)]
    async with AsyncExitStack() as stack:
        for p in random.sample((0, 1), 2):
            fixture = await stack.enter_async_context(open_pipeline(settings, partition=p, **where))
            for n in range(batches):
                await fixture.process(n, topic[p][n])
        counted, stored = await answers(fixture)
        assert counted == stored
        assert sum(counted.values()) == len(
            {each.interaction_id for of in picked for events in of for each in events}
        )
