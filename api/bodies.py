"""Bodies about one group and about trends, in the order of the API contract. Pure."""

from __future__ import annotations

from typing import Any

from api.group_params import TrendParams
from store.records import Catalog, Grouping, GroupPeriods, Trend
from store.summary import Row, point, row
from store.windows import PERIODS, Period, date_of, window_of

Body = dict[str, Any]


def group_body(
    group_by: Grouping, id_: str, group: GroupPeriods, catalog: Catalog, today: int
) -> Body:
    """Return the body of one group in all periods."""
    return {
        "groupBy": group_by,
        "id": id_,
        "periods": {
            period: {
                "windowStart": _window_start(period, today),
                "row": row(group_by, group[period], catalog),
            }
            for period in PERIODS
        },
    }


def trend_body(params: TrendParams, trend: Trend, today: int) -> Body:
    """Return the body of counts per day."""
    first_day = today - params.days + 1
    body: Body = {
        "groupBy": params.group_by,
        "id": params.id,
        "days": params.days,
        "points": _points(trend, first_day, params.days),
    }
    if params.has_previous:
        body["previous"] = _points(trend, first_day - params.days, params.days)
    return body


def _window_start(period: Period, today: int) -> str | None:
    start_day = window_of(period, today).start_day
    return None if start_day is None else date_of(start_day).isoformat()


def _points(trend: Trend, first_day: int, days: int) -> list[Row]:
    return [point(day, trend.get(day, {})) for day in range(first_day, first_day + days)]
