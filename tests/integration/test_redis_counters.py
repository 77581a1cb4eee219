"""The Redis store keeps the contract of a counter store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from store.counters import CounterStore
from store.redis.client import make_client
from store.redis.counters import RedisCounters
from store.settings import Settings
from tests.contract import CounterStoreContract, OpenStore


class TestRedisCounters(CounterStoreContract):
    @pytest.fixture
    def open_store(self, redis_url: str) -> OpenStore:
        @asynccontextmanager
        async def open_() -> AsyncIterator[CounterStore]:
            client = make_client(Settings(redis_url=redis_url), timeout_s=10, retries=0)
            try:
                await client.flushdb()
                yield RedisCounters(client, "is")
            finally:
                await client.aclose()

        return open_
