"""Fuzz run: mutated records through a running worker, each of which must be accounted for.

`python -m tests.support.fuzz --records 1000000` sends them to Apache Kafka in every compression,
some in transactions that commit and some in transactions that abort. Then each offset of the topic
is in exactly one place: counted, a copy of what was counted, dead-lettered, quarantined, or skipped
as another event type. The worker is never restarted.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from aiokafka import AIOKafkaProducer

from store.clock import system_clock_ms
from store.postgres.migrate import migrate
from store.postgres.pool import open_pool
from store.redis.counters import open_counters
from store.settings import Settings
from tests.support.accounting import account
from tests.support.fuzz_stream import COMPRESSIONS, FuzzRecord, records
from tests.support.resources import make_settings, make_topics
from tests.support.services.base import Services
from tests.support.services.start import start_services
from tests.support.topics import read_ends
from tests.support.waiting import eventually_async
from tests.support.worker_process import WorkerProcess

#: Records that are sent together, by one producer.
GROUP: Final = 200
#: Any topic takes a record of this size, uncompressed.
SAFE_BYTES: Final = 500_000
CATCH_UP_S: Final = 600.0


class FuzzRun:
    """One run: sends the records while the worker reads, then accounts for each offset."""

    def __init__(
        self, services: Services, settings: Settings, *, seed: int, say: Callable[[str], None]
    ) -> None:
        self.settings, self.say = settings, say
        self._has_transactions = services.kind != "wheels"
        self._seed = seed
        self._chosen = random.Random(seed + 1)
        self._refused = 0
        """Records that the broker or the client of the producer does not take."""
        self._sent = 0

    async def run(self, n: int) -> Counter[str]:
        """Return how many records went which way. Raises AssertionError if one is lost."""
        folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
        worker = WorkerProcess("fuzzed", self.settings, folder)
        worker.start()
        try:
            await self._send(n, worker)
            self.say(f"sent {self._sent:,}, refused by the broker {self._refused:,}")
            await self._wait_until_read(worker)
            found: Counter[str] = Counter((await account(self.settings)).values())
            assert found.total() == self._sent, (found, self._sent)
            assert worker.stop() == 0, worker.log_tail()
        except BaseException:
            self.say(worker.log_tail(40))
            raise
        finally:
            worker.kill()
            shutil.rmtree(folder, ignore_errors=True)
        return found

    # ---- production

    async def _send(self, n: int, worker: WorkerProcess) -> None:
        plain = [self._producer(compression_type=name) for name in COMPRESSIONS]
        transactional = []
        if self._has_transactions:
            transactional = [self._producer(transactional_id=f"fuzz-{self._seed}")]
        producers = [*plain, *transactional]
        await asyncio.gather(*(producer.start() for producer in producers))
        try:
            group: list[FuzzRecord] = []
            for record in records(self._seed, n, system_clock_ms()):
                group.append(record)
                if len(group) == GROUP:
                    await self._send_group(self._chosen.choice(producers), group, transactional)
                    assert worker.is_running(), "the worker has ended"
                    group = []
            if group:
                await self._send_group(plain[0], group, transactional)
            # A partition that ends with transaction markers is never counted to its end.
            topic = self.settings.interactions_topic
            for partition in await plain[0].partitions_for(topic):
                await plain[0].send_and_wait(topic, b"the last one", partition=partition)
                self._sent += 1
        finally:
            await asyncio.gather(*(producer.stop() for producer in producers))

    def _producer(self, **options: Any) -> AIOKafkaProducer:
        return AIOKafkaProducer(
            bootstrap_servers=self.settings.brokers,
            max_request_size=16 * 1_048_576,
            linger_ms=5,
            **options,
        )

    async def _send_group(
        self,
        producer: AIOKafkaProducer,
        group: Sequence[FuzzRecord],
        transactional: Sequence[AIOKafkaProducer],
    ) -> None:
        if producer not in transactional:
            await self._send_all(producer, group)
            return
        await producer.begin_transaction()
        # A record that the broker refuses would end the transaction.
        accepted = [
            record._replace(timestamp=None)
            for record in group
            if len(record.value or b"") < SAFE_BYTES
        ]
        await self._send_all(producer, accepted)
        if self._chosen.random() < 0.5:
            await producer.commit_transaction()
        else:
            await producer.abort_transaction()
            self._sent -= len(accepted)

    async def _send_all(self, producer: AIOKafkaProducer, group: Sequence[FuzzRecord]) -> None:
        sent = []
        for record in group:
            if record.key is None and record.value is None:
                record = record._replace(key=b"")  # this client sends no such record
            sent.append(
                await producer.send(
                    self.settings.interactions_topic,
                    record.value,
                    key=record.key,
                    headers=record.headers,
                    timestamp_ms=record.timestamp,
                )
            )
        outcomes = await asyncio.gather(*sent, return_exceptions=True)
        refused = sum(isinstance(outcome, BaseException) for outcome in outcomes)
        self._refused += refused
        self._sent += len(group) - refused

    async def _wait_until_read(self, worker: WorkerProcess) -> None:
        ends = await read_ends(self.settings, self.settings.interactions_topic)
        began_s = time.monotonic()
        async with (
            open_counters(self.settings, timeout_s=5) as counters,
            open_pool(self.settings, max_size=1) as pool,
        ):

            async def is_read() -> bool:
                assert worker.is_running(), "the worker has ended"
                counted = {p.partition: p.next_offset for p in await counters.reports.progress()}
                async with pool.connection() as connection:
                    cursor = await connection.execute(
                        "SELECT partition, next_offset FROM history_watermarks"
                    )
                    stored = dict(await cursor.fetchall())
                return all(min(counted.get(p, 0), stored.get(p, 0)) >= ends[p] for p in ends)

            await eventually_async(is_read, timeout_s=CATCH_UP_S, message="all offsets are read")
        self.say(f"all read {time.monotonic() - began_s:.1f} s after the last record was sent")


def main() -> None:
    """Run on servers of this process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--services", default="real", choices=("wheels", "docker", "real"))
    options = parser.parse_args()
    with start_services(options.services) as services:
        settings = make_settings(
            services.kafka.bootstrap,
            services.redis.url,
            services.postgres.url,
            make_topics(services.kafka.bootstrap),
        )
        asyncio.run(migrate(settings.database_url))
        run = FuzzRun(services, settings, seed=options.seed, say=_say)
        found = asyncio.run(run.run(options.records))
        _say(f"seed {options.seed}: all accounted for: {dict(found)}")


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
