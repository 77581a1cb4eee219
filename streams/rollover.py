"""The daily roll: at a tenant's midnight the oldest day leaves its windows."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from itertools import islice
from typing import Final

from store import metrics
from store.counters import Generation, Rolled
from store.logs import get_logger
from store.redis.active import TENANTS_PER_CALL
from store.redis.counters import RedisCounters
from store.shards import tenant_of
from store.windows import Calendar, date_of
from streams.assignment import CurrentTopic
from streams.commit import CounterCommitter
from streams.tenant_names import TenantNames

logger = get_logger("rollover")

#: Records of one roll script: 2 to 4 ms of Redis, which leaves room below 10 ms.
ROLL_RECORDS: Final = 40
#: How often the other tenants are looked at during a roll, which may take minutes.
LOOK_S: Final = 1.0
#: Window days that are moved at the same time: enough to hide the round trips.
MOVES_MAX: Final = 16
#: Tenants that `forget_rolled` forgets at once: more take turns.
FORGET_MAX: Final = 1_000


class Rollover:
    """Rolls all tenants. Every worker may run it: each script does a bounded, idempotent part.

    A question on today and on all time can be answered once the window day has moved, one on other
    days once all records are rolled. So the days of all tenants move first, and then the tenants
    take turns of `ROLL_RECORDS` records: none waits for another one to be finished.
    """

    def __init__(
        self,
        counters: RedisCounters,
        committer: CounterCommitter,
        topic: CurrentTopic,
        *,
        now_ms: Callable[[], int],
        worker: str = "",
    ) -> None:
        """`worker` names this worker: each one handles the tenants in another order."""
        self._names = TenantNames(counters, now_ms=now_ms)
        self._counters = counters
        self._committer = committer
        self._topic = topic
        self._now_ms = now_ms
        self._worker = worker
        self._rolled: dict[str, int] = {}
        """Tenant -> time in ms before which it needs no roll: its next midnight."""
        self._calendars: dict[str, Calendar] = {}
        self._turns: deque[Generation] = deque()
        """Generations with records to roll; the next turn is that of the first one."""

    async def roll_tenants(self) -> None:
        """Roll the tenants whose midnight has passed; then complete those that can be."""
        incomplete: dict[str, int | None] = {}
        self._turns.clear()
        arrived_ms = await self._move_days(incomplete)
        look_s = time.monotonic() + LOOK_S
        while self._turns:
            generation = self._turns.popleft()
            if not await self._roll(generation, arrived_ms, ROLL_RECORDS):
                self._turns.append(generation)
            if time.monotonic() >= look_s:
                arrived_ms = await self._move_days(incomplete)
                look_s = time.monotonic() + LOOK_S
        # After all rolls: this asks Postgres, which may be away, or take long to count rows.
        for tenant, until_ms in incomplete.items():
            # Where only a rebuild helps, `forget_rolled` and the announcement of a swap are enough.
            may_become_complete = await self._committer.tenants.try_mark_complete(tenant)
            if not may_become_complete and until_ms is not None:
                self._rolled[tenant] = until_ms

    async def forget_rolled(self) -> None:
        """Look at the tenants again, those first that were not looked at for longest.

        Their generation may be another one, though no swap or rollback was announced.
        """
        for tenant in list(islice(self._rolled, FORGET_MAX)):
            del self._rolled[tenant]

    def forget(self, tenant: str) -> None:
        """Look at the tenant with the next call: its generation is another one."""
        self._rolled.pop(tenant, None)

    async def _move_days(self, incomplete: dict[str, int | None]) -> int:
        """Move the window days of all tenants to today; queue those that have records to roll.

        Add those whose counters are not complete to `incomplete`. Return the arrival watermark, ms.
        """
        rolling = {tenant_of(generation.tenant) for generation in self._turns}
        now_ms, until_ms = self._now_ms(), self._rolled.get
        names = await self._names.get()
        due = [t for t in names if until_ms(t, 0) <= now_ms and t not in rolling]
        due = turn_order(due, self._worker)
        arrived_ms = await self._arrival_watermark_ms() if due or rolling else 0
        found: dict[str, list[Generation]] = {}
        for first in range(0, len(due), TENANTS_PER_CALL):
            # Read just before they move: by then another worker may have moved them.
            part = due[first : first + TENANTS_PER_CALL]
            generations = [g async for g in self._counters.active_generations(part)]
            await self._move(generations, arrived_ms)
            for generation in generations:
                found.setdefault(tenant_of(generation.tenant), []).append(generation)
        for tenant, shards in found.items():
            rolled_until_ms = self._rolled_until_ms(shards)
            if not all(each.complete for each in shards) and self._topic.topic_id != "":
                incomplete[tenant] = rolled_until_ms
            elif rolled_until_ms is not None and not any(map(self._is_behind, shards)):
                self._rolled[tenant] = rolled_until_ms
        for shards in found.values():  # at the end: one that is behind ends this call
            for generation in shards:
                await self._committer.tenants.adopt_generation(generation)
        return arrived_ms

    async def _move(self, generations: Sequence[Generation], arrived_ms: int) -> None:
        """Move the window days of generations; queue those that have records to roll."""
        behind = [generation for generation in generations if self._is_behind(generation)]
        for first in range(0, len(behind), MOVES_MAX):
            part = behind[first : first + MOVES_MAX]
            finished = await asyncio.gather(*(self._roll(g, arrived_ms, 0) for g in part))
            self._turns += [g for g, done in zip(part, finished, strict=True) if not done]

    async def _roll(self, generation: Generation, arrived_ms: int, records_max: int) -> bool:
        """Roll a part of a generation; return whether nothing is left, or it is not active."""
        answer = await self._counters.roll(
            generation, self._today(generation), now_ms=arrived_ms, records_max=records_max
        )
        if not isinstance(answer, Rolled):
            return True
        metrics.ROLLED.inc(answer.records)
        if answer.finished:
            logger.info("rolled", tenant=generation.tenant, day=date_of(answer.day).isoformat())
        return answer.finished

    def _is_behind(self, generation: Generation) -> bool:
        """Return whether the generation was not rolled to the end of a day that has begun."""
        return max(self._today(generation), generation.day) > (generation.rolled or 0)

    def _rolled_until_ms(self, shards: Sequence[Generation]) -> int | None:
        """Return the next midnight of a tenant; None if one of its shards has an earlier day."""
        today = self._today(shards[0])
        if any(each.day < today for each in shards):
            return None
        return self._calendar(shards[0]).midnight_ms(today + 1)

    def _today(self, generation: Generation) -> int:
        return self._calendar(generation).day_of(self._now_ms())

    def _calendar(self, generation: Generation) -> Calendar:
        return self._calendars.setdefault(generation.timezone, Calendar(generation.timezone))

    async def _arrival_watermark_ms(self) -> int:
        """Return the lowest arrival watermark of all partitions, ms; 0 = not known."""
        watermarks = await self._counters.reports.arrivals(self._topic.topic_id)
        return min((watermarks.get(p, 0) for p in range(self._topic.partitions)), default=0)


def turn_order(tenants: Iterable[str], worker: str) -> list[str]:
    """Return the tenants in an order that only this worker has.

    Several workers then share the work: where one comes later, another has done its part.
    """
    return sorted(tenants, key=lambda tenant: blake2b(f"{worker} {tenant}".encode()).digest())
