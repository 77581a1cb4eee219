"""The Faust app: consumer group, acknowledgements and signals; and the process that runs it."""

from __future__ import annotations

import asyncio
import gc
import os
import tempfile
import threading
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Final, Protocol

import mode.loop

mode.loop.use("uvloop")

import faust  # noqa: E402 - Faust creates its loop when imported, so the loop is chosen before
from faust.types.enums import ProcessingGuarantee  # noqa: E402
from faust.worker import Worker as FaustWorker  # noqa: E402

from store import logs  # noqa: E402
from store.settings import Settings  # noqa: E402
from streams.kafka.consumer import Batch, batch_transport, credentials  # noqa: E402

# Never reached, because the agent takes everything at once: the queues of the pipeline are bounded.
STREAM_MESSAGES_MAX: Final = 1_000_000
STOP_MAX_S: Final = 9.5  # for all of a stop
LAST_LINE_S: Final = 0.2  # for the line that says that a stop took longer
_NEVER_S: Final = 86_400.0

logger = logs.get_logger("worker")


class Hooks(Protocol):
    """What the app calls: the worker's side."""

    async def find_start(self, partitions: Sequence[int]) -> Mapping[int, int]:
        """Return the offset to read each assigned partition from."""
        ...

    async def on_no_partitions(self) -> None:
        """Handle that a rebalance has taken all partitions."""
        ...

    def on_truncated(self, partition: int, end: int) -> None:
        """Handle a partition that ends at `end`, before what was read."""
        ...

    def full_partitions(self) -> Collection[int]:
        """Return the partitions that must not be fetched for now."""
        ...

    def submit(self, batch: Batch, acknowledge: Callable[[], None]) -> None:
        """Take a fetched batch over."""
        ...

    async def run(self) -> None:
        """Raise the error that must end the process, when there is one."""
        ...


def create_app(settings: Settings, hooks: Hooks) -> Any:
    """Return a Faust app that hands every fetched batch to `hooks`."""
    app = faust.App(
        settings.consumer_group,
        broker=[f"kafka://{broker}" for broker in settings.brokers],
        broker_credentials=credentials(settings),
        autodiscover=False,
        datadir=tempfile.gettempdir(),  # required by Faust for tables; there are none
        web_enabled=False,
        processing_guarantee=ProcessingGuarantee.AT_LEAST_ONCE,
        agent_supervisor="mode.CrashingSupervisor",
        table_standby_replicas=0,
        topic_disable_leader=True,
        topic_allow_declare=False,
        stream_wait_empty=False,  # the pipeline finishes what it has in hand, in bounded time
        stream_buffer_maxsize=STREAM_MESSAGES_MAX,
        stream_processing_timeout=_NEVER_S,  # our watchdog looks at what is counted instead
        broker_commit_interval=1.0,
        broker_commit_livelock_soft_timeout=_NEVER_S,
        broker_session_timeout=settings.kafka_session_timeout_s,
        broker_heartbeat_interval=min(3.0, settings.kafka_session_timeout_s / 3),
        # This is also how long a group waits for a member that is already dead.
        broker_rebalance_timeout=settings.kafka_session_timeout_s,
        consumer_group_instance_id=settings.worker_instance_id or None,
        broker_request_timeout=max(90.0, settings.kafka_session_timeout_s),
        broker_max_poll_interval=_NEVER_S,
        consumer_auto_offset_reset="earliest",
        consumer_max_fetch_size=settings.fetch_bytes_max,
        consumer_metadata_max_age_ms=10_000,  # notice added partitions within 10 s
    )
    transport = batch_transport(
        settings.interactions_topic,
        fetch_wait_ms=settings.fetch_wait_ms,
        find_start=hooks.find_start,
        on_no_partitions=hooks.on_no_partitions,
        on_truncated=hooks.on_truncated,
        full_partitions=hooks.full_partitions,
    )
    app.transport = transport(app.conf.broker_consumer, app)
    topic = app.topic(settings.interactions_topic, value_serializer="raw", key_serializer="raw")

    async def count(stream: Any) -> None:
        async for event in stream.noack().events():
            hooks.submit(event.message.value, event.ack)

    app.agent(topic, name="count", concurrency=1)(count)
    app.task(hooks.run)
    return app


def run_app(
    app: Any,
    settings: Settings,
    *,
    on_start: Callable[[], Awaitable[None]],
    on_stop: Callable[[], Awaitable[None]],
    has_failed: Callable[[], bool],
) -> None:
    """Run the app until SIGTERM or SIGINT; raise SystemExit, 0 after a clean stop.

    `on_start` is awaited before Faust starts, `on_stop` before it stops: what is finished then is
    still acknowledged and committed by Faust. A stop that takes too long ends the process; its
    exit code is 0 only if a signal asked for the stop, and 1 also after a failure that `has_failed`
    tells of. An error during the stop also makes it 1. The log says why it is 1.
    """

    class Process(FaustWorker):  # type: ignore[misc]
        stop_failed = False

        async def on_first_start(self) -> None:
            await super().on_first_start()  # installs the handlers of signals
            await on_start()

        async def stop(self) -> None:
            # To leave a group that is just forming can take the broker longer than a stop may. The
            # batches in hand are finished first, so ending without leaving loses nothing.
            timer = threading.Timer(STOP_MAX_S, self._end)
            timer.daemon = True
            timer.start()
            try:
                await on_stop()
            except Exception as error:
                self._note(error)  # and still leave the group
            await super().stop()

        def stop_and_shutdown(self) -> None:
            try:
                super().stop_and_shutdown()
            except (Exception, asyncio.CancelledError) as error:
                if error is not self.crash_reason:  # that one is in the log
                    self._note(error)
                raise  # Faust makes it exit code 1, without a line in the log
            if self.stop_failed:
                raise SystemExit(1)

        def _note(self, error: BaseException) -> None:
            self.stop_failed = True
            text = f"{type(error).__name__}: {error}"
            logger.error("worker stop failed", error=text, exc_info=error)

        def _end(self) -> None:
            was_asked = self._signal_stop_time is not None
            failed = self.crashed or self.stop_failed or has_failed()
            code = 0 if was_asked and not failed else 1

            def say() -> None:
                logger.warning(
                    "stop not finished in time: the process ends",
                    limit_s=STOP_MAX_S,
                    exit_code=code,
                    asked_by_signal=was_asked,
                )

            # In a thread: a log that takes no more lines must not keep the process alive.
            line = threading.Thread(target=say, daemon=True)
            line.start()
            line.join(LAST_LINE_S)
            os._exit(code)

    process = Process(
        app,
        loglevel=settings.log_level,
        override_logging=False,
        redirect_stdouts=False,
        quiet=True,
    )
    process.spinner = None
    process.execute_from_commandline()


def tune_garbage_collector() -> None:
    """Make full collections rare and cheap.

    A full collection looks at every object while counting stands still, for up to 0.2 s, several
    times a minute. Objects that exist now stay for good, so they are excluded. Events form no
    reference cycles and are freed without the collector.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
