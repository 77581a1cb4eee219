"""Events of a removed history stay removed, though the topic still has them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Literal

import pytest

from store.postgres.history import HistoryWriter
from store.records import StoreUnavailable
from store.settings import Settings
from store.windows import date_of
from streams.commit import CounterCommitter
from streams.rebuild import Options
from streams.refill import Refill
from streams.removal import TenantRemoval
from tests.support.events import NOW_MS, TODAY, make_event
from tests.support.replay import ReplayFixture

pytestmark = pytest.mark.anyio
REMOVED, LATER = 10, 4


class Away(HistoryWriter):
    """History that cannot be asked."""

    async def removed_through(self, tenant: str, topic_id: str) -> dict[int, int]:
        raise StoreUnavailable("away")


@pytest.fixture
async def replay(settings: Settings) -> AsyncIterator[ReplayFixture]:
    """Yield stores from which `acme` was removed with its history, and that have events since."""
    async with ReplayFixture(settings) as replay:
        for tenant in ("acme", "other"):
            await replay.send(0, [make_event(tenant=tenant) for _ in range(REMOVED // 2)])
        await replay.send(0, [make_event() for _ in range(REMOVED // 2)])
        await replay.count({0: 15})
        await replay.count({0: 15}, tenant="other")
        await replay.store_history({0: 15})
        removed = await TenantRemoval(replay.counters, replay.pool).remove("acme", history=True)
        assert removed.rows == REMOVED
        await replay.send(0, [make_event() for _ in range(LATER)])
        await replay.count({0: 15 + LATER})
        await replay.store_more({0: 15 + LATER})
        yield replay


@pytest.mark.parametrize("source", ["topic", "auto", "history"])
async def test_a_rebuild_does_not_count_them(
    replay: ReplayFixture, source: Literal["topic", "auto", "history"]
) -> None:
    result = await replay.replay(Options(source=source))
    assert (result.events, result.previous_events) == (LATER, LATER)
    other = await replay.replay(Options(source=source), tenant="other")
    assert other.events == REMOVED // 2


async def test_a_rebuild_since_a_day_does_not_count_them(replay: ReplayFixture) -> None:
    result = await replay.replay(Options(since=date_of(TODAY)))
    assert result.events == LATER


@pytest.mark.parametrize("tenant", [None, "acme"])
async def test_a_refill_does_not_store_them(replay: ReplayFixture, tenant: str | None) -> None:
    refill = Refill(
        replay.settings,
        replay.pool,
        counted_tenants=await replay.counters.tenants(),
        tenant=tenant,
        now_ms=lambda: NOW_MS,
    )
    result = await refill.run()
    assert (result.stored, result.removed) == (0, REMOVED)
    assert await replay.history.rows("acme") == LATER


@pytest.mark.parametrize("postgres", ["there", "away"])
async def test_they_are_not_counted_after_a_loss_of_redis(
    replay: ReplayFixture, postgres: str
) -> None:
    """Workers read the topic from its start. If they cannot ask, the counters are not complete."""
    await replay.client.flushdb()
    if postgres == "there":
        await replay.count({0: 15 + LATER})
    else:
        there = replay.history
        replay.history = Away(replay.pool)
        await replay.count({0: 15 + LATER})
        replay.history = there
    generation = await replay.counters.generation("acme")
    assert generation is not None
    events = LATER if postgres == "there" else REMOVED + LATER
    assert await replay.counters.events(generation) == events

    async def utc(_: str) -> str:
        return "UTC"

    committer = CounterCommitter(
        replay.counters, replay.history, now_ms=lambda: NOW_MS, timezone_of=utc
    )
    committer.start_session(replay.topic_id, {0: 0})
    await committer.tenants.try_mark_complete("acme")
    generation = await replay.counters.generation("acme")
    assert generation is not None
    assert generation.complete is (postgres == "there")
