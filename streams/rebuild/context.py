"""What the parts of one rebuild share."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from store.counters import Generation
from store.logs import get_logger
from store.postgres.history import HistoryWriter
from store.postgres.pool import Pool
from store.postgres.refill import HistoryFiller
from store.records import StoreUnavailable
from store.redis.counters import RedisCounters
from store.redis.reports import PROGRESS_OLD_MS
from store.settings import Settings
from store.windows import DAY_MS, slots_of_horizon
from streams.kafka.record_time import RECORDED_AHEAD_MAX_MS
from streams.kafka.topic_id import check_brokers
from streams.kafka.topic_scan import TopicScan, first_arrivals, open_scan
from streams.rebuild.owned import ActiveOwners
from streams.rebuild.pace import Pace
from streams.rebuild.plan import TopicView
from streams.rebuild.progress import ProgressMeter, Report
from streams.rebuild.results import Options

logger = get_logger("rebuild")

#: Share of Redis' time that a rebuild uses while a worker counts.
SHARE: Final = 0.4
BROKER_TIMEOUT_S: Final = 5.0


@dataclasses.dataclass
class Context:
    """Stores, topic and options of a rebuild of some tenants together."""

    settings: Settings
    counters: RedisCounters
    pool: Pool
    scan: TopicScan | None
    """None: Kafka does not answer."""
    options: Options
    pace: Pace
    now_ms: Callable[[], int]
    report: Report
    topic: TopicView | None = None
    ends: Mapping[int, int] = dataclasses.field(default_factory=dict)
    """Partition -> end of the topic, as seen last."""
    _arrivals: dict[frozenset[tuple[int, int]], Mapping[int, int]] = dataclasses.field(
        default_factory=dict
    )
    """Starts -> arrivals of the first records there: tenants rebuilt together share them."""

    @property
    def slots_back(self) -> int:
        """Slots before and after its own in which a copy of an event is recognised."""
        return slots_of_horizon(self.settings.dedup_horizon_h)

    async def of_tenant(self, tenant: str) -> Context:
        """Return the context with the topic as the tenant has it: without its removed events.

        Raises StoreUnavailable.
        """
        if self.topic is None:
            return self
        topic_id, earliest = self.topic
        removed = await HistoryWriter(self.pool).removed_through(tenant, topic_id)
        held = {p: max(offset, removed.get(p, 0)) for p, offset in earliest.items()}
        return dataclasses.replace(self, topic=TopicView(topic_id, held))

    def shards(self, active: Generation | None) -> int:
        """Return the number of shards of a tenant's new generation."""
        return self.options.shards or (active.shards if active else 1)

    @property
    def owners(self) -> ActiveOwners:
        """Return what finds copies in the topic; there must be a scan."""
        assert self.scan is not None
        topic, topic_id = self.settings.interactions_topic, self.scan.topic_id
        filler = HistoryFiller(self.pool, topic=topic, topic_id=topic_id)
        return ActiveOwners(self.counters, filler, self.pace, topic_id, self.slots_back)

    def meter(self, tenant: str) -> ProgressMeter:
        """Return a meter of the progress of `tenant`."""
        return ProgressMeter(tenant, self.report, self.now_ms)

    async def look_at_topic(self) -> None:
        """Update what is known of the topic, and how much of Redis' time may be used."""
        progress = await self.counters.reports.progress()
        now_ms = self.now_ms()
        is_live = any(now_ms - report.at_ms < PROGRESS_OLD_MS for report in progress)
        self.pace.share = SHARE if is_live else 1.0
        if self.scan is not None:
            self.topic = TopicView(self.scan.topic_id, await self.scan.earliest())
            self.ends = await self.scan.ends()
            self._arrivals.clear()

    async def oldest_slot(self, starts: Mapping[int, int]) -> int:
        """Return the oldest slot whose identities the records from `starts` on may repeat."""
        arrived_ms = self.now_ms()
        if self.scan is None:
            arrivals = (await self.counters.reports.arrivals()).values()
            arrived_ms = min(arrivals, default=0) or arrived_ms
        else:
            key = frozenset(starts.items())
            if key not in self._arrivals:
                self._arrivals[key] = await first_arrivals(self.scan, starts, self.ends)
            # A timestamp that cannot be tells nothing of when the records after it arrived.
            latest_ms = arrived_ms + RECORDED_AHEAD_MAX_MS
            known = (ms if ms <= latest_ms else 0 for ms in self._arrivals[key].values())
            arrived_ms = min([arrived_ms, *known])
        return arrived_ms // DAY_MS - self.slots_back


@asynccontextmanager
async def open_topic(settings: Settings) -> AsyncIterator[TopicScan | None]:
    """Yield a scan of the topic, or None if Kafka does not answer or the topic is missing."""
    async with AsyncExitStack() as stack:
        scan = None
        try:
            await check_brokers(settings, timeout_s=BROKER_TIMEOUT_S)
            scan = await stack.enter_async_context(
                open_scan(settings, client_id="interaction-summary-rebuild")
            )
        except StoreUnavailable as error:
            logger.warning("topic not readable", error=str(error))
        yield scan
