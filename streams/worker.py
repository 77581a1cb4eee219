"""The worker: the one place where the parts of the stream processor are built and wired."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from store import logs
from store.clock import system_clock_ms
from store.offsets import Gap
from store.postgres.history import HistoryWriter
from store.postgres.migrate import ensure_partitions
from store.postgres.pool import make_pool
from store.postgres.quarantine import Quarantine
from store.records import StoreUnavailable
from store.redis.catalog_copies import RedisCatalogCopies
from store.redis.client import make_client
from store.redis.counters import RedisCounters
from store.redis.evictions import RedisEvictions
from store.redis.owners import PartitionOwners, new_owner
from store.settings import Settings
from store.windows import Calendar, date_of
from streams.activations import ActivationWatch
from streams.arrival_watermarks import ArrivalWatermarks
from streams.assignment import Consumer, CurrentTopic, IdleRejoin, Rewinder, StartOffsets, every
from streams.audit.periodic import make_periodic_audit
from streams.commit import CounterCommitter
from streams.commit_batch import CommitBatchBuilder
from streams.counting_catalogs import CountingCatalogs, PostgresCatalogs
from streams.dead_letters.alarm import RatioAlarm
from streams.dead_letters.record import DeadLetterSink
from streams.dead_letters.sink import KafkaDeadLetterSink
from streams.decode.decoder import make_decoder
from streams.faust_app import create_app, run_app, tune_garbage_collector
from streams.history_sink import HistorySink
from streams.isolation import Isolation
from streams.kafka.topic_id import check_brokers
from streams.kafka.topic_settings import log_weaknesses
from streams.log_changes import LogChanges
from streams.lost_offsets import LostOffsets
from streams.old_generations import OldGenerations
from streams.pipeline import Pipeline
from streams.progress import ProgressReporter
from streams.redis_watch import RedisWatch
from streams.replaced_topics import note_uncounted
from streams.retry import retry
from streams.rollover import Rollover
from streams.stall_check import watch

if TYPE_CHECKING:
    from streams.kafka.consumer import Batch

logger = logs.get_logger("worker")

TICK_S: Final = 0.5
REDIS_CHECK_S: Final = 2.0
IDLE_COMMIT_S: Final = 5.0
TOPIC_CHECK_S: Final = 5.0
FORGET_ROLLED_S: Final = 30.0
REBUILD_REPORT_S: Final = 5.0
BROKER_WAIT_S: Final = 5.0
STOP_S: Final = 7.0  # for the batches in hand
PARTITIONS_EVERY_S: Final = 3_600.0
DROP_EVERY_S: Final = 300.0


class Stores:
    """Clients of Redis and Postgres, and what is built on them alone."""

    def __init__(self, settings: Settings, now_ms: Callable[[], int]) -> None:
        """Create the clients; connects to nothing."""
        self._now_ms = now_ms
        self.pool = make_pool(settings, max_size=4)
        self.client = make_client(settings, timeout_s=settings.redis_timeout_s, retries=0)
        self.counters = RedisCounters(
            self.client,
            settings.redis_prefix,
            dedup_horizon_h=settings.dedup_horizon_h,
            groups_max=settings.keys_per_grouping_max,
        )
        self.writer = HistoryWriter(self.pool)
        self.catalogs = CountingCatalogs(
            PostgresCatalogs(self.pool),
            RedisCatalogCopies(self.client, settings.redis_prefix),
            monotonic=time.monotonic,
            tenants_max=2 * settings.tenants_max,
        )
        self.quarantine = Quarantine(self.pool)
        self.owners = PartitionOwners(self.client, settings.redis_prefix)
        self.redis_watch = RedisWatch(
            RedisEvictions(self.client, settings.redis_prefix),
            tenants_of=(self.counters.tenants, self.writer.tenants),
            now_ms=now_ms,
        )
        self.audit = make_periodic_audit(
            settings, self.client, self.pool, timezone_of=self.timezone_of, now_ms=now_ms
        )

    async def timezone_of(self, tenant: str) -> str:
        """Return the IANA name of the tenant's time zone."""
        return (await self.catalogs.rules([tenant]))[tenant].timezone

    async def make_partitions(self) -> None:
        """Create the month partitions of history that are missing; log why that is not possible."""
        today = date_of(Calendar("UTC").day_of(self._now_ms()))
        try:
            await ensure_partitions(self.pool, today)
        except (StoreUnavailable, RuntimeError) as error:
            logger.warning("month partitions not created", error=str(error))

    async def close(self) -> None:
        """Close all connections."""
        await self.client.aclose()
        await self.pool.close()


