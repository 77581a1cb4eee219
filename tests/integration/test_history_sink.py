"""When the sink writes to history: at once, then in steps, sooner where enough waits."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from store.postgres.history import HistoryWriter
from store.postgres.pool import make_pool
from store.records import SourcedEvent
from store.settings import Settings
from streams import history_sink as history
from streams.history_sink import HistoryBatch, HistorySink
from tests.support.waiting import eventually_async
from tests.support.worker_fixture import make_events, now_ms

pytestmark = pytest.mark.anyio
CHUNK = 10
BATCH_EVENTS = 50


class Sink:
    """A sink on a real Postgres, and how many of its batches are stored."""

    def __init__(self, settings: Settings, writer: HistoryWriter) -> None:
        self.sink = HistorySink(
            writer,
            topic=settings.interactions_topic,
            buffer_events=10_000,
            batch_events=BATCH_EVENTS,
            buffer_bytes=10_000_000,
            on_behind=lambda behind: pytest.fail(str(behind)),
        )
        self.topic_id = str(uuid.uuid4())
        self.stored = self._next = 0

    async def put(self, batches: int) -> None:
        for _ in range(batches):
            events = [
                SourcedEvent(event, self._next + i, now_ms())
                for i, event in enumerate(make_events(CHUNK))
            ]
            self._next += CHUNK
            await self.sink.put(0, HistoryBatch(events, self._next, self._done))

    def _done(self) -> None:
        self.stored += 1

    async def wait_stored(self, batches: int) -> None:
        async def are() -> bool:
            assert self.stored == batches, f"{self.stored} batches stored"
            return True

        await eventually_async(are, message=f"{batches} batches stored")


@pytest.fixture
async def sink(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Sink]:
    """Its step is an hour: what is stored within a test is not stored because time passed."""
    monkeypatch.setattr(history, "GATHER_S", 3_600.0)
    async with make_pool(settings, max_size=2) as pool, _running(settings, pool) as sink:
        # The loop's clock may begin at the machine's start, which may be less than an hour ago.
        sink.sink._round_started_s = asyncio.get_running_loop().time() - 3_600.0
        await sink.put(1)
        await sink.wait_stored(1)
        yield sink


@asynccontextmanager
async def _running(settings: Settings, pool: Any) -> AsyncIterator[Sink]:
    sink = Sink(settings, HistoryWriter(pool))
    await sink.sink.start_session(sink.topic_id, {0: None})
    writing = asyncio.create_task(sink.sink.run())
    try:
        yield sink
    finally:
        writing.cancel()


async def test_what_fills_a_transaction_does_not_wait(sink: Sink) -> None:
    await sink.put(BATCH_EVENTS // CHUNK)
    await sink.wait_stored(1 + BATCH_EVENTS // CHUNK)


async def test_less_waits_and_a_stop_does_not_wait_for_it(sink: Sink) -> None:
    await sink.put(2)
    assert sink.stored == 1
    async with asyncio.timeout(30):
        await sink.sink.drain()
    assert sink.stored == 3
    # And then steps count again: what comes now waits for another stop.
    await sink.put(1)
    async with asyncio.timeout(30):
        await sink.sink.drain()
    assert sink.stored == 4


async def test_what_is_forgotten_while_it_waits_is_not_written(sink: Sink) -> None:
    """Reading began anew: what comes for the new log is all that is stored."""
    await sink.put(2)
    await sink.sink.start_session(str(uuid.uuid4()), {0: None})
    sink._next = 0
    await sink.put(1)
    async with asyncio.timeout(30):
        await sink.sink.drain()
    assert sink.stored == 2
