"""The worker: the one place where the parts of the stream processor are put together."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from typing import Any, Final, NamedTuple

import mode.loop

mode.loop.use("uvloop")

import faust  # noqa: E402 - Faust makes its loop when imported, so the loop is chosen before
from aiokafka.errors import IllegalStateError, KafkaError  # noqa: E402
from faust.exceptions import ConsumerNotStarted  # noqa: E402
from faust.types import TP  # noqa: E402
from faust.types.enums import ProcessingGuarantee  # noqa: E402
from faust.worker import Worker as FaustWorker  # noqa: E402

from store import logs, metrics  # noqa: E402
from store.catalog import CatalogCache  # noqa: E402
from store.clock import system_clock_ms  # noqa: E402
from store.counters import PartitionProgress, Rolled  # noqa: E402
from store.postgres.catalog import load_catalog  # noqa: E402
from store.postgres.history import HistoryWriter  # noqa: E402
from store.postgres.migrate import ensure_partitions  # noqa: E402
from store.postgres.pool import bounded, make_pool  # noqa: E402
from store.records import StoreUnavailable  # noqa: E402
from store.redis.client import make_client  # noqa: E402
from store.redis.counters import RedisCounters  # noqa: E402
from store.redis.owners import PartitionOwners  # noqa: E402
from store.settings import Settings  # noqa: E402
from store.windows import DAY_MS, Calendar, date_of  # noqa: E402
from streams.arrival_watermarks import ArrivalWatermarks  # noqa: E402
from streams.commit import CounterCommitter, RewindRequired  # noqa: E402
from streams.dead_letters.alarm import RatioAlarm  # noqa: E402
from streams.dead_letters.sink import KafkaDeadLetterSink  # noqa: E402
from streams.decode.decoder import Decoder  # noqa: E402
from streams.history_sink import HistorySink  # noqa: E402
from streams.kafka.consumer import Batch, BatchConsumer, batch_transport  # noqa: E402
from streams.kafka.topic_id import describe_topic  # noqa: E402
from streams.pipeline import Pipeline  # noqa: E402
from streams.retry import retried  # noqa: E402
from streams.watchdog import Watchdog  # noqa: E402

logger = logs.get_logger("worker")

ROLL_RECORDS: Final = 40  # records of one roll script: 2 to 4 ms, so that 10 leaves room
TICK_S: Final = 0.5
# Never reached, as what the stream has is taken out at once: our own bound is the pipeline's.
STREAM_MESSAGES: Final = 1_000_000
IDLE_COMMIT_S: Final = 5.0
LOG_CHECK_S: Final = 5.0
REJOINS_MAX: Final = 3
FORGET_ROLLED_S: Final = 30.0
STOP_S: Final = 7.0  # for the batches in hand
STOP_MOST_S: Final = 9.5  # for all of a stop
POSITIONS_TIMEOUT_S: Final = 5.0  # for Postgres to say where history is
PARTITIONS_EVERY_S: Final = 3_600.0


class RolledTo(NamedTuple):
    """A tenant that needs no roll before the day after `day` begins."""

    calendar: Calendar
    day: int


class Worker:
    """Everything that one worker process runs, around one Faust app."""

    def __init__(
        self, settings: Settings, *, clock_ms: Callable[[], int] = system_clock_ms
    ) -> None:
        """`clock_ms`: decides what day it is, and what is ahead of time."""
        self.settings = settings
        self._now_ms = clock_ms
        self._topic = settings.interactions_topic
        self._topic_id = ""
        self._rewinding: asyncio.Task[None] | None = None
        self._rewind_again = False
        self._tasks: list[asyncio.Task[Any]] = []
        self._failed: asyncio.Future[BaseException] | None = None
        self._closed = False
        self._instance = ""
        self._partitions = 0
        self._arrivals = ArrivalWatermarks()
        self._rejoins = 0
        self._rolled: dict[str, RolledTo] = {}
        self._calendars: dict[str, Calendar] = {}
        self._reported: dict[int, int] = {}
        self.app = self._make_app()

    # ---- wiring

    def _make_app(self) -> Any:
        settings = self.settings
        app = faust.App(
            settings.consumer_group,
            broker=[f"kafka://{broker}" for broker in settings.brokers],
            autodiscover=False,
            datadir=tempfile.gettempdir(),  # Faust names a folder for tables, of which we have none
            web_enabled=False,
            processing_guarantee=ProcessingGuarantee.AT_LEAST_ONCE,
            agent_supervisor="mode.CrashingSupervisor",
            table_standby_replicas=0,
            topic_disable_leader=True,
            topic_allow_declare=False,
            stream_wait_empty=False,  # the pipeline ends what it has in hand, in bounded time
            stream_buffer_maxsize=STREAM_MESSAGES,
            stream_processing_timeout=86_400.0,  # our watchdog looks at what is counted instead
            broker_commit_interval=1.0,
            broker_commit_livelock_soft_timeout=86_400.0,
            broker_session_timeout=settings.kafka_session_timeout_s,
            broker_heartbeat_interval=min(3.0, settings.kafka_session_timeout_s / 3),
            # Also how long a group waits for a member that is dead already.
            broker_rebalance_timeout=settings.kafka_session_timeout_s,
            consumer_group_instance_id=settings.worker_instance_id or None,
            broker_request_timeout=max(90.0, settings.kafka_session_timeout_s),
            broker_max_poll_interval=86_400.0,
            consumer_auto_offset_reset="earliest",
            consumer_max_fetch_size=settings.fetch_bytes_max,
            consumer_metadata_max_age_ms=10_000,  # partitions that are added are soon seen
        )
        transport = batch_transport(
            settings.interactions_topic,
            fetch_wait_ms=settings.fetch_wait_ms,
            find_start=self._find_start,
            on_truncated=self._on_truncated,
            full_partitions=self._full_partitions,
        )
        app.transport = transport(app.conf.broker_consumer, app)
        topic = app.topic(settings.interactions_topic, value_serializer="raw", key_serializer="raw")

        async def count(stream: Any) -> None:
            async for event in stream.noack().events():
                self._pipeline.submit(event.message.value, event.ack)

        app.agent(topic, name="count", concurrency=1)(count)
        app.task(self._run)
        return app

    def _open_stores(self) -> None:
        settings = self.settings
        self._pool = make_pool(settings, max_size=4)
        self._client = make_client(settings, timeout_s=settings.redis_timeout_s, retries=0)
        self._counters = RedisCounters(
            self._client,
            settings.redis_prefix,
            dedup_horizon_h=settings.dedup_horizon_h,
            groups_max=settings.keys_per_grouping_max,
        )
        self._writer = HistoryWriter(self._pool)
        self._catalogs = CatalogCache(
            lambda tenant: load_catalog(self._pool, tenant),
            refresh_s=settings.catalog_refresh_s,
            monotonic=time.monotonic,
        )
        self._ledger = CounterCommitter(
            self._counters,
            self._writer,
            now_ms=self._now_ms,
            timezone_of=self._timezone_of,
            tenants_max=settings.tenants_max,
        )
        self._history = HistorySink(
            self._writer,
            topic=settings.interactions_topic,
            buffer_events=settings.history_buffer_events,
            batch_events=settings.history_batch_events,
            buffer_bytes=settings.history_buffer_bytes,
            on_behind=self._on_failure,
        )
        self._letters = KafkaDeadLetterSink(
            settings, PartitionOwners(self._client, settings.redis_prefix), now_ms=self._now_ms
        )
        self._pipeline = Pipeline(
            decoder=Decoder(
                future_tolerance_s=settings.future_tolerance_s,
                event_bytes_max=settings.event_bytes_max,
                id_chars_max=settings.id_chars_max,
            ),
            catalogs=self._catalogs,
            ledger=self._ledger,
            history=self._history,
            dead_letters=self._letters,
            now_ms=self._now_ms,
            slice_events=settings.commit_batch_events,
            batch_bytes=settings.fetch_bytes_max,
            queue_batches=settings.queue_batches,
            alarm=RatioAlarm(
                ratio=settings.dead_letter_alarm_ratio,
                window_events=settings.dead_letter_alarm_window,
                bad_min=settings.dead_letter_alarm_min,
            ),
            idle_commit_s=IDLE_COMMIT_S,
            on_lost=self._on_lost,
            on_failure=self._on_failure,
        )

    async def _timezone_of(self, tenant: str) -> str:
        return (await self._catalogs.get(tenant)).timezone

    # ---- where to start

    async def _find_start(self, partitions: Sequence[int]) -> Mapping[int, int]:
        """The offset to read each partition from: the lowest that any tenant's counters, or
        history, still need. Kafka's own committed offset is not asked."""
        await self._pipeline.abandon()
        self._rewind_again = False
        self._reported = {}
        settings = self.settings
        found = await retried(
            "kafka", lambda: describe_topic(settings, settings.interactions_topic)
        )
        self._topic_id, self._partitions = found.topic_id, found.partitions
        # Before the stores are asked: from here on, whoever had a partition before sends nothing.
        await retried("counters", lambda: self._letters.assign(found.topic_id, partitions))
        first = await retried("kafka", lambda: self._first_offsets(found.partitions))
        known = await retried("counters", lambda: self._ledger.counted(found.topic_id, first))
        stored = await self._stored(found.topic_id)
        self._ledger.start_session(found.topic_id, known, first)
        if stored is None:
            starts = {p: known[p] for p in partitions}
            await self._history.start_session(found.topic_id, dict(starts))
        else:
            starts = {p: min(known[p], stored.get(p, first[p])) for p in partitions}
            await self._history.start_session(
                found.topic_id, {p: stored.get(p) for p in partitions}
            )
        self._arrivals.begin(partitions)
        await self._pipeline.assign(starts)
        logger.info("partitions assigned", topic_id=found.topic_id, starts=starts)
        return starts

    async def _stored(self, topic_id: str) -> Mapping[int, int] | None:
        """Partition -> the offset up to which history has everything. None where Postgres is away:
        counting need not wait for it. History is then taken to be where the counters are, and its
        fence says so where it is not, as soon as something is written."""
        try:
            return await bounded(self._writer.positions(topic_id), POSITIONS_TIMEOUT_S)
        except StoreUnavailable as error:
            logger.warning(
                "history does not answer; reading goes on from the counters' offsets",
                error=str(error),
            )
            return None

    async def _first_offsets(self, partitions: int) -> dict[int, int]:
        """Partition -> the first offset that the log still has."""
        tps = [TP(self._topic, p) for p in range(partitions)]
        try:
            earliest = await self.app.consumer.earliest_offsets(*tps)
        except KafkaError as error:
            raise StoreUnavailable(f"Kafka: {type(error).__name__}: {error}") from error
        return {tp.partition: int(offset) for tp, offset in earliest.items()}

    def _full_partitions(self) -> Collection[int]:
        return self._pipeline.full_partitions()

    def _on_failure(self, error: BaseException) -> None:
        if isinstance(error, RewindRequired):
            metrics.REWINDS.inc()
            logger.warning("reading again what a store lacks", why=str(error))
            self._start_rewind(self._rewind())
        elif self._failed is not None and not self._failed.done():
            self._failed.set_result(error)

    def _start_rewind(self, rewind: Coroutine[Any, Any, None]) -> None:
        if self._rewinding is None or self._rewinding.done():
            self._rewinding = asyncio.create_task(rewind)
            self._rewinding.add_done_callback(self._ended)
        else:
            # One is under way. It looks at everything, unless it has looked already: then what is
            # found now, by a task that ends with it, would be forgotten.
            rewind.close()
            self._rewind_again = True

    async def _rewind(self) -> None:
        consumer: BatchConsumer = self.app.consumer
        await consumer.perform_seek()
        while self._rewind_again:
            await consumer.perform_seek()

    # ---- when the log is not what it was

    async def _check_log(self) -> None:
        """A topic that was deleted and made again is a new log, counted from its start."""
        found = await describe_topic(self.settings, self.settings.interactions_topic)
        if self._topic_id and found.topic_id != self._topic_id:
            metrics.LOG_CHANGES.labels("recreated").inc()
            logger.warning("the topic is a new log", before=self._topic_id, now=found.topic_id)
            await self._counters.reports.note_log_change(
                "recreated", found.topic_id, self._now_ms()
            )
            self._start_rewind(self._rewind())
        await self._rejoin_if_idle()

    async def _rejoin_if_idle(self) -> None:
        """A group that was formed while the topic was away gives nobody a partition, and does not
        always notice that it is back. A worker without partitions asks again, a few times: it may
        also be one more than there are partitions."""
        if self._pipeline.positions:
            self._rejoins = 0
        elif self._topic_id and self._rejoins < REJOINS_MAX:
            self._rejoins += 1
            thread = self.app.consumer._thread

            async def rejoin() -> None:
                thread._ensure_consumer()._coordinator.request_rejoin()

            logger.info("no partitions; asking the group again", times=self._rejoins)
            await thread.call_thread(rejoin)

    def _on_truncated(self, partition: int, end: int) -> None:
        self._start_rewind(self._after_truncation(partition, end))

    async def _after_truncation(self, partition: int, end: int) -> None:
        """The log ends before what was counted. The same log was cut (an unclean election, say):
        what it holds from some point on is new, and nobody tells from where. So the last day is
        read again, which the remembered identities allow."""
        found = await retried("kafka", lambda: describe_topic(self.settings, self._topic))
        if found.topic_id == self._topic_id:
            since = await self._offset_at(partition, self._now_ms() - DAY_MS)
            start = min(end, since) if self.settings.dedup_horizon_h >= 24 else end
            metrics.LOG_CHANGES.labels("cut").inc()
            logger.error("the log was cut", partition=partition, end=end, reading_from=start)
            await self._counters.reports.note_log_change("cut", found.topic_id, self._now_ms())
            await retried("counters", lambda: self._ledger.reset(partition, start))
            stored = (await retried("history", lambda: self._writer.positions(found.topic_id))).get(
                partition, 0
            )
            if stored > start:
                refused = await retried(
                    "history",
                    lambda: self._writer.reset(
                        topic=self._topic,
                        topic_id=found.topic_id,
                        partition=partition,
                        expected_offset=stored,
                        next_offset=start,
                    ),
                )
                if refused is not None:
                    raise RuntimeError(
                        f"history refused to reset partition {partition} from {stored} to {start}:"
                        f" its watermark is {refused.watermark}"
                    )
        await self._rewind()

    async def _offset_at(self, partition: int, at_ms: int) -> int:
        thread = self.app.consumer._thread
        tp = TP(self._topic, partition)
        found = await thread.call_thread(thread._ensure_consumer().offsets_for_times, {tp: at_ms})
        return int(found[tp].offset) if found.get(tp) else 0

    async def _on_lost(self, batch: Batch) -> None:
        logger.error(
            "retention took offsets before they were counted; if history has them, "
            "`interaction-summary rebuild --from history` counts them",
            partition=batch.partition,
            first=batch.base,
            lost=batch.lost,
        )
        metrics.LOST_OFFSETS.inc(batch.lost)
        await retried(
            "counters",
            lambda: self._counters.note_lost(
                self._topic_id, batch.partition, batch.base, batch.lost
            ),
        )

    def _ended(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._on_failure(error)

    # ---- running

    async def open(self) -> None:
        self._failed = asyncio.get_running_loop().create_future()
        self._open_stores()
        await self._pool.open(wait=False)
        for work in (
            self._history.run(),
            self._every(TICK_S, self._roll_tenants),
            self._every(FORGET_ROLLED_S, self._forget_rolled),
            self._every(TICK_S, self._report),
            self._every(LOG_CHECK_S, self._check_log),
            self._every(PARTITIONS_EVERY_S, self._make_partitions),
            self._watch(),
        ):
            task = asyncio.create_task(work)
            task.add_done_callback(self._ended)
            self._tasks.append(task)

    async def close(self) -> None:
        """Finishes what is in hand, as far as the time of a stop allows. Once."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(TimeoutError, StoreUnavailable):
            async with asyncio.timeout(STOP_S):
                await self._pipeline.close()
                await self._report()
        await self._pipeline.abandon()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(Exception):
            await self._letters.close()
        await self._client.aclose()
        await self._pool.close()

    async def _run(self) -> None:
        """Ends the process, through Faust, when any part has failed for good."""
        assert self._failed is not None
        error = await self._failed
        logger.error("worker failed", error=f"{type(error).__name__}: {error}", exc_info=error)
        raise error

    async def _every(self, wait_s: float, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await work()
            except StoreUnavailable as error:
                logger.info("left for later", work=work.__name__, error=str(error))
            except RewindRequired as behind:
                self._on_failure(behind)
            await asyncio.sleep(wait_s)

    async def _roll_tenants(self) -> None:
        """Rolls what midnight has made due. Any worker may; each script does a bounded part."""
        for tenant in await self._counters.tenants():
            rolled = self._rolled.get(tenant)
            if rolled is None or rolled.calendar.day_of(self._now_ms()) > rolled.day:
                await self._roll(tenant)

    async def _roll(self, tenant: str) -> None:
        generation = await self._counters.generation(tenant)
        if generation is None:
            return
        await self._ledger.adopt_generation(generation)
        calendar = self._calendars.setdefault(generation.timezone, Calendar(generation.timezone))
        today = calendar.day_of(self._now_ms())
        behind = max(today, generation.day) > (generation.rolled or 0)
        arrived_ms = await self._all_read_until() if behind else 0
        while behind:
            answer = await self._counters.roll(
                generation, today, now_ms=arrived_ms, records_max=ROLL_RECORDS
            )
            if not isinstance(answer, Rolled):
                return
            metrics.ROLLED.inc(answer.records)
            behind = not answer.finished
            if answer.finished:
                logger.info("rolled", tenant=tenant, day=date_of(answer.day).isoformat())
        if not generation.complete and self._topic_id:
            await self._ledger.try_mark_complete(tenant)
        elif generation.day >= today:
            self._rolled[tenant] = RolledTo(calendar, generation.day)

    async def _all_read_until(self) -> int:
        """All that arrived before this has been read, ms; 0 = not known."""
        read = await self._counters.reports.arrivals(self._topic_id)
        return min((read.get(p, 0) for p in range(self._partitions)), default=0)

    async def _forget_rolled(self) -> None:
        """Now and then every tenant is looked at again: its generation may be another."""
        self._rolled.clear()

    async def _report(self) -> None:
        await self._check_counters()
        at_ms = self._now_ms()
        ends = self._ends()
        marks = [
            PartitionProgress(
                self._topic_id,
                p,
                position,
                ends.get(p),
                at_ms,
                self._ledger.freshness.recent(p, at_ms),
            )
            for p, position in self._pipeline.positions.items()
        ]
        metrics.WORKER_LAG.set(
            sum(max(0, m.end_offset - m.next_offset) for m in marks if m.end_offset is not None)
        )
        await self._counters.reports.report_progress(marks)
        await self._counters.reports.report_arrivals(
            self._topic_id, self._arrivals.look(at_ms, self._pipeline.positions, ends)
        )
        self._reported = {m.partition: m.next_offset for m in marks}

    async def _check_counters(self) -> None:
        """Where Redis was restarted, flushed, or another server took over, what was committed may
        be gone, and without traffic no commit would find out."""
        instance = await self._counters.reports.instance()
        progress = {
            p.partition: p.next_offset
            for p in await self._counters.reports.progress()
            if p.topic_id == self._topic_id
        }
        gone = set(self._ledger.tenants) - set(await self._counters.tenants())
        lost = any(progress.get(p, -1) < offset for p, offset in self._reported.items())
        if gone or lost or (self._instance and instance != self._instance):
            self._on_failure(RewindRequired("Redis is another, or lost what was written"))
            self._reported = {}
        self._instance = instance

    def _ends(self) -> dict[int, int | None]:
        """Partition -> its end, from the last fetch answer: also an empty one tells."""
        ends: dict[int, int | None] = {}
        for partition, position in self._pipeline.positions.items():
            try:
                ends[partition] = self._end(partition, position)
            except (AssertionError, IllegalStateError, ConsumerNotStarted):  # not ours just now
                ends[partition] = None
        return ends

    def _end(self, partition: int, counted: int) -> int | None:
        tp = TP(self._topic, partition)
        consumer: BatchConsumer = self.app.consumer
        end: int | None = consumer.highwater(tp)
        if end is not None and end > counted and consumer.is_read(tp, end, counted):
            return counted  # what is left are markers of transactions
        return end

    async def _make_partitions(self) -> None:
        await ensure_partitions(self._pool, date_of(Calendar("UTC").day_of(self._now_ms())))

    async def _watch(self) -> None:
        """A consumer can fall silent after an outage of its broker. With lag and nothing counted
        for too long, the process ends, and whoever supervises it starts another."""
        watchdog = Watchdog(self.settings.watchdog_s)
        while True:
            await asyncio.sleep(1.0)
            positions = dict(self._pipeline.positions)
            if stalled := watchdog.stalled(time.monotonic(), positions, self._ends()):
                raise RuntimeError(
                    f"nothing counted for {self.settings.watchdog_s:.0f} s while events wait "
                    f"in partitions {stalled}"
                )


def _calm_collector() -> None:
    """A full collection looks at every object there is, and counting stands still meanwhile: for up
    to 0.2 s, some times a minute. So it is told to leave alone what is there by now, which stays
    for good, and to come less often: events are no cycles, and are freed without it."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def run_worker(settings: Settings) -> None:
    """Runs a worker until SIGTERM or SIGINT. Raises SystemExit: 0 after a clean stop."""
    logs.configure(settings.log_level)
    if settings.worker_metrics_port:
        from prometheus_client import start_http_server

        start_http_server(settings.worker_metrics_port, addr="127.0.0.1")
    counting = Worker(settings)
    _calm_collector()

    class _FaustWorker(FaustWorker):  # type: ignore[misc]
        async def on_first_start(self) -> None:
            await counting.open()
            await super().on_first_start()

        async def stop(self) -> None:
            # Leaving a group that is just forming can take the broker longer than a stop may. What
            # is in hand is finished first, so ending without good-bye loses nothing.
            last_call = threading.Timer(STOP_MOST_S, os._exit, (0,))
            last_call.daemon = True
            last_call.start()
            # While Faust still runs: what is finished now is acknowledged and committed by it.
            await counting.close()
            await super().stop()

    worker = _FaustWorker(
        counting.app,
        loglevel=settings.log_level,
        override_logging=False,
        redirect_stdouts=False,
        quiet=True,
    )
    worker.spinner = None
    worker.execute_from_commandline()
