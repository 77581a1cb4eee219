"""Chaos run: random faults, chosen by a seed, while several workers count a stream of events.

Workers are killed and frozen, and servers restarted. Meanwhile poison records arrive, and hundreds
of new tenants within seconds, and ranks of customers are asked for. At the end the counters,
history and a plain count must be equal, and each record must have ended in one place.

`python -m tests.chaos --seed 7` (or `make chaos SEED=7`) runs a seed on its own servers.
"""

from __future__ import annotations

import asyncio
import collections
import json
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from store.catalog_document import parse_document
from store.postgres.catalog import DEFAULT_TIMEZONE, import_catalog
from store.postgres.pool import open_pool
from store.records import StoreUnavailable
from store.redis.counters import open_counters
from store.redis.ranks import RANK_CODES
from store.settings import Settings
from tests.support.accounting import account
from tests.support.chaos_check import ChaosCheck
from tests.support.chaos_poison import poison_records
from tests.support.chaos_poison_producer import PoisonProducer
from tests.support.chaos_stream import OWN_TYPE, ZONES, Plan, Stream
from tests.support.services.base import Services, revive
from tests.support.worker_process import WorkerProcess


class ChaosRun:
    """One run of a plan: starts the workers, produces, injects the faults, checks the result."""

    def __init__(
        self,
        plan: Plan,
        services: Services,
        settings: Settings,
        say: Callable[[str], None],
        more_faults: Sequence[tuple[str, Callable[[], Awaitable[None]]]] = (),
    ) -> None:
        """`more_faults`: names and faults besides those of the plan.

        They go on in the background, while workers are killed.
        """
        self.plan, self.services, self.settings, self.say = plan, services, settings, say
        self.folder = Path(tempfile.mkdtemp(prefix="chaos-"))
        self.stream = Stream(plan, time.time_ns() // 1_000_000)
        self.workers = [
            WorkerProcess(f"worker-{i}", settings, self.folder, plan.session_timeout_s)
            for i in range(plan.workers)
        ]
        self._poison = poison_records(plan.seed, plan.poison, self.stream.now_ms)
        self._poison_producer = PoisonProducer(settings, plan.seed, say)
        self._draw = random.Random(plan.seed + 1)
        self._produced = 0
        self._progress = asyncio.Condition()
        self._more_faults = more_faults
        self._background: list[asyncio.Task[None]] = []
        self.faults: collections.Counter[str] = collections.Counter()

    async def run(self) -> None:
        """Raise AssertionError unless the result is exactly what was produced."""
        for tenant, zone in ZONES.items():
            await self._import_catalog(tenant, zone)
        for worker in self.workers:
            worker.start()
        try:
            producing = asyncio.gather(
                self._produce(),
                self._import_catalogs(),
                self._ask_for_customers(),
                self._poison_producer.send(self._poison, self._wait_for_poison),
            )
            await self._inject_faults(producing)
            await producing
            await asyncio.gather(*self._background)
            self.say(
                f"produced {len(self.stream.records)}, {len(self.stream.new_tenants)} new tenants; "
                f"faults {dict(self.faults)}"
            )
            check = ChaosCheck(self.settings, self.stream, self.say)
            await check.wait_until_counted(self._supervise, timeout_s=self.plan.catch_up_s)
            await check.wait_until_complete()
            await check.compare()
            outcomes = await account(self.settings)
            self._poison_producer.check(outcomes)
            self.say(f"all accounted for: {dict(collections.Counter(outcomes.values()))}")
            for worker in self.workers:
                self._stop(worker)
        except BaseException:
            for worker in self.workers:
                self.say(f"--- {worker.name}\n{worker.log_tail()}")
            self.say(f"the workers' logs stay in {self.folder}")
            raise
        else:
            shutil.rmtree(self.folder, ignore_errors=True)
        finally:
            for worker in self.workers:
                worker.signal(signal.SIGCONT)
                worker.kill()
            for service in self.services[1:]:
                revive(service)

    # ---- production

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
                async with self._progress:
                    self._produced = i + len(part)
                    self._progress.notify_all()
                ahead_s = self._produced / self.plan.rate - (loop.time() - start_s)
                if ahead_s > 0:
                    await asyncio.sleep(
                        ahead_s
                    )  # the rate of the stream, not a wait for a condition
        finally:
            await producer.stop()

    async def _send(
        self, producer: AIOKafkaProducer, key: bytes, value: bytes
    ) -> asyncio.Future[object]:
        while True:
            try:
                sent: asyncio.Future[object] = await producer.send(
                    self.settings.interactions_topic, value, key=key
                )
                return sent
            except KafkaError as error:  # the broker is unavailable
                self.say(f"producer: {error!r}")
                await asyncio.sleep(0.5)

    async def _wait_for_poison(self, index: int) -> None:
        await self._wait_until_produced(len(self.stream.records) * index // len(self._poison))

    async def _wait_until_produced(self, n: int) -> None:
        async with self._progress:
            await self._progress.wait_for(lambda: self._produced >= n)

    # ---- ranks of customers

    async def _ask_for_customers(self) -> None:
        """Ask for all but the first of the ranks, one after the other, amid the faults."""
        asked = [(tenant, period) for tenant in ZONES for period in RANK_CODES][1:]
        async with open_counters(self.settings) as counters:
            for number, (tenant, period) in enumerate(asked, 1):
                await self._wait_until_produced(
                    len(self.stream.records) * number // (len(asked) + 1)
                )
                try:
                    await counters.ranks.note_asked(
                        tenant, period, at_ms=time.time_ns() // 1_000_000, is_lacking=True
                    )
                except StoreUnavailable as error:  # the server restarts; the check asks again
                    self.say(f"ask: {error!r}")

    # ---- catalogs

    async def _import_catalogs(self) -> None:
        """Import catalogs of new tenants while their first events arrive."""
        await self._wait_until_produced(self.stream.burst.start)
        for tenant in self.stream.imported:
            while True:
                try:
                    await self._import_catalog(tenant, DEFAULT_TIMEZONE)
                    break
                except StoreUnavailable as error:  # the server restarts
                    self.say(f"import: {error!r}")
                    await asyncio.sleep(0.2)

    async def _import_catalog(self, tenant: str, zone: str) -> None:
        own = {
            "key": OWN_TYPE,
            "name": "Saved",
            "classification": "positive",
            "category": "response",
        }
        document = {"tenant": tenant, "timezone": zone, "outcomeTypes": [own]}
        async with open_pool(self.settings, max_size=1) as pool:
            await import_catalog(pool, parse_document(json.dumps(document)))

    # ---- faults

    async def _inject_faults(self, producing: asyncio.Future[Any]) -> None:
        plan, draw = self.plan, self._draw
        faults: list[Callable[[], object]] = [self._kill] * plan.kills
        faults += [self._freeze] * plan.freezes
        faults += [lambda name=name: self._restart(name) for name in plan.restart]  # type: ignore[misc]
        faults += [lambda fault=fault: self._begin(*fault) for fault in self._more_faults]  # type: ignore[misc]
        draw.shuffle(faults)
        total = len(self.stream.records)
        # Each fault has a position in the stream, not a time: a slow machine gets the same faults.
        moments = [draw.randrange(int(total * 0.03), int(total * 0.97)) for _ in faults[1:]]
        # One fault at least happens while the new tenants appear.
        moments = sorted([*moments, draw.choice(self.stream.burst)])
        for moment, fault in zip(moments, faults, strict=True):
            while self._produced < moment and not producing.done():
                self._supervise()
                await asyncio.sleep(0.02)
            injected = fault()
            if asyncio.iscoroutine(injected):
                await injected
        while not producing.done():
            self._supervise()
            await asyncio.sleep(0.1)

    def _supervise(self) -> None:
        for worker in self.workers:
            if worker.revive():
                self.faults["ended by itself"] += 1
                self.say(f"{worker.name} ended by itself:\n{worker.log_tail(5)}")

    def _stop(self, worker: WorkerProcess) -> None:
        """Stop a worker; raise AssertionError, with the end of its log, unless it ends with 0."""
        before = "" if worker.is_running() else " before it was stopped"
        code = worker.stop()
        # A worker that was killed at the very end may not handle SIGTERM yet.
        clean = code in {0, -signal.SIGTERM}
        assert clean, f"{worker.name} ended with {code}{before}\n{worker.log_tail()}"

    def _kill(self) -> None:
        worker = self._draw.choice(self.workers)
        worker.kill()
        worker.start()
        self.faults["kill"] += 1

    async def _freeze(self) -> None:
        """Freeze a worker for longer than its session: another takes over, then it continues."""
        worker = self._draw.choice(self.workers)
        worker.signal(signal.SIGSTOP)
        await asyncio.sleep(self.plan.session_timeout_s + 2.0)
        worker.signal(signal.SIGCONT)
        self.faults["freeze"] += 1

    def _begin(self, name: str, fault: Callable[[], Awaitable[None]]) -> None:
        async def run() -> None:
            await fault()
            self.faults[name] += 1

        self._background.append(asyncio.create_task(run()))

    async def _restart(self, name: str) -> None:
        service = getattr(self.services, name)
        await asyncio.to_thread(service.stop)
        await asyncio.to_thread(service.start)
        self.faults[f"restart {name}"] += 1
