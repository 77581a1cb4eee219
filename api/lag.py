"""Lag of the counters, refreshed in the background so that no request waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from store import metrics
from store.logs import get_logger

logger = get_logger("api")

INTERVAL_S: Final = 0.5
#: A later result would be out of date, and the query would keep loading Redis.
TIMEOUT_S: Final = 1.0


class LagWatch:
    """Periodic query of `lag`; `events` is its last result, None if unknown."""

    def __init__(self, lag: Callable[[], Awaitable[int | None]]) -> None:
        self._lag = lag
        self.events: int | None = None

    async def refresh(self) -> None:
        """Query the lag once. A failure makes the lag unknown and is not raised."""
        try:
            async with asyncio.timeout(TIMEOUT_S):
                self.events = await self._lag()
        except Exception as error:
            self.events = None
            logger.debug("lag unknown", cause=repr(error))
        metrics.API_LAG.set(-1 if self.events is None else self.events)

    async def run(self) -> None:
        """Refresh every INTERVAL_S seconds until cancelled."""
        while True:
            await self.refresh()
            await asyncio.sleep(INTERVAL_S)
