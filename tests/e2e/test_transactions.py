"""A producer that sends in transactions: the markers take offsets, but are no events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

import pytest
from aiokafka import AIOKafkaProducer

from store.records import Event
from store.settings import Settings
from tests.support.events import encode
from tests.support.services.base import Services
from tests.support.services.wheels import WheelBroker
from tests.support.waiting import eventually_async
from tests.support.worker_fixture import WorkerFixture, make_events, now_ms, open_worker_fixture

KEPT, DROPPED = 30, 7


@pytest.fixture(autouse=True)
def has_transactions(services: Services) -> None:
    if isinstance(services.kafka, WheelBroker):
        pytest.skip("the embedded broker has no transactions; the real one is tested in CI")


async def transact(fixture: WorkerFixture, events: Sequence[Event], *, commit: bool) -> None:
    producer = AIOKafkaProducer(
        bootstrap_servers=fixture.settings.brokers, transactional_id="shop", acks="all"
    )
    await producer.start()
    try:
        await producer.begin_transaction()
        for event in events:
            await producer.send_and_wait(
                fixture.settings.interactions_topic, encode(event), partition=0
            )
        await (producer.commit_transaction() if commit else producer.abort_transaction())
    finally:
        await producer.stop()


def test_a_transaction_marker_is_no_waiting_event(settings: Settings) -> None:
    """The marker is the last in its partition: a worker that waited for it would stop itself."""

    async def go() -> None:
        async with open_worker_fixture(settings) as fixture:
            await transact(fixture, make_events(KEPT), commit=True)
            await fixture.wait_counted(KEPT)

            async def no_lag() -> bool:
                assert await fixture.counters.reports.lag(now_ms()) == 0
                return True

            await eventually_async(no_lag, message="no lag")

    asyncio.run(go())


def test_an_open_transaction_is_no_stall(settings: Settings) -> None:
    """Its events cannot be read yet, however long that takes: the worker stays, without lag."""

    async def go() -> None:
        async with open_worker_fixture(settings, watchdog_s=5.0) as fixture:
            producer = AIOKafkaProducer(
                bootstrap_servers=settings.brokers, transactional_id="slow", acks="all"
            )
            await producer.start()
            await producer.begin_transaction()
            (event,) = make_events(1)
            await producer.send_and_wait(settings.interactions_topic, encode(event), partition=0)
            began_ms = now_ms()

            async def stays() -> bool:
                assert fixture.worker.is_running(), fixture.worker.log_tail()
                reports = await fixture.counters.reports.progress()
                assert reports and min(report.at_ms for report in reports) > began_ms + 12_000
                return True

            await eventually_async(stays, timeout_s=40, message="reports 12 s later")
            assert await fixture.counters.reports.lag(now_ms()) == 0
            await producer.commit_transaction()
            await producer.stop()
            await fixture.wait_counted(1)

    asyncio.run(go())


def test_status_reports_no_lag_at_the_end_of_a_transaction(settings: Settings) -> None:
    async def go() -> None:
        async with open_worker_fixture(settings) as fixture:
            await transact(fixture, make_events(KEPT), commit=True)
            await fixture.wait_counted(KEPT)

            async def no_lag() -> bool:
                state = json.loads(await asyncio.to_thread(fixture.command, "status", "--json"))
                assert (state["lag"], state["historyLag"]) == (0, 0)
                return True

            await eventually_async(no_lag, timeout_s=20, message="no lag")

    asyncio.run(go())


def test_aborted_events_do_not_count(settings: Settings) -> None:
    async def go() -> None:
        async with open_worker_fixture(settings) as fixture:
            await transact(fixture, make_events(DROPPED), commit=False)
            await transact(fixture, make_events(KEPT), commit=True)
            await fixture.wait_counted(KEPT, timeout_s=20)

    asyncio.run(go())
