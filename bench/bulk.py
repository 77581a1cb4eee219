"""Fill the topic with synthetic events from several processes.

A record costs 22 µs to make and, sent one by one, as much again. Here each process makes records of
its own and sends them in batches that it has packed itself.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Sequence
from typing import Any, Final
from zlib import crc32

from aiokafka import AIOKafkaProducer

from cli.traffic.synthetic import Traffic
from store.settings import Settings
from streams.kafka.connection import aiokafka_options

PROCESSES: Final = 2
BATCH_BYTES: Final = 262_144
#: Batches of a process that wait for their acknowledgement.
IN_FLIGHT_MAX: Final = 16


def fill(settings: Settings, *, events: int, customers: int, tenants: Sequence[str]) -> None:
    """Send `events` events that occur now, of the tenants in random order, and wait for all."""
    parts = [events // PROCESSES] * PROCESSES
    parts[0] += events - sum(parts)
    now_ms = time.time_ns() // 1_000_000
    jobs = [(settings, n, part, customers, tuple(tenants), now_ms) for n, part in enumerate(parts)]
    # Not forked: the bench has event loops and connections of its own.
    with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
        pool.map(_fill_part, jobs, chunksize=1)


def _fill_part(job: tuple[Settings, int, int, int, tuple[str, ...], int]) -> None:
    asyncio.run(_send(*job))


async def _send(
    settings: Settings,
    seed: int,
    events: int,
    customers: int,
    tenants: tuple[str, ...],
    now_ms: int,
) -> None:
    traffic = Traffic(seed=seed, customers=customers, tenants=tenants)
    topic = settings.interactions_topic
    producer = AIOKafkaProducer(
        **aiokafka_options(settings), acks="all", max_batch_size=BATCH_BYTES
    )
    await producer.start()
    try:
        partitions = len(await producer.partitions_for(topic))
        batches: list[Any] = [producer.create_batch() for _ in range(partitions)]
        sent: list[asyncio.Future[Any]] = []

        async def send(partition: int) -> None:
            batch, batches[partition] = batches[partition], producer.create_batch()
            if len(sent) >= IN_FLIGHT_MAX:
                await sent.pop(0)
            sent.append(await producer.send_batch(batch, topic, partition=partition))

        for _ in range(events):
            key, value = traffic.record(now_ms)
            partition = crc32(key) % partitions
            if batches[partition].append(key=key, value=value, timestamp=now_ms) is None:
                await send(partition)
                batches[partition].append(key=key, value=value, timestamp=now_ms)
        for partition in range(partitions):
            if batches[partition].record_count():
                await send(partition)
        await asyncio.gather(*sent)
    finally:
        await producer.stop()
