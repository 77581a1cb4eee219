"""Counters that are not asked while Redis may have evicted some of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from store.logs import get_logger
from store.records import (
    AccessRefused,
    CountedGroup,
    CountedTrend,
    CounterPage,
    CounterReader,
    GroupQuestion,
    Incomplete,
    Question,
    TrendQuestion,
    Unchanged,
)

logger = get_logger("api")

INTERVAL_S: Final = 0.5


class GuardedCounters:
    """The counters, and the reason why none of them is complete.

    The reason is looked up in the background. Where the last look failed, and before the first one,
    a read looks itself.
    """

    def __init__(
        self, counters: CounterReader, refusal: Callable[[], Awaitable[str | None]]
    ) -> None:
        """`refusal` returns the reason, or None; see `RedisEvictions.refusal`."""
        self._counters = counters
        self._refusal = refusal
        self._reason: str | None = None
        self._is_known = False

    async def read(self, question: Question) -> CounterPage | Unchanged | Incomplete:
        """Return the counters' answer, or the reason why there is none. Raises StoreUnavailable."""
        return await self._refused() or await self._counters.read(question)

    async def read_group(self, question: GroupQuestion) -> CountedGroup | Incomplete:
        """Return the counters' answer, or the reason why there is none. Raises StoreUnavailable."""
        return await self._refused() or await self._counters.read_group(question)

    async def read_trend(self, question: TrendQuestion) -> CountedTrend | Incomplete:
        """Return the counters' answer, or the reason why there is none. Raises StoreUnavailable."""
        return await self._refused() or await self._counters.read_trend(question)

    async def _refused(self) -> Incomplete | None:
        if not self._is_known:
            await self.refresh()
        return Incomplete(self._reason) if self._reason else None

    async def refresh(self) -> None:
        """Look up the reason once. Raises StoreUnavailable."""
        self._is_known = False
        reason = await self._refusal()
        if reason != self._reason:
            if reason:
                logger.error("Redis evicts counters; history answers", reason=reason)
            self._reason = reason
        self._is_known = True

    async def run(self) -> None:
        """Refresh every INTERVAL_S seconds until cancelled.

        Logs once if Redis refuses the connection, which readers see only as answers of history.
        """
        was_refused = False
        while True:
            try:
                await self.refresh()
                was_refused = False
            except AccessRefused as error:
                if not was_refused:
                    logger.error("Redis refuses the connection; history answers", error=str(error))
                was_refused = True
            except Exception as error:
                logger.debug("state of Redis unknown", cause=repr(error))
            await asyncio.sleep(INTERVAL_S)
