"""One tenant on all nodes of a cluster of three: the answers are those of a plain count."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import redis

from store.records import CounterPage, Event, Incomplete
from store.settings import Settings
from streams.rebuild import Failure, Options, Rebuilder, RebuildResult
from tests.support.contract import assert_counts, assert_counts_exact, question
from tests.support.events import NOW_MS, TODAY
from tests.support.pipeline_fixture import PipelineFixture, open_pipeline, values_of
from tests.support.redis_cluster import ClusterNode, redis_cluster
from tests.support.replay import many_events

SHARDS = 6
BATCH = 50


def keys_of(nodes: Sequence[ClusterNode]) -> list[set[bytes]]:
    """Return the hash tags of the tenant's keys on each node."""
    found = []
    for node in nodes:
        with redis.Redis.from_url(node.url) as client:
            keys = client.scan_iter("is:{acme/*", count=10_000)
            found.append({key.partition(b"}")[0] for key in keys})
    return found


async def rebuild(worker: PipelineFixture, settings: Settings, shards: int) -> RebuildResult:
    rebuilder = Rebuilder(settings, worker.counters, worker.pool, now_ms=lambda: NOW_MS)
    options = Options(source="history", shards=shards)
    (outcome,) = [each async for each in rebuilder.rebuild(["acme"], options)]
    assert not isinstance(outcome, Failure), outcome
    return outcome


def test_the_answers_of_a_tenant_on_three_nodes_equal_a_plain_count(
    database_url: str, tmp_path: Path
) -> None:
    async def go(settings: Settings, nodes: Sequence[ClusterNode]) -> None:
        async with open_pipeline(settings) as worker:
            counters = worker.counters
            await counters.create(
                "acme", day=TODAY, timezone="UTC", complete=True, watermarks=[], shards=SHARDS
            )
            counted: list[Event] = []
            for number in range(6):
                batch = many_events(BATCH, seed=number)
                await worker.process(number, values_of(batch))
                counted += batch
            tags = keys_of(nodes)
            assert sum(map(len, tags)) == SHARDS
            assert all(tags)
            await assert_counts(counters, counted, TODAY)
            await assert_counts_exact(counters, counted, TODAY, days=(3, 13))
            (overview,) = await counters.overview()
            assert (overview.shards, overview.complete) == (SHARDS, True)

            assert (await rebuild(worker, settings, 4)).behind == []
            await assert_counts(counters, counted, TODAY)
            await worker.restart()
            await worker.process(6, values_of(batch := many_events(BATCH, seed=6)))
            counted += batch
            await assert_counts(counters, counted, TODAY)

            assert await counters.rollback("acme", now_ms=NOW_MS) is not None
            assert await counters.read(question("action", "weekly")) == Incomplete("not_complete")
            await worker.restart()
            await worker.process(6, values_of(batch))
            await assert_counts(counters, counted, TODAY)
            assert isinstance(await counters.read(question("action", "weekly")), CounterPage)

            ended = await counters.removals.end("acme", {})
            await counters.removals.delete(ended)
            assert [tag for tags in keys_of(nodes) for tag in tags] == [b"is:{acme/0"]

    with redis_cluster(tmp_path, primaries=3) as nodes:
        settings = Settings(
            redis_url=nodes[0].url,
            redis_cluster=True,
            database_url=database_url,
            kafka_bootstrap_servers="127.0.0.1:1",
        )
        asyncio.run(go(settings, nodes))
