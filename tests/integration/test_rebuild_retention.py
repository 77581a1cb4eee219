"""Rebuilds of a topic of which retention has deleted a part. Apache Kafka only."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from kafka import TopicPartition
from kafka.admin import KafkaAdminClient

from store.settings import Settings
from streams.rebuild import Options, Rebuilder, RebuildError, RollbackResult
from streams.rebuild.results import Failure
from tests.support.contract import assert_counts
from tests.support.events import NOW_MS, TODAY
from tests.support.replay import ReplayFixture, ends_of, fill
from tests.support.services.base import Services


def run(
    services: Services, settings: Settings, check: Callable[[ReplayFixture], Awaitable[None]]
) -> None:
    async def go() -> None:
        async with ReplayFixture(settings) as replay:
            await check(replay)

    if services.kind == "wheels":
        pytest.skip("the embedded broker keeps no retention; CI tests Apache Kafka")
    asyncio.run(go())


def delete_before(settings: Settings, offsets: dict[int, int]) -> None:
    """Delete the records before these offsets, as retention does."""
    admin = KafkaAdminClient(bootstrap_servers=settings.brokers)
    topic = settings.interactions_topic
    admin.delete_records({TopicPartition(topic, p): offset for p, offset in offsets.items()})
    admin.close()


def test_history_and_the_topic_join_without_a_seam(services: Services, settings: Settings) -> None:
    """History ends in the middle of what the topic still holds; copies lie on both sides."""

    async def check(replay: ReplayFixture) -> None:
        await fill(replay)
        ends = ends_of(replay)
        await replay.count(ends)
        await replay.store_history({p: end - 5 for p, end in ends.items()})
        delete_before(settings, {0: 60, 1: 1, 2: ends[2]})
        with pytest.raises(RebuildError, match="5 offsets"):  # of partition 2
            await replay.replay(Options(source="auto"))
        await assert_counts(replay.counters, replay.distinct(), TODAY)
        await replay.store_more({2: ends[2]})
        result = await replay.replay(Options(source="auto"))
        assert result.events == 400
        assert 0 < result.from_history < 400
        await assert_counts(replay.counters, replay.distinct(), TODAY)

    run(services, settings, check)


def test_the_topic_alone_is_refused(services: Services, settings: Settings) -> None:
    async def check(replay: ReplayFixture) -> None:
        await fill(replay)
        ends = ends_of(replay)
        await replay.count(ends)
        await replay.store_history(ends)
        delete_before(settings, {0: 60})
        with pytest.raises(RebuildError, match=r"history has \d+ events that the topic no longer"):
            await replay.replay(Options(source="topic"))
        await assert_counts(replay.counters, replay.distinct(), TODAY)

    run(services, settings, check)


def test_a_tenant_without_events_in_what_is_gone_needs_the_topic_only(
    services: Services, settings: Settings
) -> None:
    async def check(replay: ReplayFixture) -> None:
        await fill(replay)
        ends = ends_of(replay)
        await replay.count(ends, tenant="other")
        await replay.store_history(ends)
        delete_before(settings, {0: 60})
        result = await replay.replay(Options(source="topic"), tenant="other")
        assert (result.events, result.behind) == (20, [])

    run(services, settings, check)


def test_a_rollback_past_retention_is_refused(services: Services, settings: Settings) -> None:
    """The previous generation lacks what was counted since, and the topic no longer has it."""

    async def check(replay: ReplayFixture) -> None:
        await fill(replay)
        ends = ends_of(replay)
        await replay.count({p: end // 2 for p, end in ends.items()})
        await replay.store_history(ends)
        await replay.replay(Options(source="history"))
        delete_before(settings, {3: ends[3] - 10})
        rebuilder = Rebuilder(settings, replay.counters, replay.pool, now_ms=lambda: NOW_MS)
        (refused,) = [outcome async for outcome in rebuilder.roll_back()]
        assert isinstance(refused, Failure)
        assert "which the topic no longer holds" in refused.reason
        await assert_counts(replay.counters, replay.distinct(), TODAY)
        (done,) = [outcome async for outcome in rebuilder.roll_back(force=True)]
        assert isinstance(done, RollbackResult)
        active = await replay.counters.generation("acme")
        assert active is not None
        assert not active.complete

    run(services, settings, check)
