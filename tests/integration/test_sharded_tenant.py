"""A tenant with several shards: its events are counted once, each in the shard of its customer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from store.counters import Generation
from store.records import CounterPage, Event, Incomplete
from store.redis.counters import RedisCounters
from store.settings import Settings
from store.shards import shard_of
from tests.support.contract import assert_counts, question
from tests.support.events import IDS, NOW_MS, TODAY, make_event
from tests.support.pipeline_fixture import PipelineFixture, open_pipeline, values_of
from tests.support.waiting import eventually_async

SHARDS = 3


@pytest.fixture
def stores(redis_url: str, database_url: str) -> Settings:
    return Settings(redis_url=redis_url, database_url=database_url)


def events(first: int, n: int) -> list[Event]:
    return [
        make_event(
            customer=f"C-{i % 17}",
            offer=IDS[i % len(IDS)],
            creative=IDS[i % 5],
            outcome=("impression", "click", "convert")[i % 3],
            occurred_ms=NOW_MS - i * 7_200_000,
            identity=f"e{i}",
        )
        for i in range(first, first + n)
    ]


async def create(counters: RedisCounters, shards: int = SHARDS) -> Generation:
    return await counters.create(
        "acme", day=TODAY, timezone="UTC", complete=True, watermarks=[], shards=shards
    )


async def states(counters: RedisCounters) -> list[Generation]:
    return [each async for each in counters.active_generations(["acme"])]


def test_the_answers_are_those_of_one_shard(stores: Settings) -> None:
    async def go() -> None:
        async with open_pipeline(stores) as worker:
            assert (await create(worker.counters)).shards == SHARDS
            first, second = events(0, 40), events(40, 40)
            await worker.process(0, values_of(first))
            await worker.process(1, values_of(second))
            await assert_counts(worker.counters, first + second, TODAY)
            sizes = [await worker.counters.events(each) for each in await states(worker.counters)]
            assert sizes == [
                sum(shard_of(e.customer, SHARDS) == index for e in first + second)
                for index in range(SHARDS)
            ]
            assert await worker.counters.tenants() == ["acme"]
            assert worker.committer.tenants.names == {"acme"}
            (overview,) = await worker.counters.overview()
            assert overview.shards == SHARDS
            assert overview.complete
            assert overview.groups["customer"] == 17
            assert sum(each.events or 0 for each in overview.generations) == 80

    asyncio.run(go())


def test_what_is_read_again_is_counted_once(stores: Settings) -> None:
    """The worker starts again where the shard with the lowest watermark has counted."""

    async def go() -> None:
        async with open_pipeline(stores) as worker:
            await create(worker.counters)
            first, second = events(0, 40), events(40, 40)
            await worker.process(0, values_of(first))
            of_one = [e for e in second if shard_of(e.customer, SHARDS) == 1]
            await worker.process(1, values_of((of_one * 40)[:40]))
            assert await worker.restart() == 40
            await worker.process(1, values_of((of_one * 40)[:40]))
            await assert_counts(worker.counters, first + of_one, TODAY)

    asyncio.run(go())


def test_the_watermarks_of_shards_without_events_move(stores: Settings) -> None:
    async def go() -> None:
        async with open_pipeline(stores, idle_commit_s=0.05) as worker:
            await create(worker.counters)
            batch = [e for e in events(0, 80) if shard_of(e.customer, SHARDS) == 2]
            await worker.process(0, values_of(batch))

            async def moved() -> bool:
                found = [
                    each.watermarks.get(0)
                    async for each in worker.counters.active_counted(["acme"], worker.topic_id)
                ]
                return found == [len(batch)] * SHARDS

            await eventually_async(moved, message="all watermarks at the end")

    asyncio.run(go())


def test_a_shard_that_redis_lost_is_not_served(stores: Settings) -> None:
    async def go() -> None:
        async with open_pipeline(stores) as worker:
            await create(worker.counters)
            await worker.process(0, values_of(events(0, 40)))
            lost = (await states(worker.counters))[2].tenant
            await forget(worker, lost)
            read = await worker.counters.read(question("action", "weekly"))
            assert read == Incomplete("no_generation")
            await worker.restart()
            await worker.process(1, values_of(events(40, 40)))
            assert [each.complete for each in await states(worker.counters)] == [True, True, False]
            read = await worker.counters.read(question("action", "weekly"))
            assert read == Incomplete("not_complete")
            assert not await worker.committer.tenants.try_mark_complete("acme")

    asyncio.run(go())


def test_a_reader_learns_of_another_number_of_shards(stores: Settings) -> None:
    """Its cache is from before a removal; the new tenant has one shard, then four."""

    async def go() -> None:
        async with open_pipeline(stores) as worker:
            counters = worker.counters
            for shards in (3, 1, 4):
                await create(counters, shards)
                assert isinstance(await counters.read(question("action", "weekly")), CounterPage)
                ended = await counters.removals.end("acme", {})
                generations, _ = await counters.removals.delete(ended)
                assert generations == 1
                read = await counters.read(question("action", "weekly"))
                assert read == Incomplete("no_generation")
            keys = await worker.counters._client.keys("*acme*")
            assert sorted(keys) == [b"is:{acme/0}:last", b"is:{acme/0}:removed"]

    asyncio.run(go())


def test_a_removed_tenant_remembers_what_any_shard_had_counted(stores: Settings) -> None:
    async def go() -> None:
        async with open_pipeline(stores) as worker:
            await create(worker.counters)
            batch = [e for e in events(0, 80) if shard_of(e.customer, SHARDS) == 2]
            await worker.process(0, values_of(batch))
            await worker.counters.removals.end("acme", {})
            found = await worker.counters.counted_before_removal(["acme"], worker.topic_id)
            assert found == {"acme": {0: len(batch)}}

    asyncio.run(go())


async def forget(worker: PipelineFixture, shard: str) -> None:
    """Delete all keys of a shard, as a node does that lost its data."""
    client = worker.counters._client
    slot = "{" + shard.partition("@")[0] + "}"
    keys: Sequence[bytes] = await client.keys(f"*{slot}*")
    await client.unlink(*keys)
