"""Two readers on the same stores, one answered by counters and one by history, and what fills both.

Both are the whole application with its real stores. The second one's key prefix is one that no
worker writes under, so its counters have no generation, and history answers it."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx

from api.app import build
from store.catalog_document import CatalogDocument
from store.counters import Committed
from store.postgres.catalog import import_catalog
from store.postgres.history import HistoryWriter
from store.postgres.pool import open_pool
from store.records import Event
from store.redis.client import open_client
from store.redis.counters import RedisCounters
from store.settings import Settings
from store.windows import Calendar
from tests.support.contract import Writer
from tests.support.events import NOW_MS, sourced

PATH = "/api/v1/interaction-summary"


class ReaderPair:
    """Open for one event loop. `now_ms` is the clock of both readers."""

    def __init__(self, settings: Settings, stack: AsyncExitStack) -> None:
        # The budget is long where the test is not about it: this machine may be busy.
        self.settings = settings.model_copy(update={"read_budget_ms": 5_000})
        self.now_ms = NOW_MS
        self._stack = stack

    async def open(self) -> None:
        self.client: Any = await self._stack.enter_async_context(
            open_client(self.settings, timeout_s=10, retries=0)
        )
        self.counters = RedisCounters(self.client, self.settings.redis_prefix)
        self.pool = await self._stack.enter_async_context(open_pool(self.settings, max_size=2))
        self.history = HistoryWriter(self.pool)
        self.counted = await self._reader(self.settings)
        self.historic = await self._reader(
            self.settings.model_copy(update={"redis_prefix": "nobody-writes-here"})
        )

    async def _reader(self, settings: Settings) -> httpx.AsyncClient:
        app = build(settings, now_ms=lambda: self.now_ms)
        await self._stack.enter_async_context(app.router.lifespan_context(app))
        client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://reader.test"
        )
        return await self._stack.enter_async_context(client)

    async def tenant(self, name: str, zone: str) -> Tenant:
        """A tenant of `zone` whose counting starts now."""
        report = await import_catalog(self.pool, CatalogDocument(tenant=name, timezone=zone))
        await self.counters.announce_catalog(name, report.version)
        generation = await self.counters.create(
            name,
            day=Calendar(zone).day_of(self.now_ms),
            timezone=zone,
            complete=True,
            watermarks=[],
        )
        return Tenant(self, name, Writer(self.counters, generation))


class Tenant:
    """Fills both stores for one tenant, as the stream does."""

    def __init__(self, pair: ReaderPair, name: str, writer: Writer) -> None:
        self.name = name
        self.writer = writer
        self.calendar = Calendar(writer.generation.timezone)
        self._twins = pair
        self._topic_id = str(uuid.uuid4())

    async def import_catalog(self, document: CatalogDocument) -> None:
        """Imports and announces, as the command does."""
        report = await import_catalog(self._twins.pool, document)
        await self._twins.counters.announce_catalog(self.name, report.version)

    async def roll(self) -> None:
        """Up to the tenant's day, as a worker does at its midnight."""
        await self.writer.roll(self.calendar.day_of(self._twins.now_ms))

    async def commit(self, events: Sequence[Event]) -> None:
        await self.count(events)
        await self.store(events)

    async def count(self, events: Sequence[Event]) -> None:
        """The next offsets, in the counters."""
        assert await self.writer.commit(events) == Committed()

    async def store(self, events: Sequence[Event]) -> None:
        """The same, in history."""
        first = self._stored
        assert isinstance(
            await self._twins.history.write(
                topic="interactions",
                topic_id=self._topic_id,
                partition=0,
                expected_offset=first,
                next_offset=(first or 0) + len(events),
                events=sourced(*events, first=first or 0),
            ),
            int,
        )
        self._stored = (first or 0) + len(events)

    _stored: int | None = None

    async def ask(
        self, query: str, *, of: httpx.AsyncClient | None = None, etag: str | None = None
    ) -> httpx.Response:
        """The answer of one reader (the counted one, when not said) to the tenant's question."""
        headers = {"X-Tenant-Id": self.name}
        if etag is not None:
            headers["If-None-Match"] = etag
        client = self._twins.counted if of is None else of
        return await client.get(f"{PATH}?{query}", headers=headers)


@asynccontextmanager
async def open_reader_pair(settings: Settings) -> AsyncIterator[ReaderPair]:
    async with AsyncExitStack() as stack:
        pair = ReaderPair(settings, stack)
        await pair.open()
        yield pair