class Worker:
    """Everything that one worker process runs, around one Faust app."""

    def __init__(
        self, settings: Settings, *, clock_ms: Callable[[], int] = system_clock_ms
    ) -> None:
        """Create a worker; `open` builds its parts.

        `clock_ms` decides what day it is, and which events are in the future.
        """
        self.settings = settings
        self._now_ms = clock_ms
        self._tasks: list[asyncio.Task[Any]] = []
        self._closed = self._failed = False
        self.app = create_app(settings, self)

    # ---- wiring

    def build(self) -> None:
        """Build the parts. Needs a running event loop; connects to nothing."""
        settings = self.settings
        self.stores = Stores(settings, self._now_ms)
        self.topic = CurrentTopic()
        self.arrivals = ArrivalWatermarks()
        self.rewinder = Rewinder(self.consumer, on_rewind=self.arrivals.suspend)
        self.committer = CounterCommitter(
            self.stores.counters,
            self.stores.writer,
            now_ms=self._now_ms,
            timezone_of=self.stores.timezone_of,
            tenants_max=settings.tenants_max,
        )
        isolation = Isolation()
        self.history = HistorySink(
            self.stores.writer,
            topic=settings.interactions_topic,
            buffer_events=settings.history_buffer_events,
            batch_events=settings.history_batch_events,
            buffer_bytes=settings.history_buffer_bytes,
            isolation=isolation,
            on_behind=self.rewinder.on_error,
        )
        self.dead_letters = KafkaDeadLetterSink(
            settings, self.stores.owners, self.stores.quarantine, now_ms=self._now_ms
        )
        self.log_changes = LogChanges(
            settings,
            topic=self.topic,
            consumer=self.consumer,
            counters=self.stores.counters,
            committer=self.committer,
            writer=self.stores.writer,
            rewinder=self.rewinder,
            now_ms=self._now_ms,
        )
        self.lost_offsets = LostOffsets(
            self.stores.counters, self.stores.writer, self.committer.tenants
        )
        self.pipeline = make_pipeline(
            settings,
            self.stores.catalogs,
            self.committer,
            self.history,
            self.dead_letters,
            isolation,
            on_lost=self.lost_offsets.note,
            on_failure=self.rewinder.on_error,
            now_ms=self._now_ms,
        )
        self.rollover = Rollover(
            self.stores.counters,
            self.committer,
            self.topic,
            now_ms=self._now_ms,
            worker=new_owner(),
        )
        self.old_generations = OldGenerations(
            self.stores.counters, keep_h=settings.generation_keep_h, now_ms=self._now_ms
        )
        self.activations = ActivationWatch(
            self.stores.counters, self.committer.tenants, self.rollover
        )
        self.progress = ProgressReporter(
            topic=self.topic,
            consumer=self.consumer,
            counters=self.stores.counters,
            committer=self.committer,
            pipeline=self.pipeline,
            arrivals=self.arrivals,
            now_ms=self._now_ms,
            on_behind=self.rewinder.on_error,
        )
        self.start_offsets = StartOffsets(
            settings,
            topic=self.topic,
            consumer=self.consumer,
            pipeline=self.pipeline,
            committer=self.committer,
            history=self.history,
            writer=self.stores.writer,
            dead_letters=self.dead_letters,
            arrivals=self.arrivals,
            lost_offsets=self.lost_offsets,
            note_uncounted=partial(note_uncounted, self.stores.counters, self.stores.writer),
            rewinder=self.rewinder,
            progress=self.progress,
            instance=self.stores.counters.instance,
        )
        self.idle_rejoin = IdleRejoin(self.topic, self.pipeline, self.consumer)

    def consumer(self) -> Consumer:
        """Return the Kafka consumer, which Faust creates when it starts."""
        consumer: Consumer = self.app.consumer
        return consumer

    # ---- what the Faust app calls

    async def find_start(self, partitions: Sequence[int]) -> Mapping[int, int]:
        """Return the offset to read each assigned partition from."""
        return await self.start_offsets.find(partitions)

    def on_truncated(self, partition: int, end: int) -> None:
        """Handle a partition that ends at `end`, before what was read."""
        self.log_changes.on_truncated(partition, end)

    def full_partitions(self) -> Collection[int]:
        """Return the partitions that must not be fetched for now."""
        return self.pipeline.full_partitions()

    def submit(self, batch: Batch, acknowledge: Callable[[], None]) -> None:
        """Put a fetched batch into its partition's queue."""
        self.pipeline.submit(batch, acknowledge)

    async def run(self) -> None:
        """End the process, through Faust, when a part has failed for good."""
        error = await self.rewinder.failed
        self._failed = True
        logger.error("worker failed", error=f"{type(error).__name__}: {error}", exc_info=error)
        raise error

    # ---- start and stop

    async def open(self) -> None:
        """Build the parts and start their tasks."""
        self.build()
        await self.stores.pool.open(wait=False)
        on_error = self.rewinder.on_error
        for work in (
            self.history.run(),
            every(TICK_S, self.rollover.roll_tenants, on_error),
            every(FORGET_ROLLED_S, self.rollover.forget_rolled, on_error),
            every(TICK_S, self.progress.report, on_error),
            every(REBUILD_REPORT_S, self.progress.report_rebuilds, on_error),
            every(self.settings.catalog_refresh_s, self.stores.catalogs.refresh, on_error),
            every(TICK_S, self.activations.check_activations, on_error),
            every(REDIS_CHECK_S, self.stores.redis_watch.check, on_error),
            every(TOPIC_CHECK_S, self._check_topic, on_error),
            every(PARTITIONS_EVERY_S, self.stores.make_partitions, on_error),
            every(DROP_EVERY_S, self.old_generations.drop_old, on_error),
            log_weaknesses(self.settings),
            watch(self.settings, lambda: self.pipeline.positions, self.progress.ends),
            every(self.stores.audit.check_s, self.stores.audit.audit_next, on_error),
        ):
            task = asyncio.create_task(work)
            self.rewinder.watch(task)
            self._tasks.append(task)
        await self._wait_for_broker()

    async def close(self) -> None:
        """Finish the batches in hand, for at most STOP_S. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(TimeoutError, StoreUnavailable):
            async with asyncio.timeout(STOP_S):
                await self.pipeline.close()
                await self.progress.report()
        await self.pipeline.abandon()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(Exception):
            await self.dead_letters.close()
        await self.stores.close()

    async def _wait_for_broker(self) -> None:
        """Return once a broker answers: Faust's consumer ends the process if none does."""
        check = partial(check_brokers, self.settings, timeout_s=BROKER_WAIT_S)
        waiting = asyncio.create_task(retry("kafka", check))
        self._tasks.append(waiting)  # a stop cancels it
        await waiting

    async def _check_topic(self) -> None:
        await self.log_changes.check_topic_id()
        await self.idle_rejoin.rejoin_if_idle()

    def has_failed(self) -> bool:
        """Return whether a part has failed for good."""
        return self._failed


