"""Trying again while a store does not answer: nothing is lost by waiting, only by going on."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from store import metrics
from store.logs import get_logger
from store.records import StoreUnavailable

T = TypeVar("T")
_FIRST_S: Final = 0.05
_MOST_S: Final = 2.0

logger = get_logger("retry")


async def retried(store: str, call: Callable[[], Awaitable[T]]) -> T:
    """The call's answer, however long the store takes to come back. Back-pressure is the bound:
    whoever waits here reads nothing more from Kafka, and the watchdog looks on."""
    wait_s = _FIRST_S
    failed = 0
    while True:
        try:
            answer = await call()
        except StoreUnavailable as error:
            failed += 1
            metrics.RETRIES.labels(store).inc()
            if failed & (failed - 1) == 0:  # 1, 2, 4, 8…: a long outage must not fill the log
                logger.warning("store does not answer, trying again", store=store, error=str(error))
            await asyncio.sleep(wait_s * random.uniform(0.5, 1.0))
            wait_s = min(_MOST_S, wait_s * 2)
        else:
            if failed:
                logger.info("store answers again", store=store, failed=failed)
            return answer
