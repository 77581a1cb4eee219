"""Record timestamps that are no time in ms are taken for the time of reading."""

from __future__ import annotations

import asyncio

import pytest
from aiokafka import AIOKafkaProducer

from store.settings import Settings
from tests.support.events import encode, make_event
from tests.support.program import Program
from tests.support.services.base import Services
from tests.support.services.wheels import WheelBroker
from tests.support.worker_fixture import now_ms

#: In s, in µs, in ns, and the largest there is.
TIMESTAMPS = (0, 1_795_478_400, 1_795_478_400_000_000, 1_795_478_400_000_000_000, 2**63 - 1)


async def produce(settings: Settings, numbers: range) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=settings.brokers)
    await producer.start()
    try:
        for number in numbers:
            event = make_event(identity=f"e-{number}", occurred_ms=now_ms())
            await producer.send_and_wait(
                settings.interactions_topic,
                encode(event),
                partition=0,
                timestamp_ms=TIMESTAMPS[number % len(TIMESTAMPS)],
            )
    finally:
        await producer.stop()


def test_events_with_any_record_timestamp_are_counted_stored_and_rebuilt(
    program: Program, services: Services
) -> None:
    if not isinstance(services.kafka, WheelBroker):
        pytest.skip("Apache Kafka 4 refuses such timestamps; the embedded broker takes them")
    worker = program.worker()
    events = len(TIMESTAMPS)
    asyncio.run(produce(program.settings, range(events)))
    program.wait_for(counted=events, stored=events, alive=[worker])
    asyncio.run(produce(program.settings, range(events)))  # copies
    program.wait_for(counted=2 * events, stored=2 * events, alive=[worker])
    for source in ("topic", "history", "auto"):
        output = program.run("rebuild", "--tenant", "acme", "--from", source)
        assert f"tenant acme: {events} events" in output
