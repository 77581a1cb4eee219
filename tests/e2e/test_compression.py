"""A worker reads records in every compression that a producer may choose."""

from __future__ import annotations

import asyncio

from aiokafka import AIOKafkaProducer

from store.settings import Settings
from tests.support.events import encode, make_event
from tests.support.program import Program

COMPRESSIONS = (None, "gzip", "snappy", "lz4", "zstd")
EVENTS = 20


async def produce(settings: Settings, compression: str | None) -> None:
    """Send EVENTS events in as few batches as possible: single records are hardly compressed."""
    producer = AIOKafkaProducer(
        bootstrap_servers=settings.brokers, compression_type=compression, linger_ms=50
    )
    await producer.start()
    try:
        for number in range(EVENTS):
            event = make_event(identity=f"{compression}-{number}", occurred_ms=1_795_000_000_000)
            await producer.send(settings.interactions_topic, encode(event), partition=0)
    finally:
        await producer.stop()


def test_all_compressions_are_counted(program: Program) -> None:
    worker = program.worker()
    for compression in COMPRESSIONS:
        asyncio.run(produce(program.settings, compression))
    events = EVENTS * len(COMPRESSIONS)
    program.wait_for(counted=events, stored=events, alive=[worker])
