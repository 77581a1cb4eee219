"""The daily roll: at a tenant's midnight the oldest day leaves its windows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from store import metrics
from store.counters import Rolled
from store.logs import get_logger
from store.redis.counters import RedisCounters
from store.windows import Calendar, date_of
from streams.assignment import CurrentTopic
from streams.commit import CounterCommitter

logger = get_logger("rollover")

#: Records of one roll script: 2 to 4 ms of Redis, which leaves room below 10 ms.
ROLL_RECORDS: Final = 40


class RolledTo(NamedTuple):
    """A tenant that needs no roll before the day after `day` begins."""

    calendar: Calendar
    day: int


class Rollover:
    """Rolls all tenants. Every worker may run it: each script does a bounded, idempotent part."""

    def __init__(
        self,
        counters: RedisCounters,
        committer: CounterCommitter,
        topic: CurrentTopic,
        *,
        now_ms: Callable[[], int],
    ) -> None:
        self._counters = counters
        self._committer = committer
        self._topic = topic
        self._now_ms = now_ms
        self._rolled: dict[str, RolledTo] = {}
        self._calendars: dict[str, Calendar] = {}

    async def roll_tenants(self) -> None:
        """Roll the tenants whose midnight has passed; then complete those that can be."""
        incomplete: dict[str, RolledTo | None] = {}
        for tenant in await self._counters.tenants():
            rolled = self._rolled.get(tenant)
            if rolled is None or rolled.calendar.day_of(self._now_ms()) > rolled.day:
                await self._roll(tenant, incomplete)
        # After all rolls: this asks Postgres, which may be away, or take long to count rows.
        for tenant, rolled in incomplete.items():
            # Where only a rebuild helps, `forget_rolled` and the announcement of a swap are enough.
            may_become_complete = await self._committer.tenants.try_mark_complete(tenant)
            if not may_become_complete and rolled is not None:
                self._rolled[tenant] = rolled

    async def forget_rolled(self) -> None:
        """Look at every tenant with the next call: its generation may be another one."""
        self._rolled.clear()

    def forget(self, tenant: str) -> None:
        """Look at the tenant with the next call: its generation is another one."""
        self._rolled.pop(tenant, None)

    async def _roll(self, tenant: str, incomplete: dict[str, RolledTo | None]) -> None:
        """Roll the tenant; add it to `incomplete` if its counters are not complete."""
        generation = await self._counters.generation(tenant)
        if generation is None:
            return
        await self._committer.tenants.adopt_generation(generation)
        calendar = self._calendars.setdefault(generation.timezone, Calendar(generation.timezone))
        today = calendar.day_of(self._now_ms())
        behind = max(today, generation.day) > (generation.rolled or 0)
        arrived_ms = await self._arrival_watermark_ms() if behind else 0
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
        rolled = RolledTo(calendar, generation.day) if generation.day >= today else None
        if not generation.complete and self._topic.topic_id != "":
            incomplete[tenant] = rolled
        elif rolled is not None:
            self._rolled[tenant] = rolled

    async def _arrival_watermark_ms(self) -> int:
        """Return the lowest arrival watermark of all partitions, ms; 0 = not known."""
        watermarks = await self._counters.reports.arrivals(self._topic.topic_id)
        return min((watermarks.get(p, 0) for p in range(self._topic.partitions)), default=0)
