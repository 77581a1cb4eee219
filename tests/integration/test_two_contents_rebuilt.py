"""One identity with two contents: rebuilds and refills choose the one that is counted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
import pytest

from store.postgres.history import PostgresHistory
from store.records import Event
from store.settings import Settings
from store.windows import date_of
from streams.commit import CounterCommitter
from streams.rebuild import Options
from streams.refill import Refill
from tests.support.contract import assert_counts, question
from tests.support.events import NOW_MS, TODAY, make_event
from tests.support.replay import ReplayFixture

PAIRS = 20


def run(settings: Settings, check: Callable[[ReplayFixture], Awaitable[None]]) -> None:
    async def go() -> None:
        async with ReplayFixture(settings) as replay:
            await check(replay)

    asyncio.run(go())


async def fill(replay: ReplayFixture) -> list[Event]:
    """Count originals in partition 1, then their copies in partition 0; return what is counted."""
    originals = [make_event(offer="original", customer=f"C-{i % 3}") for i in range(PAIRS)]
    copies = [msgspec.structs.replace(event, offer="copy") for event in originals]
    others = [make_event(offer="other") for _ in range(4)]
    await replay.send(0, [*copies, *others[:2]])
    await replay.send(1, [*others[2:], *originals])
    await replay.count({1: PAIRS + 2})
    await replay.count({0: PAIRS + 2, 2: 0, 3: 0})
    expected = [*replay.topic[1], *replay.topic[0][PAIRS:]]
    await assert_counts(replay.counters, expected, TODAY)
    return expected


async def copies_of(replay: ReplayFixture, partition: int) -> set[int]:
    """Return what history leaves out of a partition that is read again."""

    async def utc(tenant: str) -> str:
        return "UTC"

    committer = CounterCommitter(
        replay.counters, replay.history, now_ms=lambda: NOW_MS, timezone_of=utc
    )
    starts = await committer.counted(replay.topic_id, dict.fromkeys(replay.topic, 0))
    committer.start_session(replay.topic_id, starts)
    end = len(replay.topic[partition])
    return await committer.commit("acme", partition, replay.sourced(partition, end), end)


@pytest.mark.parametrize("stored", [0, PAIRS // 2, PAIRS + 2])
@pytest.mark.parametrize(
    "options",
    [
        Options(source="topic"),
        Options(source="auto"),
        Options(source="history"),
        Options(since=date_of(TODAY)),
        Options(source="history", since=date_of(TODAY)),
    ],
    ids=["topic", "auto", "history", "since", "since from history"],
)
def test_a_rebuild_counts_what_was_counted(
    settings: Settings, options: Options, stored: int
) -> None:
    """Whatever history has of the originals; it has none of the copies.

    It must leave out the copies of those that it lacks. The others it has, and it keeps each
    identity once.
    """

    async def check(replay: ReplayFixture) -> None:
        expected = await fill(replay)
        if stored:
            await replay.store_history({1: stored})
        await replay.replay(options)
        await assert_counts(replay.counters, expected, TODAY)
        lacking = {n for n in range(PAIRS) if n + 2 >= stored}  # two others are before them
        assert lacking <= await copies_of(replay, 0) <= set(range(PAIRS))
        assert await copies_of(replay, 1) == set()

    run(settings, check)


def test_lost_history_is_filled_with_what_was_counted(settings: Settings) -> None:
    async def check(replay: ReplayFixture) -> None:
        expected = await fill(replay)
        result = await Refill(
            settings,
            replay.pool,
            counted_tenants=["acme"],
            owners=replay.counters,
            now_ms=lambda: NOW_MS,
        ).run()
        assert (result.stored, result.copies) == (len(expected), PAIRS)
        page = await PostgresHistory(replay.pool).read(question("action", "alltime"))
        assert {g.id: g.total for g in page.groups} == {"original": PAIRS, "other": 4}

    run(settings, check)
