"""The worker: the one place where the parts of the stream processor are built and wired."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from store import logs
from store.clock import system_clock_ms
from store.offsets import Gap
from store.postgres.history import HistoryWriter
from store.postgres.migrate import ensure_partitions
from store.postgres.pool import connect_once, make_pool
from store.postgres.quarantine import Quarantine
from store.records import AccessRefused, StoreUnavailable
from store.redis.catalog_copies import RedisCatalogCopies
from store.redis.client import make_client
from store.redis.counters import RedisCounters, open_counters
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
from streams.customer_ranks import CustomerRanks
from streams.dead_letters.alarm import RatioAlarm
from streams.dead_letters.record import DeadLetterSink
from streams.dead_letters.sink import KafkaDeadLetterSink
from streams.decode.decoder import make_decoder
from streams.endpoints import Endpoints
from streams.faust_app import create_app, run_app, tune_garbage_collector
from streams.health import WorkerState
from streams.history_sink import HistorySink
from streams.isolation import Isolation
from streams.kafka.connection import raise_if_refused
from streams.kafka.topic_id import check_brokers
from streams.kafka.topic_settings import log_weaknesses
from streams.log_changes import LogChanges
from streams.lost_offsets import LostOffsets
from streams.old_generations import OldGenerations
from streams.outdated import OutdatedCounters
from streams.pipeline import Pipeline
from streams.progress import ProgressReporter
from streams.rebuild import open_rebuilder
from streams.redis_watch import RedisWatch
from streams.replaced_topics import note_uncounted
from streams.retry import retry
from streams.rollover import Rollover
from streams.stall_check import watch

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

    from store.tracing import Traces
    from streams.kafka.consumer import Batch

logger = logs.get_logger("worker")

TICK_S: Final = 0.5
REDIS_CHECK_S: Final = 2.0
IDLE_COMMIT_S: Final = 5.0
TOPIC_CHECK_S: Final = 5.0
FORGET_ROLLED_S: Final = 30.0
REBUILD_REPORT_S: Final = 5.0
BROKER_WAIT_S: Final = 5.0
ACCESS_CHECK_S: Final = 5.0
STOP_S: Final = 7.0  # for the batches in hand
PARTITIONS_EVERY_S: Final = 3_600.0
DROP_EVERY_S: Final = 300.0
OUTDATED_CHECK_S: Final = 60.0
RANKS_EVERY_S: Final = 600.0


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
            offers_max=settings.offers_per_customer_max,
            all_ranks=settings.ranks_kept_days == 0,
        )
        self.writer = HistoryWriter(self.pool)
        self.tracer: Tracer | None = None
        if settings.traces_enabled:
            from streams.tracing import TracedHistoryWriter, tracer

            self.tracer = tracer()
            self.writer = TracedHistoryWriter(self.pool, self.tracer)
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
        self._closed = self.failed = False  # `failed`: a part has, for good
        self.app = create_app(settings, self)

    # ---- wiring

    def build(self) -> None:
        """Build the parts. Needs a running event loop; connects to nothing."""
        settings = self.settings
        self.stores = Stores(settings, self._now_ms)
        self.topic, self.arrivals = CurrentTopic(), ArrivalWatermarks()
        self.rewinder = Rewinder(self.consumer, on_rewind=self.arrivals.suspend)
        self.committer = CounterCommitter(
            self.stores.counters,
            self.stores.writer,
            now_ms=self._now_ms,
            timezone_of=self.stores.timezone_of,
            tenants_max=settings.tenants_max,
            dedup_horizon_h=settings.dedup_horizon_h,
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
            self.stores,
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
        self.customer_ranks = CustomerRanks(
            self.stores.counters,
            kept_days=settings.ranks_kept_days,
            now_ms=self._now_ms,
            worker=new_owner(),
        )
        self.old_generations = OldGenerations(
            self.stores.counters, keep_h=settings.generation_keep_h, now_ms=self._now_ms
        )
        self.outdated = OutdatedCounters(
            self.stores.counters,
            partial(open_rebuilder, settings, now_ms=self._now_ms),
            worker=new_owner(),
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
            note_if_recreated=self.log_changes.note_if_recreated,
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

    async def on_no_partitions(self) -> None:
        """End the read session: another worker has the partitions."""
        await self.start_offsets.end_session()

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
        self.failed = True
        logger.error("worker failed", error=f"{type(error).__name__}: {error}", exc_info=error)
        raise error

    # ---- start and stop

    async def open(self) -> None:
        """Build the parts and start their tasks."""
        self.build()
        await self.stores.pool.open(wait=False)
        for work in background_work(self):
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

    async def check_topic(self) -> None:
        """Notice another topic of the same name, and rejoin the group where that helps."""
        await self.log_changes.check_topic_id()
        await self.idle_rejoin.rejoin_if_idle()


def background_work(worker: Worker) -> list[Coroutine[Any, Any, None]]:
    """Return what an open worker does besides counting, each until it is cancelled."""
    on_error = worker.rewinder.on_error
    return [
        worker.history.run(),
        every(TICK_S, worker.rollover.roll_tenants, on_error),
        every(FORGET_ROLLED_S, worker.rollover.forget_rolled, on_error),
        every(TICK_S, worker.progress.report, on_error),
        every(REBUILD_REPORT_S, worker.progress.report_rebuilds, on_error),
        every(worker.settings.catalog_refresh_s, worker.stores.catalogs.refresh, on_error),
        every(TICK_S, worker.activations.check_activations, on_error),
        every(TICK_S, worker.committer.folds.fold_old, on_error),
        every(REDIS_CHECK_S, worker.stores.redis_watch.check, on_error),
        every(TOPIC_CHECK_S, worker.check_topic, on_error),
        every(PARTITIONS_EVERY_S, worker.stores.make_partitions, on_error),
        every(DROP_EVERY_S, worker.old_generations.drop_old, on_error),
        every(OUTDATED_CHECK_S, worker.outdated.rebuild, on_error),
        every(TICK_S, worker.customer_ranks.build_wanted, on_error),
        every(RANKS_EVERY_S, worker.customer_ranks.keep_or_drop, on_error),
        log_weaknesses(worker.settings),
        watch(worker.settings, worker.pipeline.progress, worker.progress.ends),
        every(worker.stores.audit.check_s, worker.stores.audit.audit_next, on_error),
    ]


def make_pipeline(
    settings: Settings,
    stores: Stores,
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
        catalogs=stores.catalogs,
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
    make: Callable[..., Pipeline] = Pipeline
    if stores.tracer is not None:
        from streams.tracing import TracedPipeline

        make = partial(TracedPipeline, stores.tracer, settings.interactions_topic)
    return make(
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


def state_of(worker: Worker) -> WorkerState:
    """Return the state of an open worker. Call it on the worker's event loop."""
    failed = worker.rewinder.failed  # cancelled by a stop
    error = failed.result() if failed.done() and not failed.cancelled() else None
    ends = worker.progress.ends()
    return WorkerState(
        failure=None if error is None else f"{type(error).__name__}: {error}",
        stopping=worker.pipeline.closing,
        lags={
            partition: None if (end := ends[partition]) is None else max(0, end - position)
            for partition, position in worker.pipeline.positions.items()
        },
    )


