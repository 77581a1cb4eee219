"""A steady load at little cost, for benches on a machine that has other work: records are made
beforehand, and only their ids are new. Runs until SIGTERM; the settings come from the environment.

    python -m bench.paced RATE CUSTOMERS
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import defaultdict

from aiokafka import AIOKafkaProducer
from aiokafka.producer.message_accumulator import BatchBuilder

from bench.servers import TENANT
from cli.traffic.synthetic import Traffic
from store.settings import Settings

RECORDS = 20_000
BATCH_BYTES_MAX = 1_000_000
TICK_S = 0.02  # as a producer with linger.ms=20: the load shall cost the machine little
SEED = 7
MARK = b"syn-%x-" % SEED  # how the ids of this seed begin


async def run(settings: Settings, rate_s: float, customers: int) -> None:
    producer = AIOKafkaProducer(
        bootstrap_servers=settings.brokers, acks="all", max_batch_size=BATCH_BYTES_MAX
    )
    await producer.start()
    topic = settings.interactions_topic
    partitions = sorted(await producer.partitions_for(topic))
    traffic = Traffic(seed=SEED, customers=customers, tenants=(TENANT,))
    now_ms = time.time_ns() // 1_000_000
    made = [traffic.record(now_ms) for _ in range(RECORDS)]
    places = [producer._partitioner(r.key, partitions, partitions) for r in made]
    sent, began_s = 0, time.monotonic()
    while True:
        due = int((time.monotonic() - began_s) * rate_s)
        batches: dict[int, BatchBuilder] = defaultdict(producer.create_batch)
        for number in range(sent, due):
            turn, place = divmod(number, RECORDS)
            record = made[place]
            value = record.value.replace(MARK, b"%s%x-" % (MARK, turn), 1)
            if batches[places[place]].append(key=record.key, value=value, timestamp=None) is None:
                raise SystemExit(f"{rate_s:.0f} events/s are more than a batch holds")
        for partition, batch in batches.items():
            await producer.send_batch(batch, topic, partition=partition)
        sent = due
        await asyncio.sleep(TICK_S)


if __name__ == "__main__":
    asyncio.run(run(Settings(), float(sys.argv[1]), int(sys.argv[2])))
