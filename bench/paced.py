"""Send a steady load at a low processor cost.

    python -m bench.paced RATE CUSTOMERS

`RATE` is in events per second. The records are made at start, and only the ids change when a record
is sent again, so that the load takes little of the machine that a bench measures. No id is that of
an earlier run: its events would be copies, which cost less. Runs until SIGTERM; the settings come
from the environment.
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
TICK_S = 0.02  # like a producer with linger.ms=20: keeps the cost of the load low
SEED = 7
ID_PREFIX = b"syn-%x-" % SEED  # of the ids that `Traffic` makes with this seed


async def run(settings: Settings, rate_s: float, customers: int) -> None:
    """Send `rate_s` events per second, for ever.

    Raises SystemExit if the events of one tick and partition do not fit into a batch.
    """
    producer = AIOKafkaProducer(
        bootstrap_servers=settings.brokers, acks="all", max_batch_size=BATCH_BYTES_MAX
    )
    await producer.start()
    topic = settings.interactions_topic
    partitions = sorted(await producer.partitions_for(topic))
    traffic = Traffic(seed=SEED, customers=customers, tenants=(TENANT,))
    now_ms = time.time_ns() // 1_000_000
    made = [traffic.record(now_ms) for _ in range(RECORDS)]
    partition_of = [producer._partitioner(r.key, partitions, partitions) for r in made]
    sent, began_s = 0, time.monotonic()
    while True:
        due = int((time.monotonic() - began_s) * rate_s)
        batches: dict[int, BatchBuilder] = defaultdict(producer.create_batch)
        for number in range(sent, due):
            turn, index = divmod(number, RECORDS)
            record = made[index]
            value = record.value.replace(ID_PREFIX, b"%s%x-%x-" % (ID_PREFIX, now_ms, turn), 1)
            batch = batches[partition_of[index]]
            if batch.append(key=record.key, value=value, timestamp=None) is None:
                raise SystemExit(
                    f"{rate_s:.0f} events/s do not fit into batches of {BATCH_BYTES_MAX} bytes; "
                    "use a lower rate or more partitions"
                )
        for partition, batch in batches.items():
            await producer.send_batch(batch, topic, partition=partition)
        sent = due
        await asyncio.sleep(TICK_S)


if __name__ == "__main__":
    asyncio.run(run(Settings(), float(sys.argv[1]), int(sys.argv[2])))