async def check_stores(settings: Settings) -> None:
    """Raise AccessRefused if a store refuses the connection: waiting would not mend that.

    Returns where a store does not answer: it may come back.
    """
    async with open_counters(settings, timeout_s=ACCESS_CHECK_S) as counters:
        answers = await asyncio.gather(
            asyncio.wait_for(raise_if_refused(settings), ACCESS_CHECK_S),
            counters.ping(),
            connect_once(settings),
            return_exceptions=True,
        )
    failures = [answer for answer in answers if answer is not None]
    # First what is wrong with the settings themselves, such as a missing file.
    for failure in sorted(failures, key=lambda each: isinstance(each, AccessRefused)):
        unavailable = isinstance(failure, StoreUnavailable | TimeoutError)
        if isinstance(failure, AccessRefused) or not unavailable:
            raise failure


def _run_until_signal(work: Coroutine[Any, Any, None]) -> None:
    """Run `work` on a loop of its own; raise SystemExit with 0 at SIGTERM or SIGINT.

    Faust has created the loop that the worker runs on, and installs its handlers later.
    """
    loop = asyncio.new_event_loop()
    task = loop.create_task(work)
    handlers = {which: signal.getsignal(which) for which in (signal.SIGTERM, signal.SIGINT)}
    for which in handlers:
        loop.add_signal_handler(which, task.cancel)
    try:
        loop.run_until_complete(task)
    except asyncio.CancelledError:
        raise SystemExit(0) from None
    finally:
        loop.close()
        for which, handler in handlers.items():
            signal.signal(which, handler)


def run_worker(settings: Settings) -> None:
    """Run a worker until SIGTERM or SIGINT; raise SystemExit, 0 after a clean stop.

    Raises TracesRefused if traces are enabled and cannot be sent, and AccessRefused before it
    starts if a store refuses TLS or authentication.
    """
    logs.configure(settings.log_level)
    _run_until_signal(check_stores(settings))
    traces: Traces | None = None
    if settings.traces_enabled:
        from streams.tracing import start_traces

        traces = start_traces()
    endpoints = None
    if settings.worker_metrics_port:
        endpoints = Endpoints(
            settings.worker_metrics_host,
            settings.worker_metrics_port,
            lag_max=settings.worker_ready_lag_max,
        )
        endpoints.start()
    worker = Worker(settings)

    async def start() -> None:
        if endpoints is not None:
            endpoints.attach(asyncio.get_running_loop(), partial(state_of, worker))
        await worker.open()

    tune_garbage_collector()
    try:
        run_app(
            worker.app,
            settings,
            on_start=start,
            on_stop=worker.close,
            has_failed=lambda: worker.failed,
        )
    finally:
        # After Faust has left the group: a collector that does not answer delays no partition. The
        # limit of the stop, which ends the process, includes it.
        if traces:
            traces.stop()
