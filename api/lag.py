"""The lag of the counters, watched beside the requests: a request never waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from store import metrics
from store.logs import get_logger

logger = get_logger("api")

INTERVAL_S: Final = 0.5
#: An answer later than this describes another moment, and Redis has other work.
TIMEOUT_S: Final = 1.0


class LagWatch:
    """Asks `lag` again and again; `events` is what it said last, None = unknown."""

    def __init__(self, lag: Callable[[], Awaitable[int | None]]) -> None:
        self._lag = lag
        self.events: int | None = None

    async def refresh(self) -> None:
        """Asks once. Whatever goes wrong makes the lag unknown, never an error."""
        try:
            async with asyncio.timeout(TIMEOUT_S):
                self.events = await self._lag()
        except Exception as error:
            self.events = None
            logger.debug("lag unknown", cause=repr(error))
        metrics.API_LAG.set(-1 if self.events is None else self.events)

    async def run(self) -> None:
        """Refreshes until cancelled."""
        while True:
            await self.refresh()
            await asyncio.sleep(INTERVAL_S)
