"""Which questions about customers are recorded, and how often."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from api.asked_ranks import KEPT_EVERY_S, LACKING_EVERY_S, AskedRanks, rank_of
from store.records import (
    CountedGroup,
    CountedTrend,
    CounterPage,
    GroupQuestion,
    Incomplete,
    Page,
    Question,
    StoreUnavailable,
    TrendQuestion,
    Unchanged,
)
from store.windows import Period
from tests.support.contract import exact_question, question
from tests.support.events import NOW_MS

PAGE = CounterPage(Page([], 0), 0)


class Fixture:
    """Counters that give one answer, notes in a list, and a clock."""

    def __init__(self) -> None:
        self.answer: CounterPage | Unchanged | Incomplete = PAGE
        self.noted: list[tuple[str, Period, bool]] = []
        self.now_s = 0.0
        self.is_available = True
        self.asked = AskedRanks(self, self, now_ms=lambda: NOW_MS, monotonic_s=lambda: self.now_s)

    async def read(self, asked: Question) -> CounterPage | Unchanged | Incomplete:
        return self.answer

    async def read_group(self, question: GroupQuestion) -> CountedGroup | Incomplete:
        return Incomplete("no_generation")

    async def read_trend(self, question: TrendQuestion) -> CountedTrend | Incomplete:
        return Incomplete("no_generation")

    async def note_asked(
        self, tenant: str, period: Period, *, at_ms: int, is_lacking: bool
    ) -> None:
        if not self.is_available:
            raise StoreUnavailable("Redis: down")
        assert at_ms == NOW_MS
        self.noted.append((tenant, period, is_lacking))

    def ask(self, *questions: Question) -> list[tuple[str, Period, bool]]:
        """Return what these questions have made it record."""

        async def go() -> None:
            for each in questions:
                assert await self.asked.read(each) is self.answer
            await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()})

        self.noted.clear()
        asyncio.run(go())
        return list(self.noted)


def test_a_rank_is_recorded_once_an_hour_and_a_lacking_one_once_a_minute() -> None:
    fixture = Fixture()
    daily, weekly = question("customer", "daily"), question("customer", "weekly")
    both = [("acme", "daily", False), ("acme", "weekly", False)]
    assert fixture.ask(daily, daily, weekly) == both
    fixture.now_s = KEPT_EVERY_S - 1
    assert fixture.ask(daily) == []
    fixture.answer = Incomplete("not_ranked")
    assert fixture.ask(daily, daily) == [("acme", "daily", True)], "dropped meanwhile"
    fixture.now_s += LACKING_EVERY_S
    assert fixture.ask(daily) == [("acme", "daily", True)]
    fixture.answer = PAGE
    assert fixture.ask(daily, weekly) == both


def test_a_rank_is_wanted_also_where_few_customers_were_summed_without_it() -> None:
    fixture = Fixture()
    fixture.answer = PAGE._replace(is_ranked=False)
    assert fixture.ask(exact_question("customer", 5)) == [("acme", "weekly", True)]


def test_questions_whose_answer_is_kept_are_recorded() -> None:
    """Else the rank of a page that is only repeated would be dropped."""
    fixture = Fixture()
    fixture.answer = Unchanged()
    assert fixture.ask(question("customer", "daily")) == [("acme", "daily", False)]
    fixture.answer = Unchanged(is_ranked=False)
    assert fixture.ask(question("customer", "daily")) == [("acme", "daily", True)]


def test_tenants_are_recorded_apart() -> None:
    asked = question("customer", "monthly")
    found = Fixture().ask(asked, asked._replace(tenant="other"))
    assert found == [("acme", "monthly", False), ("other", "monthly", False)]


@pytest.mark.parametrize(
    "reason", ["rolling", "not_complete", "too_many_groups", "other_day", "capped"]
)
def test_a_question_that_no_rank_answers_is_not_recorded(reason: str) -> None:
    fixture = Fixture()
    fixture.answer = Incomplete(reason)
    assert fixture.ask(question("customer", "weekly")) == []


def test_other_groupings_and_all_time_need_none_of_these_ranks() -> None:
    assert rank_of(question("action", "daily")) is None
    assert rank_of(question("customer", "alltime")) is None
    assert rank_of(exact_question("channel", 5)) is None


@pytest.mark.parametrize(
    ("days", "period"),
    [(2, "weekly"), (6, "weekly"), (8, "monthly"), (30, "monthly")],
)
def test_an_exact_window_needs_the_rank_that_lists_its_groups(days: int, period: Period) -> None:
    assert rank_of(exact_question("customer", days)) == period


def test_a_question_is_answered_though_it_cannot_be_recorded() -> None:
    fixture = Fixture()
    fixture.is_available = False
    with capture_logs() as logs:
        assert fixture.ask(question("customer", "daily")) == []
    assert [line["event"] for line in logs] == ["question about customers not recorded"]
