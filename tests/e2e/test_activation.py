"""A worker without traffic learns of a rollback at once."""

from __future__ import annotations

import asyncio

import pytest

from store.settings import Settings
from tests.support.waiting import eventually_async
from tests.support.worker_fixture import make_events, now_ms, open_worker_fixture


@pytest.mark.long
def test_an_idle_worker_reads_again_what_a_rollback_lacks(settings: Settings) -> None:
    """Nothing is sent after the rollback; the counters are complete once all is counted again.

    Without the announcement the worker would find it within half a minute.
    """

    async def go() -> None:
        async with open_worker_fixture(settings) as fixture:
            await fixture.send(make_events(200))
            await fixture.wait_counted(200)
            await fixture.wait_stored(200)
            await asyncio.to_thread(fixture.command, "rebuild", "--tenant", "acme")
            await fixture.send(make_events(100))
            await fixture.wait_counted(300)
            await fixture.wait_stored(300)
            done = await fixture.counters.rollback("acme", now_ms=now_ms())
            assert done is not None
            assert sum(source.offsets for source in done.behind) == 100

            async def noticed() -> bool:
                log = fixture.worker.log_tail(100)
                return f"generation {done.generation} of tenant acme is at offset" in log

            await eventually_async(noticed, timeout_s=10, message="the worker noticed the rollback")
            await fixture.wait_counted(300)

    asyncio.run(go())
