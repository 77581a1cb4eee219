"""Whoever cancels a task that uses a store sees it end, at whatever moment that is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from store.settings import Settings
from tests.support.contract import question
from tests.support.events import make_event
from tests.support.reader_pair import ReaderPair, Tenant, open_reader_pair

Use = Callable[[ReaderPair, Tenant], Awaitable[object]]

USES: dict[str, Use] = {
    "a counter read": lambda pair, tenant: pair.counters.read(question("action", "weekly")),
    "a generation": lambda pair, tenant: pair.counters.generation(tenant.name),
    "positions in history": lambda pair, tenant: pair.history.positions(
        "0b0c3a52-8b1e-4a53-9d1f-0d7a4a1f0c11"
    ),
    "a request": lambda pair, tenant: tenant.ask("days=7"),
    "a fallback": lambda pair, tenant: tenant.ask("days=7", of=pair.historic),
}


@pytest.mark.parametrize("use", USES)
def test_a_cancelled_task_ends(redis_url: str, database_url: str, use: str) -> None:
    stores = Settings(auth_mode="open", redis_url=redis_url, database_url=database_url)

    async def run() -> None:
        async with open_reader_pair(stores) as pair:
            tenant = await pair.tenant("acme", "UTC")
            await tenant.commit([make_event()])

            async def for_long() -> None:
                for _ in range(300):
                    await USES[use](pair, tenant)

            for steps in range(80):
                task = asyncio.create_task(for_long())
                for _ in range(steps):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait({task})
                assert task.cancelled(), f"cancelled after {steps} steps, it went on"

    asyncio.run(run())
