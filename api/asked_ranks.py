"""Questions about customers, recorded so that workers keep the ranks that answer them.

See ADR 0022. A question waits for none of this.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from store.logs import get_logger
from store.records import (
    CountedGroup,
    CountedTrend,
    CounterPage,
    CounterReader,
    GroupQuestion,
    Incomplete,
    Question,
    StoreUnavailable,
    TrendQuestion,
    Unchanged,
)
from store.windows import Period

logger = get_logger("api")

#: How often a question of one tenant and period is recorded while its rank is kept: it is dropped
#: after days without one.
KEPT_EVERY_S: Final = 3_600.0
#: The same while there is no rank, so that one is built though Redis has lost the first question.
LACKING_EVERY_S: Final = 60.0
#: Days of an exact window from which on the rank of the month lists its groups; see lua/read.lua.
MONTHLY_DAYS: Final = 7


class RankNotes(Protocol):
    """Where questions are recorded; see `store.redis.ranks`."""

    async def note_asked(
        self, tenant: str, period: Period, *, at_ms: int, is_lacking: bool
    ) -> None: ...


class AskedRanks:
    """The counters, with a record of which ranks of customers are asked for. For one event loop."""

    def __init__(
        self,
        counters: CounterReader,
        notes: RankNotes,
        *,
        now_ms: Callable[[], int],
        monotonic_s: Callable[[], float],
    ) -> None:
        self._counters = counters
        self._notes = notes
        self._now_ms = now_ms
        self._monotonic_s = monotonic_s
        self._noted_s: dict[tuple[str, Period, bool], float] = {}
        """Tenant, period, whether its rank is lacking -> when a question was recorded last."""
        self._tasks: set[asyncio.Task[None]] = set()

    async def read(self, question: Question) -> CounterPage | Unchanged | Incomplete:
        """Return the counters' answer, or the reason why there is none. Raises StoreUnavailable."""
        found = await self._counters.read(question)
        period = rank_of(question)
        if period is not None:
            if isinstance(found, CounterPage | Unchanged):
                self._note(question.tenant, period, is_lacking=not found.is_ranked)
            elif found.reason == "not_ranked":
                self._note(question.tenant, period, is_lacking=True)
        return found

    async def read_group(self, question: GroupQuestion) -> CountedGroup | Incomplete:
        """Return the counters' answer, which needs no rank. Raises StoreUnavailable."""
        return await self._counters.read_group(question)

    async def read_trend(self, question: TrendQuestion) -> CountedTrend | Incomplete:
        """Return the counters' answer, which needs no rank. Raises StoreUnavailable."""
        return await self._counters.read_trend(question)

    def _note(self, tenant: str, period: Period, *, is_lacking: bool) -> None:
        key, now_s = (tenant, period, is_lacking), self._monotonic_s()
        every_s = LACKING_EVERY_S if is_lacking else KEPT_EVERY_S
        if now_s - self._noted_s.get(key, -every_s) < every_s:
            return
        self._noted_s[key] = now_s
        task = asyncio.create_task(self._write(tenant, period, is_lacking=is_lacking))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _write(self, tenant: str, period: Period, *, is_lacking: bool) -> None:
        try:
            await self._notes.note_asked(
                tenant, period, at_ms=self._now_ms(), is_lacking=is_lacking
            )
        except StoreUnavailable as error:  # noted again with a later question
            logger.warning("question about customers not recorded", error=str(error))


def rank_of(question: Question) -> Period | None:
    """Return the period whose rank of customers is needed, unless it is always kept."""
    if question.group_by != "customer" or question.period == "alltime":
        return None
    if question.period is not None:
        return question.period
    start_day = question.window.start_day
    if start_day is None:
        return None
    return "weekly" if question.today - start_day + 1 < MONTHLY_DAYS else "monthly"
