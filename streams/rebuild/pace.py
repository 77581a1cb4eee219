"""Pauses of a rebuild, so that live counting stays fresh."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final, ParamSpec, TypeVar

from store.records import StoreUnavailable
from streams.retry import retry

P = ParamSpec("P")
T = TypeVar("T")

#: Longest outage of Redis that a rebuild waits for.
OUTAGE_MAX_S: Final = 120.0


class Pace:
    """Calls Redis for a rebuild: leaves it time for others, and waits for short outages."""

    def __init__(self, *, events_per_s: float | None, share: float) -> None:
        """`events_per_s`: maximum rate; None = none. `share`: of Redis' time that may be used."""
        self._events_per_s = events_per_s
        self.share = share
        self._due_s = 0.0

    @contextmanager
    def unpaced(self) -> Iterator[None]:
        """Leave out the pauses for others inside the block; a maximum rate still holds."""
        share, self.share = self.share, 1.0
        try:
            yield
        finally:
            self.share = share

    async def call(
        self, events: int, call: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Return what `call` returns; pause after it, as long as the share and the rate require.

        Raises StoreUnavailable if Redis is unavailable for longer than OUTAGE_MAX_S.
        """
        began_s = time.monotonic()
        try:
            async with asyncio.timeout(OUTAGE_MAX_S):
                answer = await retry("counters", call, *args, **kwargs)
        except TimeoutError:
            raise StoreUnavailable(f"Redis: no answer for {OUTAGE_MAX_S:g} s") from None
        used_s = time.monotonic() - began_s
        await self.pause(events, used_s * (1 / self.share - 1))
        return answer

    async def pause(self, events: int, pause_s: float = 0.0) -> None:
        """Pause for `pause_s`, or longer if `events` more than the rate allows were counted."""
        if self._events_per_s is not None:
            now_s = time.monotonic()
            self._due_s = max(self._due_s, now_s) + events / self._events_per_s
            pause_s = max(pause_s, self._due_s - now_s)
        if pause_s > 0:
            await asyncio.sleep(pause_s)
