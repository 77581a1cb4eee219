"""Two readers on the same stores, one answering from counters and one from history.

Both are the complete application with real stores. No worker writes under the key prefix of the
second one, so its counters have no generation and history answers. `Tenant` fills both stores.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
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
from store.shards import Layout, by_shard
from store.windows import Calendar
from tests.support.contract import Writer
from tests.support.events import NOW_MS, sourced

PATH = "/api/v1/interaction-summary"


class ReaderPair:
    """Two readers, for one event loop. `now_ms` is the clock of both."""

    def __init__(self, settings: Settings, stack: AsyncExitStack) -> None:
        # The read budget is long because the machine may be busy; no test here is about it.
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
            self.settings.model_copy(update={"redis_prefix": "unused"})
        )
        self._uncached: httpx.AsyncClient | None = None

    async def uncached(self) -> httpx.AsyncClient:
        """Return a third reader, which answers from counters as `counted`, and keeps no answers."""
        if self._uncached is None:
            settings = self.settings.model_copy(update={"api_cache_mb": 0})
            self._uncached = await self._reader(settings)
        return self._uncached

    async def _reader(self, settings: Settings) -> httpx.AsyncClient:
        app = build(settings, now_ms=lambda: self.now_ms)
        await self._stack.enter_async_context(app.router.lifespan_context(app))
        client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1")
        return await self._stack.enter_async_context(client)

    async def tenant(
        self, name: str, zone: str, *, shards: int = 1, all_ranks: bool = True
    ) -> Tenant:
        """Create a tenant in `zone` whose counting starts now; `all_ranks`: see `RedisCounters`."""
        report = await import_catalog(self.pool, CatalogDocument(tenant=name, timezone=zone))
        await self.counters.announce_catalog(name, report.version)
        counters = RedisCounters(self.client, self.settings.redis_prefix, all_ranks=all_ranks)
        generation = await counters.create(
            name,
            day=Calendar(zone).day_of(self.now_ms),
            timezone=zone,
            complete=True,
            watermarks=[],
            shards=shards,
        )
        writers = {}
        async for each in self.counters.active_generations([name]):
            writers[each.tenant] = Writer(self.counters, each)
        return Tenant(self, generation.layout, writers)


class Tenant:
    """Writer of both stores for one tenant, as a worker is."""

    def __init__(self, pair: ReaderPair, layout: Layout, writers: Mapping[str, Writer]) -> None:
        """`writers`: by the name of the shard."""
        self.name = layout.tenant
        self.writer = writers[layout.tenant]
        self.calendar = Calendar(self.writer.generation.timezone)
        self._layout = layout
        self._writers = writers
        self._pair = pair
        self._topic_id = str(uuid.uuid4())

    async def import_catalog(self, document: CatalogDocument) -> None:
        """Import and announce `document`, as `catalog import` does."""
        report = await import_catalog(self._pair.pool, document)
        await self._pair.counters.announce_catalog(self.name, report.version)

    async def roll(self) -> None:
        """Roll the counters to the tenant's day, as a worker does at midnight."""
        for writer in self._writers.values():
            await writer.roll(self.calendar.day_of(self._pair.now_ms))

    async def commit(self, events: Sequence[Event]) -> None:
        await self.count(events)
        await self.store(events)

    async def count(self, events: Sequence[Event]) -> None:
        """Commit `events`, at the next offsets, to the counters."""
        for name, of_shard in by_shard(self._layout, sourced(*events)).items():
            batch = [each.event for each in of_shard]
            assert await self._writers[name].commit(batch) == Committed()

    async def store(self, events: Sequence[Event]) -> None:
        """Write `events`, at the next offsets, to history."""
        first = self._stored
        written = await self._pair.history.write(
            topic="interactions",
            topic_id=self._topic_id,
            partition=0,
            expected_offset=first,
            next_offset=(first or 0) + len(events),
            events=sourced(*events, first=first or 0),
        )
        assert isinstance(written, int), written
        self._stored = (first or 0) + len(events)

    _stored: int | None = None

    async def ask(
        self,
        query: str,
        *,
        below: str = "",
        of: httpx.AsyncClient | None = None,
        etag: str | None = None,
    ) -> httpx.Response:
        """Return the response of one reader, by default `counted`, to a question of the tenant.

        `below` is what follows the path of the list.
        """
        headers = {"X-Tenant-Id": self.name}
        if etag is not None:
            headers["If-None-Match"] = etag
        client = self._pair.counted if of is None else of
        return await client.get(f"{PATH}{below}?{query}", headers=headers)


@asynccontextmanager
async def open_reader_pair(settings: Settings) -> AsyncIterator[ReaderPair]:
    async with AsyncExitStack() as stack:
        pair = ReaderPair(settings, stack)
        await pair.open()
        yield pair
