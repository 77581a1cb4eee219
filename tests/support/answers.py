"""All responses for one tenant, compared with a count in plain Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import httpx

from tests.support import expected
from tests.support.program import Api
from tests.support.waiting import eventually

#: Period -> a number of days that asks for it.
DAYS = {"daily": 1, "weekly": 7, "monthly": 30, "alltime": 365}
WINDOW_DAYS = {"daily": 1, "weekly": 7, "monthly": 31}
PAGE_ROWS = 500

#: (grouping, period) -> the bodies of all pages.
Bodies = dict[tuple[str, str], list[bytes]]


def today() -> date:
    return datetime.now(UTC).date()


def all_pages(api: Api, source: str, tenant: str) -> Bodies:
    """Return the bodies for each grouping and period, all pages; `source` must have given them."""
    return {
        (group_by, period): [p.content for p in _pages(api, source, tenant, group_by, period)]
        for group_by in expected.FIELDS
        for period in DAYS
    }


def all_answers(
    api: Api, source: str, tenant: str, events: Sequence[Mapping[str, Any]], catalog: Any
) -> Bodies:
    """Return the same as `all_pages`, after a comparison with a count of `events`.

    Each body must equal the expected one, in the values and in the order of the fields.
    """
    found = {}
    for group_by in expected.FIELDS:
        for period in DAYS:
            day = today()
            pages = _pages(api, source, tenant, group_by, period)
            while today() != day:  # midnight passed between the requests
                day = today()
                pages = _pages(api, source, tenant, group_by, period)
            _check(pages, expected.count(events, group_by, DAYS[period], day), catalog, period, day)
            found[group_by, period] = [page.content for page in pages]
    return found


def _check(
    pages: Sequence[httpx.Response],
    groups: Sequence[expected.Group],
    catalog: Any,
    period: str,
    day: date,
) -> None:
    covered = WINDOW_DAYS.get(period)
    start = str(day - timedelta(covered - 1)) if covered else None
    for number, page in enumerate(pages):
        assert page.headers["X-Summary-Period"] == period
        assert page.headers.get("X-Summary-Window-Start") == start
        got = page.json()
        want = expected.body(
            groups,
            got["groupBy"],
            DAYS[period],
            catalog,
            limit=PAGE_ROWS,
            offset=number * PAGE_ROWS,
        )
        assert_same(got, want, f"{page.url} from {page.headers['X-Summary-Source']}")


def assert_same(got: dict[str, Any], want: dict[str, Any], what: str) -> None:
    """Compare two bodies: the values, and the order of the fields."""
    for mine, theirs in zip(want["summary"], got["summary"], strict=False):
        assert list(theirs.items()) == list(mine.items()), f"{what}: {theirs} is not {mine}"
    assert list(got.items()) == list(want.items()), what


def _pages(api: Api, source: str, tenant: str, group_by: str, period: str) -> list[httpx.Response]:
    def ask(offset: int) -> httpx.Response:
        page = api.summary(
            tenant, groupBy=group_by, days=DAYS[period], limit=PAGE_ROWS, offset=offset
        )
        assert page.headers["X-Summary-Source"] == source, page.headers
        return page

    # For a moment after midnight history answers in place of the counters.
    first = eventually(lambda: ask(0), timeout_s=10, message=f"an answer of {source}")
    rest = range(PAGE_ROWS, first.json()["total"], PAGE_ROWS)
    return [first, *(ask(offset) for offset in rest)]
