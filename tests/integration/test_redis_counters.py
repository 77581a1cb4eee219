"""The Redis store keeps the contract of a counter store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import hypothesis
import pytest
from hypothesis.stateful import run_state_machine_as_test

from store.counters import CounterStore
from store.redis.client import make_client
from store.redis.counters import RedisCounters
from store.settings import Settings
from tests.contract import CounterStoreContract, OpenStore
from tests.protocol import Protocol


@asynccontextmanager
async def open_redis(redis_url: str, **options: int) -> AsyncIterator[CounterStore]:
    client = make_client(Settings(redis_url=redis_url), timeout_s=10, retries=0)
    try:
        await client.flushdb()
        yield RedisCounters(client, "is", **options)
    finally:
        await client.aclose()


class TestRedisCounters(CounterStoreContract):
    @pytest.fixture
    def open_store(self, redis_url: str) -> OpenStore:
        return lambda: open_redis(redis_url)

    @pytest.fixture
    def open_limited_store(
        self, redis_url: str
    ) -> Callable[[int], AbstractAsyncContextManager[CounterStore]]:
        return lambda groups_max: open_redis(redis_url, groups_max=groups_max)


def test_the_commit_protocol_keeps_its_invariant_in_any_interleaving(redis_url: str) -> None:
    class RedisProtocol(Protocol):
        open_store = staticmethod(lambda: open_redis(redis_url))  # type: ignore[assignment]

    run_state_machine_as_test(
        RedisProtocol,
        settings=hypothesis.settings(
            max_examples=40, stateful_step_count=25, deadline=None, report_multiple_bugs=False
        ),
    )
