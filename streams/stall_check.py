"""End of a worker that counts nothing, or whose consumer is silent, by the watchdog."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Final, NoReturn

from store.records import StoreUnavailable
from store.settings import Settings
from streams.kafka.topic_id import check_brokers
from streams.watchdog import Watchdog

CHECK_S: Final = 1.0
#: How long a broker may take to answer.
BROKER_TIMEOUT_S: Final = 5.0


async def watch(
    settings: Settings,
    progress: Callable[[], Mapping[int, int]],
    ends: Callable[[], Mapping[int, int | None]],
) -> NoReturn:
    """Raise RuntimeError once a partition with lag stands still, or gets no fetch answer.

    `progress` returns partition -> offset below which it is counted, plus the events above it that
    are counted; `ends` partition -> its end, None = not known. A consumer can stop fetching after
    an outage of its broker; the supervisor of the process then starts another one. While no broker
    answers, waiting is right.
    """
    watchdog = Watchdog(settings.watchdog_s)
    for_s = f"for {settings.watchdog_s:.0f} s"
    while True:
        await asyncio.sleep(CHECK_S)
        known = ends()
        stalled = watchdog.stalled(time.monotonic(), dict(progress()), known)
        if with_lag := [partition for partition in stalled if known.get(partition) is not None]:
            raise RuntimeError(
                f"nothing counted {for_s} while events wait in partitions {with_lag}"
            )
        if stalled and await _broker_answers(settings):
            raise RuntimeError(
                f"no fetch of partitions {stalled} was answered {for_s}, while the broker answers "
                "others"
            )


async def _broker_answers(settings: Settings) -> bool:
    try:
        await check_brokers(settings, timeout_s=BROKER_TIMEOUT_S)
    except StoreUnavailable:
        return False
    return True
