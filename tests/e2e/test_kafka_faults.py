"""Kafka answers with interruptions, restarts and rebalances; every event counts once."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from store.settings import Settings
from tests.support.services.base import Services
from tests.support.waiting import eventually_async
from tests.support.worker_fixture import make_events, open_worker_fixture
from tests.support.worker_process import WorkerProcess

pytestmark = pytest.mark.long

PAUSED_S, RUNNING_S = 0.3, 0.1


def test_a_broker_with_interruptions_is_only_slow(services: Services, settings: Settings) -> None:
    """It answers for 0.1 s, then not for 0.3 s, again and again until all events are counted."""

    async def go() -> None:
        async with open_worker_fixture(settings) as fixture:
            await fixture.send(make_events(1_000))
            await fixture.wait_counted(1_000)
            assert fixture.worker.stop() == 0
            await fixture.send(make_events(20_000))
            fixture.worker.start()
            interruptions = 0
            interrupted = asyncio.Event()

            async def interrupt() -> None:
                nonlocal interruptions
                try:
                    while True:
                        services.kafka.pause()
                        interruptions += 1
                        await asyncio.sleep(PAUSED_S)
                        services.kafka.resume()
                        interrupted.set()
                        await asyncio.sleep(RUNNING_S)
                finally:
                    services.kafka.resume()

            fault = asyncio.create_task(interrupt())
            try:
                await interrupted.wait()
                await fixture.wait_counted(21_000)
            finally:
                fault.cancel()
                await asyncio.gather(fault, return_exceptions=True)
            assert interruptions >= 3, "all was counted before the third interruption"
            await fixture.send(make_events(500))
            await fixture.wait_counted(21_500)
            await fixture.wait_stored(21_500)

    asyncio.run(go())


def test_a_worker_continues_after_the_broker_was_killed(
    services: Services, settings: Settings
) -> None:
    async def go() -> None:
        async with open_worker_fixture(settings) as fixture:
            await fixture.send(make_events(3_000))
            await fixture.wait_counted(3_000)
            for total in (6_000, 9_000):
                await fixture.send(
                    make_events(3_000)
                )  # some of them wait while the broker is unavailable
                services.kafka.kill()
                services.kafka.start()
                await fixture.wait_counted(total)
            assert fixture.worker.exit_code() is None, "the worker ended"
            await fixture.wait_stored(9_000)

    if services.kind == "wheels":
        pytest.skip("the embedded broker keeps no data; CI tests Apache Kafka")
    asyncio.run(go())


def test_a_worker_that_starts_before_the_broker_waits_for_it(
    services: Services, settings: Settings
) -> None:
    """It can be stopped while it waits, and counts once the broker is there."""

    async def go() -> None:
        async with open_worker_fixture(settings) as fixture:
            await fixture.send(make_events(500))
            await fixture.wait_counted(500)
            for stops_early in (True, False):
                assert fixture.worker.stop() == 0
                services.kafka.stop()
                fixture.worker.mark_log()
                fixture.worker.start()

                async def waits() -> bool:
                    log = fixture.worker.log_since_mark()
                    assert fixture.worker.exit_code() is None, log
                    return log.count('"store unavailable, retrying"') >= 3

                try:
                    await eventually_async(waits, message="several attempts")
                    if stops_early:
                        assert fixture.worker.stop() == 0
                finally:
                    services.kafka.start()
                if stops_early:
                    fixture.worker.start()
                await fixture.send(make_events(500))
                await fixture.wait_counted(len(fixture.sent))

    if services.kind == "wheels":
        pytest.skip("the embedded broker keeps no data; CI tests Apache Kafka")
    asyncio.run(go())


def test_repeated_rebalances_lose_and_double_nothing(
    services: Services, settings: Settings, tmp_path: Path
) -> None:
    """Workers join and leave while events arrive, faster than the group becomes stable."""

    async def go() -> None:
        async with open_worker_fixture(settings) as fixture:
            await fixture.send(make_events(1_000))
            await fixture.wait_counted(1_000)
            guests = [WorkerProcess(f"guest-{n}", settings, tmp_path) for n in range(2)]
            try:
                for round_ in range(3):
                    for guest in guests:
                        guest.start()
                        await fixture.send(make_events(1_500))
                        await until_it_reads(guest)
                        await fixture.send(make_events(1_500))
                    for guest in guests:
                        if round_ == 1:
                            guest.kill()
                        else:
                            guest.stop()
            finally:
                for guest in guests:
                    if guest.is_running():
                        guest.kill()
            await fixture.wait_counted(19_000)
            await fixture.wait_stored(19_000)

    if services.kind == "wheels":
        pytest.skip(
            "the embedded broker's groups take long to become stable; CI tests Apache Kafka"
        )
    asyncio.run(go())


async def until_it_reads(guest: WorkerProcess) -> None:
    """Wait until the guest has partitions."""

    async def reads() -> bool:
        return "partitions assigned" in guest.log_since_mark()

    await eventually_async(reads, message=f"{guest.name} has partitions")
    guest.mark_log()
