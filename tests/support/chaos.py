"""A seeded storm: a stream of events against several workers, while workers are killed and frozen
and servers restarted, and at the end the counters, history and a plain count must be equal.

`python -m tests.support.chaos --seed 7` (or `make chaos SEED=7`) runs any seed
on servers of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import dataclasses
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import psycopg
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from store.catalog_document import parse_document
from store.postgres.catalog import import_catalog
from store.postgres.history import PostgresHistory
from store.postgres.migrate import migrate
from store.postgres.pool import make_pool
from store.records import GROUPINGS, CounterPage, Event, Grouping, Question, StoreUnavailable
from store.redis.client import make_client
from store.redis.counters import RedisCounters
from store.settings import Settings
from store.windows import DAY_MS, PERIODS, Calendar, Period, window_of
from streams.dead_letters import headers as dead_letters
from tests.conftest import make_settings, make_topics, start_services
from tests.support.events import make_event
from tests.support.oracle import groups_of
from tests.support.services.base import Services, revive
from tests.support.waiting import eventually_async

ROOT = Path(__file__).parents[2]
ZONES = {
    "acme": "UTC",
    "tokyo": "Asia/Tokyo",
    "york": "America/New_York",
    "chatham": "Pacific/Chatham",
}
OWN_TYPE = "saved_for_later"
OUTCOMES = ("impression",) * 12 + ("click", "click", "dismiss", "accept", "convert", OWN_TYPE)
MALFORMED = (
    b"not json %d",
    b"\xff\xfe %d",
    b'["a list", %d]',
    b'{"customerId": "C-1", "number": %d}',
    b'{"customerId": "C", "offerId": "o", "outcomeTypeKey": "no_such_type", '
    b'"timestamp": "2026-01-01T00:00:00Z", "interactionId": "bad-%d"}',
)


@dataclasses.dataclass(frozen=True)
class Plan:
    """How hard the storm is."""

    seed: int
    events: int = 300_000
    rate: float = 4_000.0
    """Events produced per second, on average."""
    workers: int = 3
    kills: int = 20
    freezes: int = 3
    restart: Sequence[str] = ("kafka", "redis", "postgres")
    catch_up_s: float = 240.0
    session_timeout_s: float = 6.0


class Stream:
    """What is produced, and what of it must be counted."""

    def __init__(self, plan: Plan, now_ms: int) -> None:
        draw = random.Random(plan.seed)
        self.counted: list[Event] = []
        self.malformed: list[bytes] = []
        self.records: list[tuple[bytes, bytes]] = []
        """Key and value, in the order of production."""
        repeats: list[tuple[int, bytes, bytes]] = []  # when to send again, key, value
        number = 0
        while len(self.records) < plan.events:
            number += 1
            while repeats and repeats[0][0] <= number:
                self.records.append(repeats.pop(0)[1:])
            if draw.random() < 0.001:
                value = MALFORMED[number % len(MALFORMED)].replace(b"%d", b"%d" % number)
                self.malformed.append(value)
                self.records.append((b"bad", value))
                continue
            event = self._event(draw, plan.seed, number, now_ms)
            self.counted.append(event)
            key, value = event.customer.encode(), encode(event)
            self.records.append((key, value))
            if draw.random() < 0.01:
                # Sent anew, soon or much later, and by a key that may lead to another partition.
                again = number + int(draw.expovariate(1 / 5_000)) + 1
                repeats.append((again, draw.choice((key, b"retry")), value))
                repeats.sort()
        self.records += [repeat[1:] for repeat in repeats]

    @staticmethod
    def _event(draw: random.Random, seed: int, number: int, now_ms: int) -> Event:
        age_ms = draw.randrange(40 * DAY_MS) if draw.random() < 0.02 else draw.randrange(60_000)
        offer = min(int(draw.paretovariate(0.8)), 40)
        return make_event(
            tenant=draw.choice(tuple(ZONES)),
            customer=f"C-{min(int(draw.paretovariate(0.5)), 20_000)}",
            offer=f"off_{offer}",
            creative=None if draw.random() < 0.05 else f"cr_{offer}_{draw.randrange(2)}",
            channel=None if draw.random() < 0.05 else f"ch_{draw.randrange(4)}",
            outcome=draw.choice(OUTCOMES),
            occurred_ms=now_ms - age_ms,
            identity=f"{seed}-{number}",
        )


def encode(event: Event) -> bytes:
    moment = datetime.fromtimestamp(event.occurred_ms // 1000, UTC)
    stamp = f"{moment:%Y-%m-%dT%H:%M:%S}.{event.occurred_ms % 1000:03d}Z"
    payload = {
        "interactionId": event.interaction_id,
        "tenantId": event.tenant,
        "customerId": event.customer,
        "offerId": event.offer,
        "creativeId": event.creative,
        "channelId": event.channel,
        "outcomeTypeKey": event.outcome,
        "timestamp": stamp,
    }
    return json.dumps(
        {"type": "interaction.recorded.v1", "timestamp": stamp, "payload": payload}
    ).encode()


class Worker:
    """One worker process, and what may happen to it."""

    def __init__(self, name: str, settings: Settings, plan: Plan, folder: Path) -> None:
        self.name = name
        self._log_path = folder / f"{name}.log"
        values = settings.model_dump()
        values |= {
            "worker_instance_id": name,
            "kafka_session_timeout_s": plan.session_timeout_s,
        }
        self.env = os.environ | {k.upper(): str(v) for k, v in values.items()}
        self.process: subprocess.Popen[bytes] | None = None
        self._mark = 0

    def start(self) -> None:
        with self._log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "cli.main", "worker"],
                cwd=ROOT,
                env=self.env,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )

    def signal(self, which: signal.Signals) -> None:
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(which)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        assert self.process is not None
        self.process.wait()

    def stop(self) -> int:
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        assert self.process is not None
        try:
            return self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.kill()
            return -9

    def revive(self) -> bool:
        """As a supervisor does: starts it again where it ended. True where it had to."""
        assert self.process is not None
        if self.process.poll() is None:
            return False
        self.start()
        return True

    def mark_log(self) -> None:
        self._mark = len(self._log_path.read_bytes())

    def log_since_mark(self) -> str:
        return self._log_path.read_bytes()[self._mark :].decode(errors="replace")

    def log_tail(self, lines: int = 15) -> str:
        return "\n".join(self._log_path.read_text(errors="replace").splitlines()[-lines:])


class ChaosRun:
    def __init__(
        self, plan: Plan, services: Services, settings: Settings, say: Callable[[str], None]
    ) -> None:
        self.plan, self.services, self.settings, self.say = plan, services, settings, say
        self.folder = Path(tempfile.mkdtemp(prefix="storm-"))
        self.stream = Stream(plan, time.time_ns() // 1_000_000)
        self.workers = [
            Worker(f"worker-{i}", settings, plan, self.folder) for i in range(plan.workers)
        ]
        self._draw = random.Random(plan.seed + 1)
        self._produced = 0
        self.faults: collections.Counter[str] = collections.Counter()

    async def run(self) -> None:
        """Raises AssertionError where anything is not exactly as produced."""
        pool = make_pool(self.settings, max_size=2)
        await pool.open()
        try:
            for tenant, zone in ZONES.items():
                own = {
                    "key": OWN_TYPE,
                    "name": "Saved",
                    "classification": "positive",
                    "category": "response",
                }
                document = {"tenant": tenant, "timezone": zone, "outcomeTypes": [own]}
                await import_catalog(pool, parse_document(json.dumps(document)))
        finally:
            await pool.close()
        for worker in self.workers:
            worker.start()
        try:
            producing = asyncio.create_task(self._produce())
            await self._inject_faults(producing)
            await producing
            self.say(f"produced {len(self.stream.records)}; faults {dict(self.faults)}")
            await self._settle()
            await self._compare()
            codes = [worker.stop() for worker in self.workers]
            # A worker killed at the very end may not have got as far as to handle SIGTERM.
            assert set(codes) <= {0, -signal.SIGTERM}, f"workers ended with {codes}"
        except BaseException:
            for worker in self.workers:
                self.say(f"--- {worker.name}\n{worker.log_tail()}")
            raise
        finally:
            for worker in self.workers:
                worker.signal(signal.SIGCONT)
                worker.kill()
            for service in self.services[1:]:
                revive(service)
            shutil.rmtree(self.folder, ignore_errors=True)

    # ---- the stream

    async def _produce(self) -> None:
        producer = AIOKafkaProducer(
            bootstrap_servers=self.settings.brokers,
            acks="all",
            linger_ms=10,
            enable_idempotence=self.services.kind != "wheels",
            retry_backoff_ms=100,
        )
        await producer.start()
        try:
            loop = asyncio.get_running_loop()
            start_s = loop.time()
            step = 500
            for i in range(0, len(self.stream.records), step):
                part = self.stream.records[i : i + step]
                await asyncio.gather(*[await self._send(producer, k, v) for k, v in part])
                self._produced = i + len(part)
                ahead_s = self._produced / self.plan.rate - (loop.time() - start_s)
                if ahead_s > 0:
                    await asyncio.sleep(ahead_s)  # the pace of the stream, not a wait for anything
        finally:
            await producer.stop()

    async def _send(
        self, producer: AIOKafkaProducer, key: bytes, value: bytes
    ) -> asyncio.Future[object]:
        while True:
            try:
                return await producer.send(self.settings.interactions_topic, value, key=key)
            except KafkaError as error:  # the broker is away
                self.say(f"producer: {error!r}")
                await asyncio.sleep(0.5)

    # ---- what goes wrong

    async def _inject_faults(self, producing: asyncio.Task[None]) -> None:
        plan, draw = self.plan, self._draw
        faults: list[Callable[[], object]] = [self._kill] * plan.kills
        faults += [self._freeze] * plan.freezes
        faults += [lambda name=name: self._restart(name) for name in plan.restart]  # type: ignore[misc]
        draw.shuffle(faults)
        total = len(self.stream.records)
        # Each deed at a moment of the stream, not of the clock: a slow machine gets the same storm.
        moments = sorted(draw.randrange(int(total * 0.03), int(total * 0.97)) for _ in faults)
        for moment, deed in zip(moments, faults, strict=True):
            while self._produced < moment and not producing.done():
                self._supervise()
                await asyncio.sleep(0.02)
            done = deed()
            if asyncio.iscoroutine(done):
                await done
        while not producing.done():
            self._supervise()
            await asyncio.sleep(0.1)

    def _supervise(self) -> None:
        for worker in self.workers:
            if worker.revive():
                self.faults["ended by itself"] += 1
                self.say(f"{worker.name} ended by itself:\n{worker.log_tail(5)}")

    def _kill(self) -> None:
        worker = self._draw.choice(self.workers)
        worker.kill()
        worker.start()
        self.faults["kill"] += 1

    async def _freeze(self) -> None:
        """Past the session timeout: another worker takes over, then the zombie wakes."""
        worker = self._draw.choice(self.workers)
        worker.signal(signal.SIGSTOP)
        await asyncio.sleep(self.plan.session_timeout_s + 2.0)
        worker.signal(signal.SIGCONT)
        self.faults["freeze"] += 1

    async def _restart(self, name: str) -> None:
        service = getattr(self.services, name)
        await asyncio.to_thread(service.stop)
        await asyncio.to_thread(service.start)
        self.faults[f"restart {name}"] += 1

    # ---- the end

    async def _settle(self) -> None:
        """Every offset of the topic is counted, and is in history."""
        ends = await self._ends()
        started_s = time.monotonic()
        client = make_client(self.settings, timeout_s=5, retries=0)
        pool = make_pool(self.settings, max_size=1)
        await pool.open()
        counters = RedisCounters(client, self.settings.redis_prefix)

        async def behind() -> dict[int, int]:
            self._supervise()
            try:
                progress = {p.partition: p.next_offset for p in await counters.reports.progress()}
                async with pool.connection() as connection:
                    rows = await (
                        await connection.execute(
                            "SELECT partition, next_offset FROM history_watermarks"
                        )
                    ).fetchall()
            except StoreUnavailable:
                return {-1: -1}
            stored = dict(rows)
            lowest = {p: min(progress.get(p, 0), stored.get(p, 0)) for p in ends}
            return {p: end - lowest[p] for p, end in ends.items() if lowest[p] < end}

        async def caught_up() -> bool:
            left = await behind()
            assert not left, left
            return True

        try:
            await eventually_async(
                caught_up, timeout_s=self.plan.catch_up_s, message="everything counted and stored"
            )
            self.say(f"caught up after {time.monotonic() - started_s:.1f} s")
        finally:
            await pool.close()
            await client.aclose()

    async def _ends(self) -> dict[int, int]:
        """Partition -> end, from fetch answers: asking for ends is wrong on the embedded broker."""
        return {p: len(r) for p, r in (await self._read(self.settings.interactions_topic)).items()}

    async def _read(self, topic: str) -> dict[int, list[object]]:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.settings.brokers,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
        )
        await consumer.start()
        try:
            partitions = consumer.partitions_for_topic(topic) or set()
            if not partitions:
                await consumer._client.add_topic(topic)
                partitions = consumer.partitions_for_topic(topic) or set()
            tps = [TopicPartition(topic, p) for p in partitions]
            consumer.assign(tps)
            await consumer.seek_to_beginning(*tps)
            found: dict[int, list[object]] = {p: [] for p in partitions}
            ends: dict[int, int] = {}
            deadline_s = time.monotonic() + 60
            while time.monotonic() < deadline_s:
                for tp, records in (await consumer.getmany(timeout_ms=500)).items():
                    found[tp.partition] += records
                for tp in tps:
                    high = consumer.highwater(tp)
                    if high is not None:
                        ends[tp.partition] = high
                positions = {tp.partition: await consumer.position(tp) for tp in tps}
                if len(ends) == len(tps) and all(positions[p] >= ends[p] for p in ends):
                    return found
            raise AssertionError(f"{topic}: could not read it to its end")
        finally:
            await consumer.stop()

    async def _compare(self) -> None:
        """Counters = history = the plain count, for every tenant, grouping, period and row; every
        malformed event is in the dead-letter topic, once."""
        client = make_client(self.settings, timeout_s=30, retries=0)
        pool = make_pool(self.settings, max_size=2)
        await pool.open()
        counters = RedisCounters(client, self.settings.redis_prefix)
        history = PostgresHistory(pool)
        by_tenant: dict[str, list[Event]] = {tenant: [] for tenant in ZONES}
        for event in self.stream.counted:
            by_tenant[event.tenant].append(event)
        try:
            for tenant, zone in ZONES.items():
                for grouping in GROUPINGS:
                    for period in PERIODS:
                        await self._compare_one(
                            counters, history, by_tenant[tenant], tenant, zone, grouping, period
                        )
        finally:
            await pool.close()
            await client.aclose()
        letters = collections.Counter(
            record.value  # type: ignore[attr-defined]
            for records in (await self._read(self.settings.dead_letter_topic)).values()
            for record in records
            if dead_letters.parse(record.headers) is not None  # type: ignore[attr-defined]
        )
        assert set(letters) == set(self.stream.malformed), "dead letters are missing, or too many"
        repeated = {value: n for value, n in letters.items() if n > 1}
        assert not repeated, f"dead letters sent more than once: {repeated}"

    async def _compare_one(
        self,
        counters: RedisCounters,
        history: PostgresHistory,
        events: Sequence[Event],
        tenant: str,
        zone: str,
        grouping: Grouping,
        period: Period,
    ) -> None:
        calendar = Calendar(zone)

        async def equal() -> bool:
            # Asked again where midnight came in between, or a roll is under way.
            today = calendar.day_of(time.time_ns() // 1_000_000)
            window = window_of(period, today)
            asked = Question(tenant, grouping, period, window, today, zone, 1_000_000, 0)
            answer = await counters.read(asked)
            assert isinstance(answer, CounterPage), (answer, tenant, grouping, period)
            stored = await history.read(asked)
            want = groups_of(events, grouping, window, calendar)
            for name, groups in (("counters", answer.page.groups), ("history", stored.groups)):
                if list(groups) != want:
                    off = [(g, w) for g, w in zip(groups, want, strict=False) if g != w][:3]
                    raise AssertionError(
                        f"{name} of {tenant} {grouping} {period}: {len(groups)} groups of "
                        f"{sum(g.total for g in groups)}, not {len(want)} of "
                        f"{sum(g.total for g in want)}: {off}"
                    )
            return True

        await eventually_async(equal, timeout_s=10, message="counters = history = plain count")


def main() -> None:
    """Runs storms of given seeds on servers of this process's own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds, from --seed on")
    parser.add_argument("--events", type=int, default=300_000)
    parser.add_argument("--rate", type=float, default=4_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--services", default="real", choices=("wheels", "docker", "real"))
    options = parser.parse_args()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # thousands of lines while it is away
    with start_services(options.services) as services:
        for seed in range(options.seed, options.seed + options.seeds):
            plan = Plan(seed, events=options.events, rate=options.rate, kills=options.kills)
            if options.services == "wheels":
                plan = dataclasses.replace(plan, restart=("redis", "postgres"))
            started_s = time.monotonic()
            asyncio.run(ChaosRun(plan, services, _settings_of(services, seed), _say).run())
            _say(f"seed {seed}: exact, in {time.monotonic() - started_s:.0f} s")


def _settings_of(services: Services, seed: int) -> Settings:
    """A topic, a database and keys of this seed's own."""
    name = f"storm_{seed}"
    with psycopg.connect(services.postgres.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    head, _, _ = services.postgres.url.rpartition("/")
    asyncio.run(migrate(f"{head}/{name}"))
    topics = make_topics(services.kafka.bootstrap)
    return make_settings(services.kafka.bootstrap, services.redis.url, f"{head}/{name}", topics)


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
