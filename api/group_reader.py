"""Answers about one group, and about counts per day, in the way of `SummaryReader`."""

from __future__ import annotations

from functools import partial

from api.group_params import GroupParams, TrendParams
from api.reader import Answer, Kind, SummaryReader
from store.records import (
    CounterReader,
    GroupPeriods,
    GroupQuestion,
    HistoryReader,
    Trend,
    TrendQuestion,
)
from store.windows import exact_window, from_tiles


class GroupReader:
    """Reader of groups and trends. Every method raises ApiError 503 if no store can answer."""

    def __init__(
        self, reader: SummaryReader, *, counters: CounterReader, history: HistoryReader
    ) -> None:
        """Read as `reader` does: with its breaker, its limits and its catalogs."""
        self._reader = reader
        self._counters = counters
        self._history = history

    async def group(
        self, tenant: str, params: GroupParams, now_ms: int
    ) -> Answer[GroupQuestion, GroupPeriods | None]:
        """Return one group in all periods as of `now_ms`; None = it never had an interaction."""
        kind = Kind(
            partial(group_question, tenant, params),
            lambda _: True,
            lambda asked, _: self._counters.read_group(asked),
            self._history.read_group,
        )
        return await self._reader.ask(kind, tenant, now_ms)

    async def trend(
        self, tenant: str, params: TrendParams, now_ms: int
    ) -> Answer[TrendQuestion, Trend | None]:
        """Return counts per day as of `now_ms`; None = the group never had an interaction."""
        kind = Kind(
            partial(trend_question, tenant, params),
            lambda asked: from_tiles(asked.window, asked.today),
            lambda asked, _: self._counters.read_trend(asked),
            self._history.read_trend,
        )
        return await self._reader.ask(kind, tenant, now_ms)


def group_question(tenant: str, params: GroupParams, timezone: str, today: int) -> GroupQuestion:
    """Return the question about a group, given the tenant's time zone and its current day."""
    return GroupQuestion(tenant, params.group_by, params.id, today, timezone)


def trend_question(tenant: str, params: TrendParams, timezone: str, today: int) -> TrendQuestion:
    """Return the question about each day, given the tenant's time zone and its current day."""
    # Each interaction has one customer and one action. The actions are fewer, so they are summed.
    sums_customers = params.group_by == "customer" and params.id is None
    return TrendQuestion(
        tenant=tenant,
        group_by="action" if sums_customers else params.group_by,
        id=params.id,
        window=exact_window(params.days_read, today),
        today=today,
        timezone=timezone,
    )
