"""Failures of Redis and Postgres: no event is lost or doubled, no partial count is answered."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from store.records import Incomplete
from store.settings import Settings
from tests.support.services.base import Services
from tests.support.services.tcp import TcpValkey
from tests.support.waiting import eventually_async
from tests.support.worker_fixture import make_events, now_ms, open_worker_fixture


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


@pytest.mark.long
def test_a_flushed_redis_is_counted_again_and_never_answered_in_part(
    services: Services, settings: Settings
) -> None:
    """After FLUSHALL the counters answer `Incomplete` until they have all events again."""

    async def go() -> None:
        async with open_worker_fixture(settings) as fixture:
            await fixture.send(make_events(3_000))
            await fixture.wait_counted(3_000)
            await fixture.wait_stored(3_000)
            await fixture.client.flushall()
            seen = []

            async def all_again() -> bool:
                seen.append(await fixture.counted())
                return seen[-1] == 3_000

            await eventually_async(all_again, message="all events counted again")
            assert any(isinstance(answer, Incomplete) for answer in seen)
            assert {s for s in seen if not isinstance(s, Incomplete)} == {3_000}
            await fixture.send(make_events(500))
            await fixture.wait_counted(3_500)
            await fixture.wait_stored(3_500)

    run(go())


@pytest.mark.long
def test_a_redis_that_lost_its_last_writes_makes_the_worker_rewind(
    services: Services, settings: Settings
) -> None:
    """The append-only file is truncated, as by a crash: the worker reads those events again."""
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


@pytest.mark.long
def test_counting_resumes_after_redis_was_out_of_memory_or_read_only(
    services: Services, settings: Settings
) -> None:
    async def go() -> None:
        async with open_worker_fixture(settings) as fixture:
            await fixture.send(make_events(1_000))
            await fixture.wait_counted(1_000)
            for fault, repair in (
                (["CONFIG", "SET", "maxmemory", "1"], ["CONFIG", "SET", "maxmemory", "0"]),
                (["REPLICAOF", "127.0.0.1", "1"], ["REPLICAOF", "NO", "ONE"]),
            ):
                before = len(fixture.sent)
                await fixture.client.execute_command(*fault)
                await fixture.send(make_events(700))

                async def refused() -> bool:
                    return "store unavailable" in fixture.worker.log_since_mark()

                await eventually_async(refused, message=f"refused by {fault}")
                fixture.worker.mark_log()
                assert await fixture.counted() == before, "readers still see all that was counted"
                await fixture.client.execute_command(*repair)
                await fixture.wait_counted(before + 700)
            await fixture.wait_stored(2_400)

    run(go())


def test_a_frozen_and_a_restarted_redis_lose_no_event(
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

            await eventually_async(refused, message="the worker reports the frozen Redis")
            services.redis.resume()
            await fixture.wait_counted(1_000)
            services.redis.stop()
            await fixture.send(make_events(500))
            services.redis.start()
            await fixture.wait_counted(1_500)
            await fixture.wait_stored(1_500)

    run(go())


@pytest.mark.long
def test_counting_continues_without_postgres_up_to_the_buffer_and_history_catches_up(
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
            # When the buffer is full, the worker waits and loses nothing.
            await fixture.send(make_events(12_000))

            async def full() -> bool:
                counted = await fixture.counted()
                return isinstance(counted, int) and counted >= 1_000 + 5_000

            await eventually_async(full, message="the buffer fills")
            # Each of 4 partitions may have a commit of 500 in flight and one above the buffer.
            assert await fixture.counted() <= 1_000 + 5_000 + 4 * 2 * 500  # type: ignore[operator]
            services.postgres.start()
            await fixture.wait_counted(16_000)
            await fixture.wait_stored(16_000)

    run(go())


@pytest.mark.long
def test_counting_restarts_without_postgres_and_history_catches_up(
    services: Services, settings: Settings
) -> None:
    """A worker starts while Postgres is down, and rewinds, because Redis went back in time.

    Counting does not wait for catalogs, nor for the watermarks of history, and history misses no
    event.
    """

    async def go() -> None:
        async with open_worker_fixture(settings) as fixture:
            await fixture.send(make_events(1_000))
            await fixture.wait_counted(1_000)
            await fixture.wait_stored(1_000)
            older = {key: await fixture.client.dump(key) for key in await fixture.client.keys("*")}
            services.postgres.stop()
            fixture.worker.kill()
            fixture.worker.start()
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


@pytest.mark.long
def test_a_worker_that_counts_nothing_while_events_wait_exits(
    services: Services, settings: Settings
) -> None:
    """The watchdog ends the worker, so that its supervisor starts another."""

    async def go() -> None:
        async with open_worker_fixture(settings, redis_timeout_s=1.0, watchdog_s=5.0) as fixture:
            await fixture.send(make_events(100))
            await fixture.wait_counted(100)
            services.redis.pause()
            await fixture.send(make_events(100))

            assert await fixture.wait_ended() != 0
            assert "nothing counted for 5 s while events wait" in fixture.worker.log_tail(400)
            services.redis.resume()
            fixture.worker.start()
            await fixture.wait_counted(200)

    run(go())


@pytest.mark.long
def test_a_worker_that_fails_and_cannot_stop_ends_with_an_error(
    services: Services, settings: Settings
) -> None:
    """Kafka and Redis are frozen, so leaving the group hangs: supervisors restart after exit 1."""

    async def go() -> None:
        async with open_worker_fixture(settings, redis_timeout_s=1.0, watchdog_s=5.0) as fixture:
            await fixture.send(make_events(100))
            await fixture.wait_counted(100)
            services.redis.pause()
            await fixture.send(make_events(100))

            async def failed() -> bool:
                return "nothing counted for 5 s" in fixture.worker.log_tail(400)

            try:
                await eventually_async(failed, message="the worker fails")
                services.kafka.pause()
                assert await fixture.wait_ended() == 1
            finally:
                services.kafka.resume()
                services.redis.resume()

    run(go())


#: Stops the fetches of a worker on SIGALRM, as aiokafka does after some outages (its issue 1154).
_SILENT_CONSUMER = """
import asyncio, signal
def silence(*_):
    from streams.kafka.consumer import FetchThrottle
    async def hang(*_):
        await asyncio.Event().wait()
    FetchThrottle.__call__ = hang