def make_pipeline(
    settings: Settings,
    catalogs: CountingCatalogs,
    committer: CounterCommitter,
    history: HistorySink,
    dead_letters: DeadLetterSink,
    isolation: Isolation,
    *,
    on_lost: Callable[[Gap], Awaitable[None]],
    on_failure: Callable[[BaseException], None],
    now_ms: Callable[[], int],
) -> Pipeline:
    """Return a pipeline with the limits of `settings`."""
    builder = CommitBatchBuilder(
        decoder=make_decoder(settings),
        catalogs=catalogs,
        tenants=committer.tenants,
        alarm=RatioAlarm(
            ratio=settings.dead_letter_alarm_ratio,
            window_events=settings.dead_letter_alarm_window,
            bad_min=settings.dead_letter_alarm_min,
        ),
        isolation=isolation,
        now_ms=now_ms,
        registered_only=settings.tenants_registered_only,
    )
    return Pipeline(
        builder=builder,
        committer=committer,
        history=history,
        dead_letters=dead_letters,
        isolation=isolation,
        commit_events_max=settings.commit_batch_events,
        queue_bytes=settings.fetch_bytes_max,
        queue_batches=settings.queue_batches,
        idle_commit_s=IDLE_COMMIT_S,
        on_lost=on_lost,
        on_failure=on_failure,
    )


def run_worker(settings: Settings) -> None:
    """Run a worker until SIGTERM or SIGINT; raise SystemExit, 0 after a clean stop."""
    logs.configure(settings.log_level)
    if settings.worker_metrics_port:
        from prometheus_client import start_http_server

        start_http_server(settings.worker_metrics_port, addr="127.0.0.1")
    worker = Worker(settings)
    tune_garbage_collector()
    run_app(
        worker.app,
        settings,
        on_start=worker.open,
        on_stop=worker.close,
        has_failed=worker.has_failed,
    )
