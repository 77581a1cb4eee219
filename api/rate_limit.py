"""Rate limits per API key: requests in one minute of the clock, counted in Redis.

All processes count together. While Redis is unavailable or slow, each process counts on its own, so
a key may have as many times its limit as there are processes.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Final, Literal, NamedTuple, Protocol

from api.breaker import Breaker
from store import metrics
from store.logs import get_logger

logger = get_logger("api")

WINDOW_S: Final = 60
#: A count takes 0.2 ms; a request does not wait much longer for a limit.
TIMEOUT_S: Final = 0.05
BREAKER_OPEN_S: Final = 2.0
BREAKER_FAILURES: Final = 3


class CountStore(Protocol):
    """Part of `limits.aio.storage.Storage` that is used."""

    async def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Increase the counter, which ends `expiry` seconds after its first use; return it."""
        ...


class Budget(NamedTuple):
    """Result of counting one request."""

    limit: int
    """Requests per WINDOW_S."""
    used: int
    reset_s: int
    """Seconds until the next window begins."""

    @property
    def is_exceeded(self) -> bool:
        return self.used > self.limit

    def headers(self) -> dict[str, str]:
        """Return the headers that tell the client (draft-ietf-httpapi-ratelimit-headers-03)."""
        return {
            "RateLimit-Limit": str(self.limit),
            "RateLimit-Remaining": str(max(0, self.limit - self.used)),
            "RateLimit-Reset": str(self.reset_s),
        }


class RateLimiter:
    """Counter of requests per key, in `shared` while that answers, else in `local`."""

    def __init__(
        self,
        shared: CountStore,
        local: CountStore,
        *,
        now_s: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._shared = shared
        self._local = local
        self._now_s = now_s
        self._monotonic = monotonic
        self._breaker = Breaker(failures_max=BREAKER_FAILURES, open_s=BREAKER_OPEN_S)

    async def count(self, key_id: str, limit: int) -> Budget:
        """Count one request of the key against `limit` requests per WINDOW_S."""
        now_s = self._now_s()
        window = math.floor(now_s / WINDOW_S)
        name = f"{key_id}:{window}"
        used = await self._count_shared(name)
        if used is None:
            metrics.API_RATE_LIMIT_LOCAL.inc()
            used = await self._local.incr(name, WINDOW_S)
        return Budget(limit, used, math.ceil((window + 1) * WINDOW_S - now_s))

    async def _count_shared(self, name: str) -> int | None:
        permit = self._breaker.enter(self._monotonic())
        if permit is None:
            return None
        result: Literal["ok", "failed", "unknown"] = "unknown"
        try:
            async with asyncio.timeout(TIMEOUT_S):
                used = await self._shared.incr(name, WINDOW_S)
            result = "ok"
            return used
        except Exception as error:  # of a driver inside a library: their types are not known here
            result = "failed"
            logger.debug("rate limit counted in this process", cause=repr(error))
            return None
        finally:
            self._breaker.leave(permit, result, self._monotonic())
