"""Progress reports for lag and `status`, and checks that the counters kept what was committed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Final

from store import metrics
from store.counters import Floor, PartitionProgress
from store.redis.counters import RedisCounters
from streams.arrival_watermarks import ArrivalWatermarks
from streams.assignment import Consumer, CurrentTopic
from streams.commit import CounterCommitter
from streams.pipeline import Pipeline
from streams.tenant_names import TenantNames
from streams.tenant_state import RewindRequired

#: Time over which the rate of counting is averaged.
RATE_MS: Final = 10_000


class CountingRates:
    """Offsets per second that are counted, of each partition, over the last `RATE_MS`."""

    def __init__(self) -> None:
        self._samples: dict[int, deque[tuple[int, int]]] = {}

    def update(self, positions: Mapping[int, int], at_ms: int) -> dict[int, float]:
        """Add a sample of each partition's position; return partition -> rate.

        Partitions that are not in `positions` are forgotten. A rewind starts the average again. A
        rate needs two samples.
        """
        self._samples = {p: self._samples.get(p, deque()) for p in positions}
        rates = {}
        for partition, samples in self._samples.items():
            if samples and positions[partition] < samples[-1][1]:
                samples.clear()
            samples.append((at_ms, positions[partition]))
            # The first sample is the newest one that is at least RATE_MS old.
            while len(samples) > 2 and samples[1][0] <= at_ms - RATE_MS:
                samples.popleft()
            (began_ms, first), (_, last) = samples[0], samples[-1]
            if at_ms > began_ms:
                rates[partition] = round((last - first) * 1_000 / (at_ms - began_ms), 1)
        return rates


class ProgressReporter:
    """Reports how far each partition is counted, twice a second."""

    def __init__(
        self,
        *,
        topic: CurrentTopic,
        consumer: Callable[[], Consumer],
        counters: RedisCounters,
        committer: CounterCommitter,
        pipeline: Pipeline,
        arrivals: ArrivalWatermarks,
        now_ms: Callable[[], int],
        on_behind: Callable[[RewindRequired], None],
    ) -> None:
        """`on_behind` is called when Redis lacks what this worker has committed."""
        self._names = TenantNames(counters, now_ms=now_ms)
        self._topic = topic
        self._consumer = consumer
        self._counters = counters
        self._committer = committer
        self._pipeline = pipeline
        self._arrivals = arrivals
        self._now_ms = now_ms
        self._on_behind = on_behind
        self._instance = ""
        self._session_instance = ""
        """Empty: counters may be lacking, so no floor is reported."""
        self._reported: dict[int, int] = {}
        self._rates = CountingRates()

    def forget_reported(self) -> None:
        """Forget the reported offsets, before a read session may start below them."""
        self._reported = {}
        self._session_instance = ""

    def begin_session(self, instance: str) -> None:
        """Report floors again. `instance`: that of Redis before the session read its counters."""
        self._session_instance = instance

    async def report(self) -> None:
        """Write offsets, ends, freshness and arrival watermarks to Redis."""
        await self._check_counters()
        at_ms = self._now_ms()
        ends = self.ends()
        rates = self._rates.update(self._pipeline.positions, at_ms)
        progress = [
            PartitionProgress(
                self._topic.topic_id,
                partition,
                position,
                ends.get(partition),
                at_ms,
                self._committer.freshness.recent(partition, at_ms),
                rates.get(partition),
            )
            for partition, position in self._pipeline.positions.items()
        ]
        metrics.WORKER_LAG.set(
            sum(max(0, p.end_offset - p.next_offset) for p in progress if p.end_offset is not None)
        )
        await self._counters.reports.report_progress(progress)
        await self._counters.reports.report_arrivals(
            self._topic.topic_id, self._arrivals.update(at_ms, self._pipeline.positions, ends)
        )
        if instance := self._session_instance:
            await self._counters.report_floors(
                self._topic.topic_id,
                {p.partition: Floor(p.next_offset, p.end_offset, instance) for p in progress},
            )
        self._reported = {p.partition: p.next_offset for p in progress}

    async def report_rebuilds(self) -> None:
        """Set the metrics of the rebuilds that run."""
        running = (await self._counters.builds.running(self._now_ms())).values()
        metrics.REBUILDS_RUNNING.set(len(running))
        left = sum(max(0, (each["total"] or each["done"]) - each["done"]) for each in running)
        metrics.REBUILD_EVENTS_LEFT.set(left)

    def ends(self) -> dict[int, int | None]:
        """Return the end offset of each partition, from its last fetch answer; None = not known."""
        return {
            partition: self._consumer().end_offset(partition, position)
            for partition, position in self._pipeline.positions.items()
        }

    async def _check_counters(self) -> None:
        """Rewind where Redis was restarted, flushed or replaced and may have lost commits.

        Without traffic no commit would be refused, so nothing else would notice.
        """
        instance = await self._counters.reports.instance()
        progress = {
            p.partition: p.next_offset
            for p in await self._counters.reports.progress()
            if p.topic_id == self._topic.topic_id
        }
        known = self._committer.tenants.names
        gone = known - await self._names.get() and known - await self._names.read()
        lost = any(progress.get(p, -1) < offset for p, offset in self._reported.items())
        if gone:  # removed by an operator, or lost
            removed = await self._counters.removals.counted_before(
                sorted(gone), self._topic.topic_id
            )
            for tenant in removed:
                self._committer.tenants.forget(tenant)
            gone -= removed.keys()
        if gone or lost or (self._instance and instance != self._instance):
            self._on_behind(RewindRequired("Redis was replaced or lost commits"))
            self.forget_reported()
        self._instance = instance
