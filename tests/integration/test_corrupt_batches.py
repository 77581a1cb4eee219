"""Corrupt batches on the disk of a real broker: they are quarantined, and what follows counts."""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer

from store.postgres.pool import open_pool
from store.postgres.quarantine import Quarantine
from store.settings import Settings
from tests.support.events import encode
from tests.support.services.base import Services
from tests.support.services.real import RealKafka
from tests.support.worker_fixture import make_events, open_worker_fixture

pytestmark = pytest.mark.anyio
BATCH = 5


async def send_batches(settings: Settings, n: int) -> None:
    """Send `n` batches of BATCH events each to partition 0."""
    async with AIOKafkaProducer(bootstrap_servers=settings.brokers, acks="all") as producer:
        for _ in range(n):
            batch = producer.create_batch()
            for event in make_events(BATCH):
                assert batch.append(key=b"k", value=encode(event), timestamp=None)
            batch.close()
            await (await producer.send_batch(batch, settings.interactions_topic, partition=0))


def damage(segment: Path, *base_offsets: int) -> None:
    """Change the last byte of the batches that begin at these offsets."""
    data = bytearray(segment.read_bytes())
    at = 0
    while at < len(data):
        base_offset, length = struct.unpack_from(">qi", data, at)
        end = at + 12 + length
        if base_offset in base_offsets:
            with segment.open("r+b") as file:
                file.seek(end - 1)
                file.write(bytes([data[end - 1] ^ 0xFF]))
        at = end


@pytest.mark.long
async def test_corrupt_batches_are_quarantined_and_the_others_count(
    settings: Settings, services: Services
) -> None:
    """The second, the third and the last batch: what ends the last one is only its own header."""
    if not isinstance(services.kafka, RealKafka):
        pytest.skip("the embedded broker keeps nothing on disk")
    await send_batches(settings, 5)
    (folder,) = services.kafka.data_folder.rglob(f"{settings.interactions_topic}-0")
    damage(folder / f"{0:020}.log", 5, 10, 20)
    async with open_worker_fixture(settings) as fixture:
        await fixture.wait_counted(10)
        await fixture.wait_stored(10)
        await fixture.wait_logged("record quarantined")
        await send_batches(settings, 1)
        await fixture.wait_counted(15)
        await fixture.wait_stored(15)
        output = await asyncio.to_thread(fixture.command, "rebuild", "--from", "topic")
        assert "15 events" in output
        assert fixture.worker.stop() == 0
    async with open_pool(settings, max_size=1) as pool:
        rows = await Quarantine(pool).newest(10)
    assert {(row.partition, row.offset, row.next_offset, row.reason) for row in rows} == {
        (0, offset, offset + BATCH, "corrupt_batch") for offset in (5, 10, 20)
    }
    assert all(row.error.startswith("wrong checksum; ") and row.size for row in rows)
