"""One group in all periods, and counts per day, from the raw rows: one statement each."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from store.postgres import pool as postgres
from store.postgres.pool import Pool, transaction
from store.postgres.rows import GROUP_COLUMNS, instant
from store.postgres.sql import load
from store.records import GroupCounts, GroupPeriods, GroupQuestion, Trend, TrendQuestion
from store.windows import PERIOD_DAYS, PERIODS, Calendar, Period, window_of

_READ_GROUP: Final = load("read_group")
_READ_CUSTOMER: Final = load("read_customer")
_READ_TREND: Final = load("read_trend")
_IS_KNOWN: Final = load("is_known")
_SETTINGS: Final = load("settings_of_answers")


class GroupHistory:
    """Part of the `HistoryReader` over the raw rows. Every method raises StoreUnavailable.

    The pool sets the statement timeout. `timeout_s` bounds the whole read, for a server that keeps
    the connection open but does not answer.
    """

    def __init__(self, pool: Pool, *, timeout_s: float = postgres.TRANSACTION_TIMEOUT_S) -> None:
        self._pool = pool
        self._timeout_s = timeout_s

    async def read_group(self, question: GroupQuestion) -> GroupPeriods | None:
        """Return one group in all periods, by one statement, so from one snapshot."""
        calendar, today = Calendar(question.timezone), question.today
        parameters: dict[str, Any] = {
            "tenant": question.tenant,
            "id": question.id,
            "end": _midnight(calendar, today + 1),
        }
        for period in PERIOD_DAYS:
            start_day = window_of(period, today).start_day
            assert start_day is not None
            parameters[period] = _midnight(calendar, start_day)
        statement = _READ_CUSTOMER if question.group_by == "customer" else _READ_GROUP
        rows = await self._fetch(
            statement.format(column=GROUP_COLUMNS[question.group_by]), parameters
        )
        counts: dict[Period, dict[str, int]] = {period: {} for period in PERIODS}
        offers: tuple[int | None, ...] = (None,) * len(PERIODS)
        for outcome, *numbers in rows:
            if outcome is None:
                offers = tuple(numbers)
                continue
            for period, n in zip(PERIODS, numbers, strict=True):
                if n:
                    counts[period][outcome] = n
        if not counts["alltime"]:
            return None
        return {
            period: GroupCounts(question.id, counts[period], unique)
            for period, unique in zip(PERIODS, offers, strict=True)
        }

    async def read_trend(self, question: TrendQuestion) -> Trend | None:
        """Return counts per day, by one statement, so from one snapshot."""
        calendar, window = Calendar(question.timezone), question.window
        assert window.start_day is not None
        assert window.end_day is not None
        # Python's time zone rules decide what a day is, not those of the database.
        midnights = [
            _midnight(calendar, day) for day in range(window.start_day, window.end_day + 2)
        ]
        column = GROUP_COLUMNS[question.group_by]
        # Without an id, there is a sum in any case.
        group, known = f"{column} IS NOT NULL", "true"
        if question.id is not None:
            group, known = f"{column} = %(id)s", _IS_KNOWN.format(column=column)
        rows = await self._fetch(
            _READ_TREND.format(group=group, known=known),
            {
                "tenant": question.tenant,
                "id": question.id,
                "start": midnights[0],
                "end": midnights[-1],
                "midnights": midnights[:-1],
            },
        )
        if not rows[0][0]:
            return None
        days: dict[int, dict[str, int]] = {}
        for _, bucket, outcome, n in rows:
            if bucket is not None:
                days.setdefault(window.start_day + bucket - 1, {})[outcome] = n
        return days

    async def _fetch(self, query: str, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """Return the rows of a question, asked with the planner's settings for questions."""

        async def fetch() -> list[tuple[Any, ...]]:
            async with transaction(self._pool, read_only=True) as connection:
                await connection.execute(_SETTINGS)
                return await (await connection.execute(query, parameters)).fetchall()

        return await postgres.bounded(fetch(), self._timeout_s)


def _midnight(calendar: Calendar, day: int) -> datetime:
    return instant(calendar.midnight_ms(day))
