"""Progress and results of rebuilds in Redis, for `status` and the workers' metrics."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec

from store.records import StoreUnavailable, is_tenant
from store.redis.builds import RedisBuilds
from streams.rebuild.progress import Progress, Report
from streams.rebuild.results import Failure, RebuildResult

PUBLISH_EVERY_S: Final = 1.0
#: Stands for the tenants that are rebuilt together.
TOGETHER: Final = "*"


class Publisher:
    """Reports progress to the caller at once, and to Redis once a second."""

    def __init__(self, builds: RedisBuilds, report: Report, now_ms: Callable[[], int]) -> None:
        self._builds = builds
        self._now_ms = now_ms
        self._report = report
        self._latest: dict[str, Progress] = {}

    def __call__(self, progress: Progress) -> None:
        """Take over new progress."""
        self._latest[progress.tenant] = progress
        self._report(progress)

    async def run(self) -> None:
        """Publish the last progress, until cancelled; also while a long query makes none."""
        while True:
            await asyncio.sleep(PUBLISH_EVERY_S)
            for tenant, progress in list(self._latest.items()):
                key = tenant if is_tenant(tenant) else TOGETHER
                report = msgspec.to_builtins(progress) | {"atMs": self._now_ms()}
                with contextlib.suppress(StoreUnavailable):  # nothing depends on it
                    await self._builds.report_progress(key, report)

    async def finish(self, outcome: RebuildResult | Failure, *, source: str, began_ms: int) -> None:
        """Publish how a rebuild ended; not for a dry run, or one that another rebuild keeps out."""
        self._latest.pop(outcome.tenant, None)
        now_ms = self._now_ms()
        ended: dict[str, Any] = {
            "tenant": outcome.tenant,
            "phase": "done" if isinstance(outcome, RebuildResult) else "failed",
            "source": source,
            "seconds": round((now_ms - began_ms) / 1e3, 1),
            "atMs": now_ms,
        }
        if isinstance(outcome, RebuildResult):
            ended |= {"generation": outcome.generation, "events": outcome.events}
        else:
            ended["reason"] = outcome.reason
        with contextlib.suppress(StoreUnavailable):
            await self._builds.report_end(outcome.tenant, ended)


@asynccontextmanager
async def publishing(
    builds: RedisBuilds, report: Report, now_ms: Callable[[], int]
) -> AsyncIterator[Publisher]:
    """Yield a publisher that runs inside the block."""
    publisher = Publisher(builds, report, now_ms)
    running = asyncio.create_task(publisher.run())
    try:
        yield publisher
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        with contextlib.suppress(StoreUnavailable):
            await builds.report_end(TOGETHER, None)