signal.signal(signal.SIGALRM, silence)
"""


@pytest.mark.long
def test_a_worker_whose_consumer_is_silent_exits(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until then the lag is not known: it is not 0."""
    (tmp_path / "sitecustomize.py").write_text(_SILENT_CONSUMER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    async def go() -> None:
        async with open_worker_fixture(settings, watchdog_s=10.0) as fixture:
            await fixture.send(make_events(100))
            await fixture.wait_counted(100)
            fixture.worker.signal(signal.SIGALRM)
            await fixture.send(make_events(100))

            async def unknown() -> bool:
                return await fixture.counters.reports.lag(now_ms()) is None

            await eventually_async(unknown, message="an unknown lag")
            assert fixture.worker.is_running()
            assert await fixture.wait_ended() == 1
            assert "was answered for 10 s, while the broker answers others" in (
                fixture.worker.log_tail(400)
            )
            fixture.worker.start()
            await fixture.wait_counted(200)

    run(go())


@pytest.mark.long
def test_a_failover_to_a_replica_that_lags_loses_and_doubles_nothing(
    services: Services, settings: Settings, tmp_path: Path
) -> None:
    """The replica stops replicating, and later takes over at the same address.

    Meanwhile the primary has counted more, so the replica has less than was read.
    """

    async def go() -> None:
        primary = services.redis.url.removeprefix("redis://").partition("/")[0]
        replica = TcpValkey(None, tmp_path)
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
    """A TCP proxy that connects to one server, and then to another, as after a failover."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Switch:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._disconnect()

    async def to(self, target: str) -> None:
        """Connect new clients to `target`, and close the existing connections."""
        self._target = target
        await self._disconnect()

    async def _disconnect(self) -> None:
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
