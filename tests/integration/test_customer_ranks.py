"""Ranks of customers are kept while somebody asks for them; answers are the same without."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from store.audit import Correction
from store.counters import Activated, Building, Rolled
from store.records import CounterPage, Event, Incomplete
from store.redis.counters import RedisCounters
from store.settings import Settings
from store.windows import DAY_MS, Period, window_of
from streams.customer_ranks import CustomerRanks
from tests.support.auditing import auditor_of, cells_of
from tests.support.contract import (
    UTC,
    Writer,
    assert_counts,
    assert_counts_exact,
    exact_question,
    question,
    start,
)
from tests.support.events import NOW_MS, TODAY, events, make_event
from tests.support.oracle import groups_of, page_of
from tests.support.reader_pair import open_reader_pair
from tests.support.stores import Stores
from tests.support.waiting import eventually_async

RANKED: tuple[Period, ...] = ("daily", "weekly", "monthly")
HOME = "is:{acme/0}:1:"
#: More customers than a read sums without a rank.
MANY = 600
STEPS = ("commit", "commit", "build", "build", "roll", "drop")


class OnDemand:
    """Counters that rank customers on demand, and what a worker does for them."""

    def __init__(self, stores: Stores) -> None:
        self.stores = stores
        self.client = stores.client
        self.counters = stores.counters = RedisCounters(stores.client, "is", all_ranks=False)
        self.now_ms = NOW_MS
        self.ranks = CustomerRanks(self.counters, kept_days=7, now_ms=lambda: self.now_ms)

    async def ask(self, *periods: Period) -> None:
        for period in periods:
            await self.counters.ranks.note_asked("acme", period, at_ms=self.now_ms, is_lacking=True)

    async def build_all(self, *periods: Period) -> None:
        await self.ask(*periods)
        while await self.counters.ranks.wanted():
            await self.ranks.build_wanted()

    async def sizes(self, *, today: int = TODAY) -> dict[str, int]:
        """Return the number of customers in each rank that is there."""
        names = ("a", "m", "w", f"d{today}", f"d{today + 1}")
        found = {name: await self.client.zcard(f"{HOME}r:u:{name}") for name in names}
        return {name: n for name, n in found.items() if n}

    async def reads(self, *periods: Period) -> list[object]:
        """Return the reasons why customers are not answered, or None."""
        answers = [await self.counters.read(question("customer", p)) for p in periods]
        return [a.reason if isinstance(a, Incomplete) else None for a in answers]


def run(redis_url: str, database_url: str, body: Callable[[OnDemand], Awaitable[None]]) -> None:
    async def go() -> None:
        async with Stores(Settings(redis_url=redis_url, database_url=database_url)) as stores:
            await body(OnDemand(stores))

    asyncio.run(go())


def many_events(n: int = MANY, *, first: int = 0) -> list[Event]:
    """Return an event of each of `n` customers; their days are today and those before."""
    return [
        make_event(customer=f"C-{i:04d}", occurred_ms=NOW_MS - i % 40 * DAY_MS)
        for i in range(first, first + n)
    ]


async def fill(fixture: OnDemand, batch: Sequence[Event], writer: Writer | None = None) -> Writer:
    writer = writer or await start(fixture.counters)
    for i in range(0, len(batch), 200):
        await writer.commit(batch[i : i + 200])
    return writer


def test_a_new_tenant_has_no_ranks_of_customers_but_that_of_all_time(
    redis_url: str, database_url: str
) -> None:
    async def body(fixture: OnDemand) -> None:
        await fill(fixture, many_events())
        assert await fixture.sizes() == {"a": MANY}
        assert await fixture.client.zcard(f"{HOME}r:a:w") == 1, "other groupings are ranked"
        assert await fixture.reads("alltime", *RANKED) == [None, *3 * ["not_ranked"]]
        assert await fixture.counters.read(exact_question("customer", 5)) == Incomplete(
            "not_ranked"
        )

    run(redis_url, database_url, body)


def test_few_customers_are_answered_without_a_rank(redis_url: str, database_url: str) -> None:
    async def body(fixture: OnDemand) -> None:
        batch = [*many_events(60), *many_events(30), *many_events(9)]
        writer = await fill(fixture, batch)
        for today in (TODAY, TODAY + 1, TODAY + 5):
            await writer.roll(today)
            await assert_counts(fixture.counters, batch, today)
            await assert_counts_exact(fixture.counters, batch, today)
        assert (await fixture.sizes()).keys() == {"a"}

    run(redis_url, database_url, body)


def test_a_rank_that_was_asked_for_is_built_and_then_kept_by_commits(
    redis_url: str, database_url: str
) -> None:
    async def body(fixture: OnDemand) -> None:
        batch = many_events()
        writer = await fill(fixture, batch)
        await fixture.build_all("weekly")
        assert await fixture.reads(*RANKED) == ["not_ranked", None, "not_ranked"]
        await fixture.build_all("daily", "monthly")
        batch += (more := many_events(100, first=MANY - 50))
        await fill(fixture, more, writer)
        await assert_counts(fixture.counters, batch, TODAY)
        await writer.roll(TODAY + 1)
        await assert_counts(fixture.counters, batch, TODAY + 1)

    run(redis_url, database_url, body)


def test_no_step_takes_more_customers_than_its_maximum(redis_url: str, database_url: str) -> None:
    async def body(fixture: OnDemand) -> None:
        writer = await fill(fixture, many_events())
        ranks, taken = fixture.counters.ranks, []
        while True:
            step = await ranks.build(writer.generation, RANKED, customers_max=70)
            assert step is not None
            assert await fixture.reads(*RANKED) == (3 * (["not_ranked"] if step.left else [None]))
            taken.append(step.customers)
            if not step.left:
                break
        assert max(taken) == 70
        assert sum(taken) == MANY
        again = await ranks.build(writer.generation, RANKED, customers_max=70)
        assert again == Building(frozenset(), 0)

    run(redis_url, database_url, body)


def test_a_customer_of_very_many_offers_ends_a_step_early(
    redis_url: str, database_url: str
) -> None:
    async def body(fixture: OnDemand) -> None:
        batch = [make_event(customer=f"C-{i % 5}", offer=f"off_{i}") for i in range(7_500)]
        writer = await fill(fixture, batch)
        step = await fixture.counters.ranks.build(writer.generation, RANKED, customers_max=100)
        assert step == Building(frozenset(RANKED), 2)
        await fixture.build_all(*RANKED)
        await assert_counts(fixture.counters, batch, TODAY)

    run(redis_url, database_url, body)


@hypothesis_settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_a_rank_is_exact_whatever_happens_while_it_is_built(
    redis_url: str, database_url: str, data: st.DataObject
) -> None:
    """Commit, roll, restart and build in any order, by customers who have equal totals.

    Then each rank has exactly the customers of its window, with their totals.
    """

    async def body(fixture: OnDemand) -> None:
        await fixture.client.flushdb()
        today, counted = TODAY, []
        writer = await start(fixture.counters)
        for _ in range(data.draw(st.integers(1, 12))):
            step = data.draw(st.sampled_from(STEPS))
            if step == "commit":
                fresh = data.draw(st.lists(events(days=range(today - 33, today + 4)), max_size=6))
                await writer.commit(fresh)
                counted += fresh
            elif step == "build":
                periods = data.draw(st.sets(st.sampled_from(RANKED), min_size=1))
                n = data.draw(st.integers(1, 3))
                await fixture.counters.ranks.build(writer.generation, periods, customers_max=n)
            elif step == "drop":
                periods = data.draw(st.sets(st.sampled_from(RANKED), max_size=1))
                await fixture.counters.ranks.drop(writer.generation, periods)
            else:
                today += data.draw(st.sampled_from((0, 1, 1, 2, 7)))
                answer = await fixture.counters.roll(
                    writer.generation, today, now_ms=NOW_MS, records_max=2
                )
                assert isinstance(answer, Rolled)
                writer.generation = writer.generation._replace(day=today)
        while (await fixture.counters.ranks.build(writer.generation, RANKED, customers_max=2)).left:  # type: ignore[union-attr]
            pass
        await writer.roll(today)
        days = {f"d{today + ahead}": today + ahead for ahead in range(9)}
        for name in ("w", "m", *days):
            period: Period = {"w": "weekly", "m": "monthly"}.get(name, "daily")  # type: ignore[assignment]
            window = window_of(period, days.get(name, today))
            found = await fixture.client.zrange(f"{HOME}r:u:{name}", 0, -1, withscores=True)
            want = [(g.id, g.total) for g in groups_of(counted, "customer", window, UTC)]
            assert [(id_.decode(), -int(score)) for id_, score in found] == want, name

    run(redis_url, database_url, body)


def test_workers_build_together_and_continue_what_another_one_has_left(
    redis_url: str, database_url: str
) -> None:
    async def body(fixture: OnDemand) -> None:
        batch = many_events()
        writer = await fill(fixture, batch)
        await fixture.counters.ranks.build(writer.generation, RANKED, customers_max=50)
        await fixture.ask(*RANKED)
        others = [
            CustomerRanks(fixture.counters, kept_days=7, now_ms=lambda: NOW_MS) for _ in range(3)
        ]
        while await fixture.counters.ranks.wanted():
            await asyncio.gather(*(other.build_wanted() for other in others))
        await assert_counts(fixture.counters, batch, TODAY)

    run(redis_url, database_url, body)


def test_midnight_while_a_rank_is_built(redis_url: str, database_url: str) -> None:
    """Customers that are taken before it have events of the day that begins, as others have."""

    async def body(fixture: OnDemand) -> None:
        batch = many_events()
        ahead_ms = NOW_MS + DAY_MS
        batch += [make_event(customer=e.customer, occurred_ms=ahead_ms) for e in batch[::3]]
        writer = await fill(fixture, batch)
        ranks = fixture.counters.ranks
        assert await ranks.build(writer.generation, RANKED, customers_max=MANY // 2)
        await writer.roll(TODAY + 1)
        await fixture.build_all(*RANKED)
        await assert_counts(fixture.counters, batch, TODAY + 1)

    run(redis_url, database_url, body)


def test_a_rank_is_not_built_in_a_generation_that_was_replaced(
    redis_url: str, database_url: str
) -> None:
    """The next call of the worker builds it in the new one."""

    async def body(fixture: OnDemand) -> None:
        batch = many_events()
        writer = await fill(fixture, batch)
        ranks = fixture.counters.ranks
        await ranks.build(writer.generation, ["weekly"], customers_max=100)
        building = await fixture.counters.build(
            "acme", day=TODAY, timezone="UTC", token="t", watermarks=[]
        )
        await fill(fixture, batch, second := Writer(fixture.counters, building))
        assert isinstance(await fixture.counters.swap(building, now_ms=NOW_MS), Activated)
        assert await ranks.build(writer.generation, RANKED, customers_max=100) is None
        assert await ranks.drop(writer.generation, RANKED) == frozenset()
        assert await fixture.reads("weekly", "daily") == [None, "not_ranked"], "of the one before"
        await fixture.build_all(*RANKED)
        second.generation = second.generation._replace(build_token="")
        await fill(fixture, more := many_events(20), second)
        await assert_counts(fixture.counters, [*batch, *more], TODAY)
        await fixture.counters.rollback("acme", now_ms=NOW_MS)
        await fill(fixture, more, writer)
        await fixture.build_all(*RANKED)
        await assert_counts(fixture.counters, [*batch, *more], TODAY)

    run(redis_url, database_url, body)


def test_a_rebuild_ranks_what_the_counters_before_did(redis_url: str, database_url: str) -> None:
    async def body(fixture: OnDemand) -> None:
        batch = many_events()
        await fill(fixture, batch)
        await fixture.stores.store(batch, None)
        await fixture.build_all("weekly", "daily")
        asked: list[Period] = ["alltime", "weekly", "daily"]
        before = [await fixture.counters.read(question("customer", p)) for p in asked]
        assert (await fixture.stores.rebuild()).generation == 2
        assert [await fixture.counters.read(question("customer", p)) for p in asked] == before
        assert all(isinstance(page, CounterPage) for page in before)
        assert await fixture.reads("monthly") == ["not_ranked"]
        audit = await auditor_of(fixture.stores).audit("acme")
        assert (cells_of(audit), audit.notes) == ([], [])

    run(redis_url, database_url, body)


def test_an_audit_notices_a_wrong_rank_only_where_it_is_kept(
    redis_url: str, database_url: str
) -> None:
    async def body(fixture: OnDemand) -> None:
        batch = many_events(60)
        writer = await fill(fixture, batch)
        await fixture.stores.store(batch, None)
        audit = await auditor_of(fixture.stores).audit("acme")
        assert (cells_of(audit), audit.notes) == ([], [])
        await fixture.counters.ranks.build(writer.generation, ["monthly"], customers_max=10)
        assert cells_of(await auditor_of(fixture.stores).audit("acme")) == [], "being built"
        await fixture.build_all("weekly", "monthly")
        await fixture.client.zincrby(f"{HOME}r:u:w", -5, "C-0003")
        auditor = auditor_of(fixture.stores)
        audit = await auditor.audit("acme")
        assert cells_of(audit) == [("customer", "C-0003", "weekly", "(rank)", 6, 1)]
        assert (await auditor.repair(audit)).again.differing == []
        assert set(await fixture.sizes()) == {"a", "w", "m"}, "a repair writes no other ranks"
        await assert_counts(fixture.counters, batch, TODAY)

    run(redis_url, database_url, body)


def test_a_repair_that_lowers_a_total_while_ranks_are_built(
    redis_url: str, database_url: str
) -> None:
    """The customer moves to where the building has been; it has events of days to come, too."""

    async def body(fixture: OnDemand) -> None:
        batch = [make_event(customer=f"C-{i}") for i in range(20) for _ in range(i + 1)]
        ahead = [make_event(customer="C-19", occurred_ms=NOW_MS + 2 * DAY_MS)]
        writer = await fill(fixture, [*batch, *ahead])
        await fixture.counters.ranks.build(writer.generation, RANKED, customers_max=10)
        audited = fixture.counters.audited()
        chunk = await audited.read("acme", "customer", ["C-19"])
        assert chunk is not None
        fix = Correction("C-19", {"impression": -20}, {(TODAY, "impression"): -20}, {})
        assert await audited.adjust("acme", chunk.generation, "customer", [fix])
        await fixture.build_all(*RANKED)
        for name in (f"d{TODAY + 2}", "a"):
            assert await fixture.client.zscore(f"{HOME}r:u:{name}", "C-19") == -1, name
        for name in (f"d{TODAY}", "w", "m"):
            assert await fixture.client.zscore(f"{HOME}r:u:{name}", "C-19") is None, name

    run(redis_url, database_url, body)


def test_a_rank_is_dropped_days_after_the_last_question(redis_url: str, database_url: str) -> None:
    async def body(fixture: OnDemand) -> None:
        batch = many_events()
        writer = await fill(fixture, batch)
        await fixture.build_all(*RANKED)
        fixture.now_ms += 4 * DAY_MS
        await fixture.counters.ranks.note_asked(
            "acme", "weekly", at_ms=fixture.now_ms, is_lacking=False
        )
        fixture.now_ms += 4 * DAY_MS
        await fixture.ranks.keep_or_drop()
        assert await fixture.reads(*RANKED) == ["not_ranked", None, "not_ranked"]
        assert set(await fixture.sizes()) == {"a", "w"}
        await fill(fixture, more := many_events(20), writer)
        assert set(await fixture.sizes()) == {"a", "w"}
        await fixture.build_all(*RANKED)
        await assert_counts(fixture.counters, [*batch, *more], TODAY)

    run(redis_url, database_url, body)


def test_ranks_of_an_older_version_are_kept_at_first(redis_url: str, database_url: str) -> None:
    """It kept all and noted no questions, so the days are counted from now on."""

    async def body(fixture: OnDemand) -> None:
        await fill(fixture, many_events())
        await fixture.build_all(*RANKED)
        await fixture.client.hdel(f"{HOME}meta", "unranked")
        await fixture.client.delete("is:ranks_asked")
        await fixture.ranks.keep_or_drop()
        fixture.now_ms += 7 * DAY_MS
        await fixture.ranks.keep_or_drop()
        assert await fixture.reads(*RANKED) == [None, None, None]
        fixture.now_ms += 1
        await fixture.ranks.keep_or_drop()
        assert await fixture.reads(*RANKED) == 3 * ["not_ranked"]

    run(redis_url, database_url, body)


def test_a_generation_that_lacks_a_rank_that_was_asked_for_gets_it(
    redis_url: str, database_url: str
) -> None:
    """Nobody asks a second time, and Redis has lost what was wanted."""

    async def body(fixture: OnDemand) -> None:
        await fill(fixture, many_events())
        await fixture.ask("monthly")
        await fixture.client.delete("is:ranks_wanted")
        await fixture.ranks.keep_or_drop()
        await fixture.build_all()
        assert await fixture.reads(*RANKED) == ["not_ranked", "not_ranked", None]

    run(redis_url, database_url, body)


def test_with_0_days_all_ranks_are_built_and_kept(redis_url: str, database_url: str) -> None:
    async def body(fixture: OnDemand) -> None:
        batch = many_events()
        await fill(fixture, batch)
        always = CustomerRanks(fixture.counters, kept_days=0, now_ms=lambda: fixture.now_ms)
        await always.keep_or_drop()
        while await fixture.counters.ranks.wanted():
            await always.build_wanted()
        fixture.now_ms += 400 * DAY_MS
        await always.keep_or_drop()
        await assert_counts(fixture.counters, batch, TODAY)

    run(redis_url, database_url, body)


def test_a_tenant_that_is_gone_is_not_waited_for(redis_url: str, database_url: str) -> None:
    async def body(fixture: OnDemand) -> None:
        await fill(fixture, many_events(3))
        await fixture.ask(*RANKED)
        await fixture.counters.removals.delete(await fixture.counters.removals.end("acme", {}))
        assert not await fixture.client.exists("is:ranks_asked", "is:ranks_wanted")
        await fixture.ask(*RANKED)
        await fixture.ranks.build_wanted()
        assert await fixture.counters.ranks.wanted() == {}

    run(redis_url, database_url, body)


@pytest.mark.parametrize("days", [1, 7, 30])
def test_a_question_is_answered_by_history_and_then_by_the_rank_it_asked_for(
    redis_url: str, database_url: str, days: int
) -> None:
    """The two answers are equal to the byte; a page further on, too."""

    async def go() -> None:
        settings = Settings(auth_mode="open", redis_url=redis_url, database_url=database_url)
        async with open_reader_pair(settings) as pair:
            tenant = await pair.tenant("acme", "UTC", all_ranks=False)
            await tenant.commit([*many_events(), *many_events(70)])
            asked = f"groupBy=customer&days={days}&limit=9&offset=5"
            first = await tenant.ask(asked)
            assert first.headers["X-Summary-Source"] == "history"
            ranks = CustomerRanks(pair.counters, kept_days=7, now_ms=lambda: NOW_MS)

            async def ranked() -> Any:
                await ranks.build_wanted()
                answer = await tenant.ask(asked)
                return answer if answer.headers["X-Summary-Source"] == "materialized" else None

            second = await eventually_async(ranked)
            assert second.content == first.content
            assert second.headers["ETag"] == first.headers["ETag"]
            other = await tenant.ask(asked, of=pair.historic)
            assert other.content == first.content

    asyncio.run(go())


def test_customers_are_summed_without_a_rank_up_to_a_number(
    redis_url: str, database_url: str
) -> None:
    async def body(fixture: OnDemand) -> None:
        batch = many_events(200)
        writer = await fill(fixture, batch)
        await assert_counts(fixture.counters, batch, TODAY)
        await fill(fixture, [make_event(customer="C-one-too-many")], writer)
        assert await fixture.reads(*RANKED) == 3 * ["not_ranked"]
        assert await fixture.counters.read(exact_question("customer", 2)) == Incomplete(
            "not_ranked"
        )

    run(redis_url, database_url, body)


def test_pages_without_a_rank_are_those_of_the_rank(redis_url: str, database_url: str) -> None:
    """Sum up few customers in the read, by pages."""

    async def body(fixture: OnDemand) -> None:
        batch = [*many_events(100), *many_events(20)]
        await fill(fixture, batch)
        for period in RANKED:
            groups = groups_of(batch, "customer", window_of(period, TODAY), UTC)
            for limit, offset in ((7, 0), (7, 14), (100, len(groups)), (1, 10**12)):
                asked = question("customer", period, limit=limit, offset=offset)
                answer = await fixture.counters.read(asked)
                assert isinstance(answer, CounterPage)
                assert (answer.page, answer.is_ranked) == (page_of(groups, limit, offset), False)
        await fixture.build_all(*RANKED)
        for asked in (question("customer", "daily"), exact_question("customer", 3)):
            answer = await fixture.counters.read(asked)
            assert isinstance(answer, CounterPage)
            assert answer.is_ranked

    run(redis_url, database_url, body)
