"""How long events wait until they are visible, by the worker's metric and by `status`."""

from __future__ import annotations

import asyncio
import re

import httpx
import pytest

from cli.embedded.server import free_port
from cli.status_document import Status
from cli.status_report import gather_status
from store.settings import Settings
from tests.support.waiting import eventually_async
from tests.support.worker_fixture import make_events, open_worker_fixture


async def observed(port: int) -> dict[str, float]:
    """Return `reading` -> number of events in the histogram."""
    async with httpx.AsyncClient() as client:
        text = (await client.get(f"http://127.0.0.1:{port}/metrics")).text
    found = re.findall(r'visible_seconds_count\{reading="(\w+)"\} (\S+)', text)
    return {reading: float(events) for reading, events in found}


@pytest.mark.anyio
async def test_each_event_that_is_counted_is_measured_from_its_arrival(settings: Settings) -> None:
    """Measure a backlog apart from live events, and each event once.

    `status` reports the delay of the live events, and how long the oldest event has been waiting.
    """
    port = free_port()
    async with open_worker_fixture(settings, start=False, worker_metrics_port=port) as fixture:
        backlog, live = make_events(100), make_events(50)
        await fixture.send(backlog)
        without_worker = await gather_status(settings)
        assert without_worker.lag == 100
        assert without_worker.waiting_ms is not None and without_worker.waiting_ms > 0
        assert without_worker.visible is None

        await asyncio.to_thread(fixture.worker.start)
        await fixture.wait_counted(100)
        assert await observed(port) == {"live": 0, "catch_up": 100}

        await fixture.send(live)
        await fixture.wait_counted(150)
        await fixture.send(live)  # repeated by the producer

        async def up_to_date() -> Status:
            state = await gather_status(settings)
            assert (state.lag, state.waiting_ms) == (0, 0)
            assert state.visible is not None
            return state

        state = await eventually_async(up_to_date, message="status is up to date")
        assert await observed(port) == {"live": 50, "catch_up": 100}
        assert state.visible is not None
        assert 0 <= state.visible.p50_ms <= state.visible.p99_ms <= state.visible.max_ms < 60_000
        reported = [p.visible for p in state.partitions if p.visible is not None]
        assert state.visible.max_ms == max(visible.max_ms for visible in reported)

        # The last report of a worker that has ended expires.
        fixture.worker.stop()
        at_ms = max(p.at_ms for p in await fixture.counters.reports.progress())
        assert (
            await gather_status(settings, now_ms=lambda: at_ms + 59_000)
        ).visible == state.visible
        assert (await gather_status(settings, now_ms=lambda: at_ms + 61_000)).visible is None
