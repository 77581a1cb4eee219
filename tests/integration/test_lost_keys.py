"""Keys of Redis that are gone: no crash, no wrong answer that says it is complete, and a remedy.

Not noticed, and so only found by `audit`: a rank, an identity slot, a due set or the numbers of the
offers that are lost alone, and a record that was counted again since.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from store.records import Grouping, Incomplete
from store.redis.client import open_client
from store.redis.counters import RedisCounters
from store.settings import Settings
from store.windows import Period
from tests.support.contract import exact_question, question, start
from tests.support.events import make_event
from tests.support.worker_and_api import open_worker_and_api
from tests.support.worker_fixture import make_events


@pytest.mark.parametrize(
    "lost",
    [
        ("active", "*:meta last"),
        pytest.param(("last", "*:meta", "active last", "tenants"), marks=pytest.mark.long),
    ],
)
def test_lost_keys_of_a_tenant_are_noticed(settings: Settings, lost: Sequence[str]) -> None:
    """The worker goes on; the counters answer again once they hold all, without a rebuild."""

    async def go() -> None:
        async with open_worker_and_api(settings) as scene:
            worker = scene.worker
            for kinds in lost:
                before = len(worker.sent)
                keys = [await scene.key(kind) for kind in kinds.split()]
                assert await worker.client.delete(*keys) == len(keys), keys
                source, total = await scene.answer()
                assert source == "history" or total == before, kinds
                await worker.send(make_events(20))
                await worker.wait_stored(before + 20)
                await scene.wait_counters(before + 20)
                log = worker.worker.log_tail(400)
                assert worker.worker.is_running() and "worker failed" not in log, (kinds, log)
            worker.command("rebuild", "--tenant", "acme")
            await scene.wait_counters(len(worker.sent))

    asyncio.run(go())


@pytest.mark.parametrize("exact", [False, True], ids=["period", "exact"])
@pytest.mark.parametrize("group_by", ["action", "customer"])
def test_a_lost_record_of_a_page_is_noticed(
    redis_url: str, group_by: Grouping, exact: bool
) -> None:
    """History answers such a page: the ranks name a group that has no record."""

    async def go() -> None:
        async with open_client(Settings(redis_url=redis_url), timeout_s=10, retries=0) as client:
            await client.flushdb()
            counters = RedisCounters(client, "is")
            writer = await start(counters)
            await writer.commit([make_event(customer=f"C-{i}", offer=f"o-{i}") for i in range(3)])
            code, name = ("a", "o-1") if group_by == "action" else ("u", "C-1")
            assert await client.delete(f"is:{{acme/0}}:1:{code}:{name}") == 1
            periods: list[Period] = ["daily", "weekly", "monthly", "alltime"]
            asked = (
                [exact_question(group_by, days) for days in (2, 4, 8, 25)]
                if exact
                else [question(group_by, period) for period in periods]
            )
            for each in asked:
                assert await counters.read(each) == Incomplete("lost_record"), each

    asyncio.run(go())
