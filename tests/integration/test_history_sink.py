"""History sink: it writes at once, then in rounds, and sooner when a transaction is full."""

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
from streams import history_sink
from streams.history_session import HistoryBatch
from streams.history_sink import HistorySink
from streams.isolation import Isolation
from tests.support.waiting import eventually_async
from tests.support.worker_fixture import make_events, now_ms

pytestmark = pytest.mark.anyio
CHUNK = 10
BATCH_EVENTS = 50


class SinkFixture:
    """History sink on a real PostgreSQL, with the number of its stored batches."""

    def __init__(self, settings: Settings, writer: HistoryWriter) -> None:
        self.sink = HistorySink(
            writer,
            topic=settings.interactions_topic,
            buffer_events=10_000,
            batch_events=BATCH_EVENTS,
            buffer_bytes=10_000_000,
            isolation=Isolation(),
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
        async def all_stored() -> bool:
            assert self.stored == batches, f"{self.stored} batches stored"
            return True

        await eventually_async(all_stored, message=f"{batches} batches stored")


@pytest.fixture
async def sink(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SinkFixture]:
    """Yield a sink whose rounds are an hour apart, so that no batch is stored by time alone."""
    monkeypatch.setattr(history_sink, "GATHER_S", 3_600.0)
    async with make_pool(settings, max_size=2) as pool, _running(settings, pool) as sink:
        # The loop's clock may begin at the machine's start, which may be less than an hour ago.
        sink.sink._round_started_s = asyncio.get_running_loop().time() - 3_600.0
        await sink.put(1)
        await sink.wait_stored(1)
        yield sink


@asynccontextmanager
async def _running(settings: Settings, pool: Any) -> AsyncIterator[SinkFixture]:
    sink = SinkFixture(settings, HistoryWriter(pool))
    await sink.sink.start_session(sink.topic_id, {0: None})
    writing = asyncio.create_task(sink.sink.run())
    try:
        yield sink
    finally:
        writing.cancel()


async def test_a_full_transaction_is_written_at_once(sink: SinkFixture) -> None:
    await sink.put(BATCH_EVENTS // CHUNK)
    await sink.wait_stored(1 + BATCH_EVENTS // CHUNK)


async def test_a_smaller_one_waits_for_the_round_but_drain_writes_it_at_once(
    sink: SinkFixture,
) -> None:
    await sink.put(2)
    assert sink.stored == 1
    async with asyncio.timeout(30):
        await sink.sink.drain()
    assert sink.stored == 3
    # Then rounds count again: the next batch waits for the next drain.
    await sink.put(1)
    async with asyncio.timeout(30):
        await sink.sink.drain()
    assert sink.stored == 4


async def test_batches_of_the_session_before_are_not_written(sink: SinkFixture) -> None:
    """After a new session starts, only batches of its topic id are stored."""
    await sink.put(2)
    await sink.sink.start_session(str(uuid.uuid4()), {0: None})
    sink._next = 0
    await sink.put(1)
    async with asyncio.timeout(30):
        await sink.sink.drain()
    assert sink.stored == 2
