"""Redis and Postgres fail in every way they have; nothing is lost, doubled, or half served."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from cli.embedded.servers import Valkey
from store.records import Incomplete
from store.settings import Settings
from tests.support.services.base import Services
from tests.support.waiting import eventually_async
from tests.support.worker_fixture import make_events, open_worker_fixture


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


def test_a_flushed_redis_is_never_half_served_and_is_counted_anew(
    services: Services, settings: Settings
) -> None:
    """After FLUSHALL readers are told that the counters cannot answer, until they hold all."""

    async def go() -> None:
        async with open_worker_fixture(settings) as fixture:
            await fixture.send(make_events(3_000))
            await fixture.wait_counted(3_000)
            await fixture.wait_stored(3_000)
            await fixture.client.flushall()
            seen = []

            async def whole_again() -> bool:
                seen.append(await fixture.counted())
                return seen[-1] == 3_000

            await eventually_async(whole_again, timeout_s=60, message="counted anew")
            assert any(isinstance(answer, Incomplete) for answer in seen)
            assert {s for s in seen if not isinstance(s, Incomplete)} == {3_000}
            await fixture.send(make_events(500))
            await fixture.wait_counted(3_500)
            await fixture.wait_stored(3_500)

    run(go())


def test_a_redis_that_lost_its_tail_is_read_again_from_there(
    services: Services, settings: Settings
) -> None:
    """The end of the append-only file is cut off, as a crash does: the worker seeks back."""
    if services.kind == "docker":
        pytest.skip("reaches into the files of Redis, which are in a container here")

    async def go() -> None:
        async with open_worker_fixture(settings) as fixture:
            await fixture.send(make_events(2_000))
            await fixture.wait_counted(2_000)
            await fixture.wait_stored(2_000)
            folder = Path((await fixture.client.config_get("dir"))["dir"]) / "appendonlydir"
            services.redis.stop()
            (log_file,) = folder.glob("*.incr.aof")
            size = log_file.stat().st_size
            with log_file.open("r+b") as file:
                file.truncate(int(size * 0.7))
            services.redis.start()
            await fixture.wait_counted(2_000)
            await fixture.send(make_events(500))
            await fixture.wait_counted(2_500)
            await fixture.wait_stored(2_500)

    run(go())


def test_a_redis_without_memory_or_that_only_reads_stops_nothing_for_good(
    services: Services, settings: Settings
) -> None:
    async def go() -> None:
        async with open_worker_fixture(settings) as fixture:
            await fixture.send(make_events(1_000))
            await fixture.wait_counted(1_000)
            for fault, mended in (
                (["CONFIG", "SET", "maxmemory", "1"], ["CONFIG", "SET", "maxmemory", "0"]),
                (["REPLICAOF", "127.0.0.1", "1"], ["REPLICAOF", "NO", "ONE"]),
            ):
                before = len(fixture.sent)
                await fixture.client.execute_command(*fault)
                await fixture.send(make_events(700))

                async def refused() -> bool:
                    return "store unavailable" in fixture.worker.log_since_mark()

                await eventually_async(refused, timeout_s=30, message=f"refused by {fault}")
                fixture.worker.mark_log()
                assert await fixture.counted() == before, "readers still have what is counted"
                await fixture.client.execute_command(*mended)
                await fixture.wait_counted(before + 700)
            await fixture.wait_stored(2_400)

    run(go())


def test_a_frozen_and_a_restarted_redis_lose_nothing(
    services: Services, settings: Settings
) -> None:
    async def go() -> None:
        async with open_worker_fixture(settings, redis_timeout_s=1.0) as fixture:
            await fixture.send(make_events(500))
            await fixture.wait_counted(500)
            services.redis.pause()
            await fixture.send(make_events(500))

            async def refused() -> bool:
                return "store unavailable" in fixture.worker.log_since_mark()

            await eventually_async(refused, timeout_s=30, message="the frozen Redis is noticed")
            services.redis.resume()
            await fixture.wait_counted(1_000)
            services.redis.stop()
            await fixture.send(make_events(500))
            services.redis.start()
            await fixture.wait_counted(1_500)
            await fixture.wait_stored(1_500)

    run(go())


def test_counting_goes_on_without_postgres_up_to_the_buffer_and_history_catches_up(
    services: Services, settings: Settings
) -> None:
    async def go() -> None:
        async with open_worker_fixture(settings, history_buffer_events=5_000) as fixture:
            await fixture.send(make_events(1_000))
            await fixture.wait_counted(1_000)
            await fixture.wait_stored(1_000)
            services.postgres.stop()
            await fixture.send(make_events(3_000))
            await fixture.wait_counted(4_000)
            assert await fixture.stored() is None
            # Past the buffer the worker waits, and loses nothing by it.
            await fixture.send(make_events(12_000))

            async def waits() -> bool:
                counted = await fixture.counted()
                return isinstance(counted, int) and counted >= 1_000 + 5_000

            await eventually_async(waits, timeout_s=60, message="the buffer fills")
            # Each of 4 partitions may have a slice of 500 counted, and one in the buffer above it.
            assert await fixture.counted() <= 1_000 + 5_000 + 4 * 2 * 500  # type: ignore[operator]
            services.postgres.start()
            await fixture.wait_counted(16_000)
            await fixture.wait_stored(16_000)

    run(go())


def test_counting_starts_again_without_postgres_and_history_catches_up(
    services: Services, settings: Settings
) -> None:
    """Reading begins anew, here since Redis fell back to an older state, while nobody can say
    where history is: counting does not wait for that, and history misses nothing by it."""

    async def go() -> None:
        async with open_worker_fixture(settings) as fixture:
            await fixture.send(make_events(1_000))
            await fixture.wait_counted(1_000)
            await fixture.wait_stored(1_000)
            older = {key: await fixture.client.dump(key) for key in await fixture.client.keys("*")}
            services.postgres.stop()
            await fixture.send(make_events(1_000))
            await fixture.wait_counted(2_000)
            fixture.worker.mark_log()
            transaction = fixture.client.pipeline(transaction=True)
            transaction.flushall()
            for key, value in older.items():
                transaction.restore(key, 0, value)
            await transaction.execute()
            await fixture.send(make_events(500))
            await fixture.wait_counted(2_500)
            assert "history unavailable, reading starts" in fixture.worker.log_since_mark()
            assert await fixture.stored() is None
            services.postgres.start()
            await fixture.wait_stored(2_500)
            await fixture.send(make_events(500))
            await fixture.wait_counted(3_000)
            await fixture.wait_stored(3_000)

    run(go())


def test_a_worker_that_counts_nothing_while_events_wait_ends_itself(
    services: Services, settings: Settings
) -> None:
    """The watchdog: whoever supervises the worker then starts another."""

    async def go() -> None:
        async with open_worker_fixture(settings, redis_timeout_s=1.0, watchdog_s=5.0) as fixture:
            await fixture.send(make_events(100))
            await fixture.wait_counted(100)
            services.redis.pause()
            await fixture.send(make_events(100))

            async def ended() -> bool:
                return fixture.worker.exit_code() is not None

            await eventually_async(ended, timeout_s=60, message="the worker ends itself")
            assert fixture.worker.exit_code() not in (0, None)
            assert "nothing counted for 5 s while events wait" in fixture.worker.log_tail(400)
            services.redis.resume()
            fixture.worker.start()
            await fixture.wait_counted(200)

    run(go())


def test_a_failover_to_a_replica_that_lags_loses_and_doubles_nothing(
    services: Services, settings: Settings, tmp_path: Path
) -> None:
    """The replica stops replicating, the primary goes on counting and is lost; the replica, which
    has less than was read, takes over under the same address."""

    async def go() -> None:
        primary = services.redis.url.removeprefix("redis://").partition("/")[0]
        replica = Valkey(None, tmp_path)
        async with Switch(primary) as switch:
            replica.start()
            try:
                url = f"redis://{switch.address}/0"
                async with open_worker_fixture(settings, redis_url=url) as fixture:
                    await fixture.send(make_events(2_000))
                    await fixture.wait_counted(2_000)
                    host, _, port = primary.partition(":")
                    client: Any = Redis.from_url(replica.url)
                    await client.execute_command("REPLICAOF", host, port)

                    async def synced() -> bool:
                        return bool(
                            (await client.info("replication"))["master_link_status"] == "up"
                        )

                    await eventually_async(synced, message="the replica has a copy")
                    await client.execute_command("REPLICAOF", "NO", "ONE")
                    await client.aclose()
                    await fixture.send(make_events(1_000))
                    await fixture.wait_counted(3_000)
                    await fixture.wait_stored(3_000)
                    await switch.to(replica.address)
                    await fixture.wait_counted(3_000)
                    await fixture.send(make_events(500))
                    await fixture.wait_counted(3_500)
                    await fixture.wait_stored(3_500)
                    log = fixture.worker.log_tail(400)
                    assert "rewinding to read again what a store lacks" in log
            finally:
                replica.stop()

    run(go())


class Switch:
    """A TCP address that leads to one server, and then to another, as a failover does."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Switch:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._cut()

    async def to(self, target: str) -> None:
        """New connections lead to `target`; the old ones are cut."""
        self._target = target
        await self._cut()

    async def _cut(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        host, _, port = self._target.partition(":")
        there = None
        try:
            back, there = await asyncio.open_connection(host, int(port))
            await asyncio.gather(_copy(reader, there), _copy(back, writer))
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()
            if there is not None:
                there.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(65_536):
        writer.write(chunk)
        await writer.drain()
    writer.close()
