"""Commits made at the same time share round trips, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from store.counters import Committed, Deltas, Generation, Refused
from store.redis.client import make_client
from store.redis.counters import RedisCounters
from store.redis.pipelined import CALLS_MAX
from store.settings import Settings
from tests.support.contract import LOG
from tests.support.events import TODAY

NOTHING = Deltas()
TENANTS = 3 * CALLS_MAX


@asynccontextmanager
async def opened(redis_url: str) -> AsyncIterator[tuple[Any, RedisCounters, list[Generation]]]:
    client: Any = make_client(Settings(redis_url=redis_url), timeout_s=10, retries=0)
    try:
        await client.flushdb()
        await client.script_flush()
        counters = RedisCounters(client, "is")
        made = [
            await counters.create(f"t{n}", day=TODAY, timezone="UTC", complete=True, watermarks=())
            for n in range(TENANTS)
        ]
        yield client, counters, made
    finally:
        await client.aclose()


def commit(
    counters: RedisCounters,
    generation: Generation,
    expected: int | None,
    deltas: Deltas = NOTHING,
) -> Any:
    """Return the commit of one offset more than `expected`."""
    return counters.commit(
        generation,
        topic_id=LOG,
        partition=0,
        expected_offset=expected,
        next_offset=(expected or 0) + 1,
        deltas=deltas,
    )


def test_each_commit_has_its_own_answer_and_few_connections_are_opened(redis_url: str) -> None:
    """Also where Redis does not have the script yet, and where one commit is refused."""

    async def go() -> None:
        async with opened(redis_url) as (client, counters, made):
            before = (await client.info("stats"))["total_connections_received"]
            answers = await asyncio.gather(
                *(commit(counters, each, 7 if n == 20 else None) for n, each in enumerate(made))
            )
            opened_now = (await client.info("stats"))["total_connections_received"] - before
            assert answers.pop(20) == Refused(1, TODAY, None)
            assert set(answers) == {Committed()}
            assert opened_now <= 3
            again = await asyncio.gather(*(commit(counters, each, None) for each in made))
            assert again.pop(20) == Committed()
            assert set(again) == {Refused(1, TODAY, 1)}

    asyncio.run(go())


def test_questions_need_not_wait_for_several_large_commits(redis_url: str) -> None:
    """Redis runs what is sent together before it serves others."""

    async def go() -> None:
        async with opened(redis_url) as (client, counters, made):
            large = Deltas(
                types=["click"],
                customers=[v for n in range(500) for v in (f"C{n}", [TODAY, 0, 1], [])],
                events=500,
            )
            # The first call tells Redis the script; nothing is sent together then.
            await asyncio.gather(*(commit(counters, each, None) for each in made))
            together = calls_sent_together(client)
            await asyncio.gather(*(commit(counters, each, 1) for each in made))
            assert max(together) == CALLS_MAX
            together.clear()
            answers = await asyncio.gather(*(commit(counters, each, 2, large) for each in made))
            assert set(answers) == {Committed()}
            assert together == [], "each one has been sent alone"

    asyncio.run(go())


def calls_sent_together(client: Any) -> list[int]:
    """Return a list to which the client adds the number of calls of each pipeline that it sends."""
    numbers: list[int] = []
    make = client.pipeline

    def pipeline(**options: Any) -> Any:
        made = make(**options)
        execute = made.execute

        async def counted(**options: Any) -> Any:
            numbers.append(len(made))
            return await execute(**options)

        made.execute = counted
        return made

    client.pipeline = pipeline
    return numbers


def test_a_commit_that_cannot_be_sent_fails_alone(redis_url: str) -> None:
    async def go() -> None:
        async with opened(redis_url) as (_, counters, made):
            made[20] = made[20]._replace(tenant="\ud800")
            answers = await asyncio.gather(
                *(commit(counters, each, None) for each in made), return_exceptions=True
            )
            assert isinstance(answers.pop(20), UnicodeEncodeError)
            # Those of its pipeline may be sent twice: then the second one is refused.
            assert set(answers) <= {Committed(), Refused(1, TODAY, 1)}

    asyncio.run(go())


@pytest.mark.parametrize("sent", [False, True])
def test_a_cancelled_commit_does_not_touch_the_others(redis_url: str, sent: bool) -> None:
    async def go() -> None:
        async with opened(redis_url) as (_, counters, made):
            tasks = [asyncio.create_task(commit(counters, each, None)) for each in made]
            for _ in range(3 if sent else 1):
                await asyncio.sleep(0)
            tasks[1].cancel()
            answers = await asyncio.gather(*tasks, return_exceptions=True)
            assert isinstance(answers.pop(1), asyncio.CancelledError)
            assert set(answers) == {Committed()}
            counted = await commit(counters, made[1], None)
            assert counted in ({Committed(), Refused(1, TODAY, 1)} if sent else {Committed()})

    asyncio.run(go())
