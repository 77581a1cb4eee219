"""A customer with too many distinct offers: bounded work, exact counts, and history answers."""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from store.counters import Committed, Generation
from store.records import CounterPage, Event, Incomplete
from store.redis.counters import RedisCounters
from store.redis.watermarks import BUILD_LOG
from streams.rebuild.sums import EventSums
from tests.support.commits import UTC, commit, create, opened
from tests.support.contract import question
from tests.support.events import NOW_MS, TODAY, make_event
from tests.support.oracle import groups_of, page_of

CAPPED = Incomplete("capped")
MAX = 3
DAY_MS = 86_400_000

customers_events = st.lists(
    st.builds(
        lambda customer, offer, day: make_event(
            customer=f"C-{customer}", offer=f"off_{offer}", occurred_ms=NOW_MS + day * DAY_MS
        ),
        st.integers(0, 2),
        st.integers(0, 4),
        st.sampled_from((-40, -8, -1, 0, 1)),
    ),
    min_size=1,
    max_size=24,
)


async def roll(counters: RedisCounters, generation: Generation, day: int) -> None:
    while not getattr(
        await counters.roll(generation, day, now_ms=NOW_MS, records_max=10), "finished", False
    ):
        pass


async def commit_all(
    counters: RedisCounters, generation: Generation, batch: Sequence[Event], size: int
) -> None:
    for start in range(0, len(batch), size):
        answer = await commit(counters, generation, batch[start : start + size], start)
        assert isinstance(answer, Committed) and not answer.damaged, answer


async def commit_sums(
    counters: RedisCounters, generation: Generation, batch: Sequence[Event]
) -> None:
    """Count the batch as a rebuild does: each customer once, with all of its offers."""
    sums = EventSums(UTC, generation.day)
    for event in batch:
        sums.add(event)
    for n, deltas in enumerate(sums.take()):
        answer = await counters.commit(
            generation,
            topic_id=BUILD_LOG,
            partition=0,
            expected_offset=n or None,
            next_offset=n + 1,
            deltas=deltas,
        )
        assert isinstance(answer, Committed) and not answer.damaged, answer


async def answers(counters: RedisCounters, counted: Sequence[Event], day: int) -> None:
    """Check all groupings: customers are answered only if each one has at most MAX offers."""
    offers: dict[str, set[str]] = defaultdict(set)
    for event in counted:
        offers[event.customer].add(event.offer)
    is_over = any(len(each) > MAX for each in offers.values())
    for grouping in ("customer", "action"):
        for period in ("daily", "weekly", "monthly", "alltime"):
            asked = question(grouping, period, today=day)
            answer = await counters.read(asked)
            if is_over and grouping == "customer":
                assert answer == CAPPED
            else:
                assert isinstance(answer, CounterPage), answer
                want = groups_of(counted, grouping, asked.window, UTC)
                assert answer.page == page_of(want, 100, 0), (grouping, period)


async def offers_of(client: Any, customer: str, generation: int = 1) -> set[bytes]:
    """Return the numbers of the offers that a customer's record has."""
    fields = await client.hkeys(f"is:{{acme/0}}:{generation}:u:{customer}")
    found = (re.fullmatch(rb"(?:-|p\d+:)(\d+)", field) for field in fields)
    return {match[1] for match in found if match}


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(batch=customers_events, size=st.sampled_from((1, 4, 30)), days=st.sampled_from((0, 1, 33)))
def test_customers_are_answered_exactly_or_not_at_all_whatever_the_order(
    redis_url: str, batch: list[Event], size: int, days: int
) -> None:
    """Live counters, and rebuilt ones, decide by the distinct offers alone; no record has more."""

    async def go() -> None:
        async with opened(redis_url, offers_max=MAX) as (client, counters):
            live = await create(counters)
            await commit_all(counters, live, batch, size)
            await roll(counters, live, TODAY + days)
            await answers(counters, batch, TODAY + days)
            building = await counters.build(
                "acme", day=TODAY, timezone="UTC", token="t", watermarks=[]
            )
            # Sums keep the last day of an offer, which may be tomorrow.
            past = [event for event in batch[::-1] if event.occurred_ms <= NOW_MS]
            await commit_sums(counters, building, past)
            await roll(counters, building, TODAY + days)
            for customer in {event.customer for event in batch}:
                for number in (live.number, building.number):
                    assert len(await offers_of(client, customer, number) - {b"0"}) <= MAX
            assert await counters.swap(building, now_ms=NOW_MS, behind=True, fewer=True)
            await client.hset(f"is:{{acme/0}}:{building.number}:meta", "complete", "1")
            await answers(counters, past, TODAY + days)

    asyncio.run(go())


def test_a_record_stays_bounded_whatever_comes(redis_url: str) -> None:
    """A customer with 10,000 offers on 40 days, some of tomorrow, and then a roll to tomorrow."""

    async def go() -> None:
        async with opened(redis_url) as (client, counters):
            key = "is:{acme/0}:1:u:anonymous"
            generation = await create(counters)
            batch = [
                make_event(
                    customer="anonymous",
                    offer=f"off_{n}",
                    occurred_ms=NOW_MS + DAY_MS * (1 - n % 40),
                )
                for n in range(10_000)
            ]
            largest = 0
            for start in range(0, len(batch), 500):
                answer = await commit(counters, generation, batch[start : start + 500], start)
                assert isinstance(answer, Committed) and not answer.damaged, answer
                largest = max(largest, await client.hlen(key))
            blocks = 9  # of 32 days
            # With `s`, the mark of those that are not remembered, and `q`.
            assert largest <= 2_000 + 1 + blocks + 2
            await roll(counters, generation, TODAY + 1)
            assert await client.hlen(key) <= 2_000 + 1 + blocks + 1
            (overview,) = await counters.overview()
            assert overview.overflow == {"customer_offers": 8_000}
            assert overview.complete
            asked = question("customer", "alltime", today=TODAY + 1)
            assert await counters.read(asked) == CAPPED
            # The counts stay exact.
            ids = await client.zrange("is:{acme/0}:1:r:u:a", 0, -1, withscores=True)
            assert ids == [(b"anonymous", -10_000.0)]

    asyncio.run(go())


def test_a_full_record_is_listed_once_only(redis_url: str) -> None:
    """Further commits of a full record read its number of fields, and not the fields."""

    async def listings(client: Any) -> int:
        stats = await client.info("commandstats")
        return int(stats.get("cmdstat_hkeys", {}).get("calls", 0))

    async def go() -> None:
        async with opened(redis_url, offers_max=MAX) as (client, counters):
            generation = await create(counters)
            batch = [make_event(customer="C-1", offer=f"off_{n}") for n in range(12)]
            await commit_all(counters, generation, batch[:2], 1)
            before = await listings(client)
            for n in range(2, 12):
                await commit(counters, generation, batch[n : n + 1], n)
            assert await listings(client) - before <= 4

    asyncio.run(go())
