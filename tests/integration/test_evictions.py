"""Redis evicts counters: history answers until its policy is right and they were rebuilt."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from store.redis.client import open_client
from store.redis.counters import RedisCounters
from store.redis.evictions import RedisEvictions
from store.redis.health import health_of
from store.redis.rate_counts import make_rate_counts
from store.settings import Settings
from tests.support.redis_cluster import redis_cluster
from tests.support.services.tcp import TcpValkey
from tests.support.waiting import eventually_async
from tests.support.worker_and_api import WorkerAndApi, open_api, open_worker_and_api
from tests.support.worker_fixture import make_events


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[TcpValkey]:
    """Yield a server of this test alone: `evicted_keys` concerns all that use a server."""
    folder = tmp_path / "redis"
    folder.mkdir()
    server = TcpValkey(None, folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()


async def wait_source(scene: WorkerAndApi, source: str) -> None:
    async def answered() -> bool:
        return (await scene.answer())[0] == source

    await eventually_async(answered, message=f"answers from {source}")


async def evict(scene: WorkerAndApi) -> None:
    """Let Redis evict records of the tenant, and none of the keys that the records depend on.

    Any connection may need more memory at that time than Redis frees with the records. So there are
    spare keys to evict, 2 MB of them, used later than the records and earlier than the vital keys.
    """
    client = scene.worker.client
    record = await scene.key("*:a:off_1")
    vital = [await scene.key(kind) for kind in ("active", "last", "*:meta", "tenants")]

    async def wait_idle(key: str) -> None:
        async def is_idle() -> bool:
            await client.touch(*vital)
            return bool(await client.object("idletime", key) >= 2)

        await eventually_async(is_idle, message=f"{key} older than the vital keys")

    await wait_idle(record)
    for number in range(200):
        await client.set(f"spare-{number}", "x" * 10_000)
    await client.config_set("maxmemory-samples", 64)
    await client.config_set("maxmemory-policy", "allkeys-lru")
    await wait_idle("spare-199")
    await client.config_set("maxmemory", (await client.info("memory"))["used_memory"] + 50_000)

    async def evicted() -> bool:
        await client.touch(*vital)
        await client.append("filler", "x" * 10_000)
        return bool((await client.info("stats"))["evicted_keys"] > 0)

    await eventually_async(evicted, message="keys evicted")
    assert await client.exists(*vital) == len(vital)


async def stop_evicting(client: Any) -> None:
    await client.config_set("maxmemory-policy", "noeviction")
    await client.config_set("maxmemory", "0")


@pytest.mark.long
def test_history_answers_while_redis_may_evict_and_until_a_rebuild(
    settings: Settings, valkey: TcpValkey
) -> None:
    """A policy alone needs no rebuild; evicted keys do, whatever is restarted meanwhile."""
    settings = settings.model_copy(update={"redis_url": valkey.url})

    async def go() -> None:
        async with open_worker_and_api(settings) as scene:
            worker = scene.worker
            await scene.wait_counters(200)
            await worker.client.config_set("maxmemory", "1gb")
            await worker.client.config_set("maxmemory-policy", "allkeys-random")
            await wait_source(scene, "history")
            report = json.loads(worker.command("status", "--json"))
            assert "its maxmemory-policy is allkeys-random" in report["attention"][0]["problem"]
            await worker.wait_logged("Redis may evict counters, so history answers")
            await worker.client.config_set("maxmemory-policy", "noeviction")
            await scene.wait_counters(200)

            await evict(scene)
            await wait_source(scene, "history")
            await stop_evicting(worker.client)
            await worker.wait_logged("Redis may have evicted counters")
            assert worker.worker.log_tail(400).count("Redis may have evicted counters") <= 2
            assert (await scene.answer())[0] == "history"

            worker.worker.kill()
            worker.worker.start()
            await worker.send(make_events(50))
            await worker.wait_stored(250)
            assert (await scene.answer())[0] == "history"
            async with open_api(settings) as restarted:
                assert (await WorkerAndApi(worker, restarted).answer())[0] == "history"
            worker.command("rebuild", "--tenant", "acme")
            await scene.wait_counters(250)
            assert "Redis" not in worker.command("status").split("\n\n")[0]
            assert worker.worker.is_running()

    asyncio.run(go())


def test_evictions_without_a_worker_are_noticed_by_readers(
    settings: Settings, valkey: TcpValkey
) -> None:
    """The policy is right again before anyone looks."""
    settings = settings.model_copy(update={"redis_url": valkey.url})

    async def go() -> None:
        async with open_worker_and_api(settings) as scene:
            worker = scene.worker
            await scene.wait_counters(200)
            worker.worker.stop()
            await evict(scene)
            await stop_evicting(worker.client)
            await wait_source(scene, "history")
            async with open_api(settings) as restarted:
                assert (await WorkerAndApi(worker, restarted).answer())[0] == "history"

    asyncio.run(go())


@pytest.mark.long
def test_a_full_redis_is_reported_and_read_while_counting_waits(
    settings: Settings, valkey: TcpValkey
) -> None:
    settings = settings.model_copy(update={"redis_url": valkey.url})

    async def go() -> None:
        async with open_worker_and_api(settings) as scene:
            worker = scene.worker
            await worker.client.config_set("maxmemory", 1_000_000)
            worker.worker.mark_log()
            await worker.send(make_events(50))
            await worker.wait_logged("OutOfMemoryError")
            await worker.wait_logged("Redis is nearly full")
            assert await scene.answer() == ("materialized", 200)
            attention = json.loads(worker.command("status", "--json"))["attention"]
            assert attention[0]["problem"].startswith("Redis is full ("), attention
            assert attention[0]["remedy"] == "raise maxmemory"
            lines = worker.worker.log_since_mark().splitlines()
            assert sum("Redis is nearly full" in line for line in lines) == 1
            await worker.client.config_set("maxmemory", "0")
            await scene.wait_counters(250)

    asyncio.run(go())


def test_each_node_of_a_cluster_is_looked_at(tmp_path: Path) -> None:
    async def go(first: TcpValkey, second: TcpValkey) -> None:
        async with open_client(Settings(redis_url=second.url), timeout_s=5, retries=0) as two:
            node: Any = two
            settings = Settings(redis_url=first.url, redis_cluster=True)
            async with open_client(settings, timeout_s=5, retries=2) as cluster:
                evictions = RedisEvictions(cluster, "is")
                counters = RedisCounters(cluster, "is")
                await counters.create("acme", day=1, timezone="UTC", complete=True, watermarks=[])
                assert len((await health_of(cluster)).nodes) == 2
                await evictions.record(await evictions.health())
                assert await evictions.refusal() is None
                await node.config_set("maxmemory", "1gb")
                await node.config_set("maxmemory-policy", "allkeys-lru")
                assert await evictions.refusal() == "evicting"
                assert await evictions.mark(["acme", "nobody"], 1) == 1
                assert await evictions.mark(["acme", "nobody"], 2) == 0
                generation = await counters.generation("acme")
                assert generation is not None and not generation.complete
                missing = await counters.missing(generation)
                assert missing.evicted and not missing.unproven

            counts, close = make_rate_counts(settings, timeout_s=5)
            names = [f"key-{i}" for i in range(20)]  # of both nodes
            assert [await counts.incr(name, 60) for name in names] == [1] * 20
            assert [await counts.incr(name, 60) for name in names] == [2] * 20
            await close()

    with redis_cluster(tmp_path) as nodes:
        asyncio.run(go(*nodes))
