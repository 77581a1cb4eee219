"""Retries while a store is unavailable: waiting loses nothing, skipping does."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final, ParamSpec, TypeVar

from store import metrics
from store.logs import get_logger
from store.records import StoreUnavailable

P = ParamSpec("P")
T = TypeVar("T")
_WAIT_FIRST_S: Final = 0.05
_WAIT_MAX_S: Final = 2.0

logger = get_logger("retry")


async def retry(
    store: str, call: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
) -> T:
    """Return what `call` returns; call it again while it raises StoreUnavailable.

    `store` labels the metric and the log. There is no limit to the attempts: back-pressure bounds
    the wait. A task that waits here takes no more records from Kafka, and the watchdog ends the
    process when nothing is counted for too long.
    """
    wait_s = _WAIT_FIRST_S
    failures = 0
    while True:
        try:
            answer = await call(*args, **kwargs)
        except StoreUnavailable as error:
            failures += 1
            metrics.RETRIES.labels(store).inc()
            # Log failures 1, 2, 4, 8, …: a long outage must not fill the log.
            if failures & (failures - 1) == 0:
                logger.warning("store unavailable, retrying", store=store, error=str(error))
            await asyncio.sleep(wait_s * random.uniform(0.5, 1.0))
            wait_s = min(_WAIT_MAX_S, wait_s * 2)
        else:
            if failures:
                logger.info("store available again", store=store, failures=failures)
            return answer
