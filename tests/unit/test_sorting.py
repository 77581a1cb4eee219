"""Lists in another order than that of the total."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.errors import ApiError
from api.params import SORTED_GROUPS_MAX, SORTS, Params, Sort
from api.sorting import sorted_page
from store.records import Catalog, GroupCounts, Page
from store.summary import row

counts = st.dictionaries(
    st.sampled_from(("impression", "click", "convert", "dismiss", "own_type")),
    st.integers(1, 1_000),
    min_size=1,
)
groups = st.dictionaries(st.text(min_size=1, max_size=3), counts, max_size=12).map(
    lambda found: [GroupCounts(id_, n) for id_, n in found.items()]
)


@given(
    groups=groups, sort=st.sampled_from(SORTS), limit=st.integers(1, 5), offset=st.integers(0, 9)
)
def test_the_order_is_that_of_the_values_that_rows_show(
    groups: list[GroupCounts], sort: Sort, limit: int, offset: int
) -> None:
    page = Page(sorted(groups, key=lambda g: (-g.total, g.id)), len(groups))
    found = sorted_page(page, Params(sort=sort, limit=limit, offset=offset))
    rows = [row("action", group, Catalog("acme")) for group in groups]
    rows.sort(key=lambda shown: shown["id"])
    rows.sort(key=lambda shown: shown[sort], reverse=True)  # stable: equal values stay by id
    wanted = [shown["id"] for shown in rows]
    assert [group.id for group in found.groups] == wanted[offset : offset + limit]
    assert found.total == len(groups)


def test_rates_that_are_equal_to_two_decimals_are_ordered_by_id() -> None:
    page = Page(
        [
            GroupCounts("b", {"impression": 300_001, "click": 100_000}),
            GroupCounts("a", {"impression": 300_002, "click": 100_000}),
        ],
        2,
    )
    found = sorted_page(page, Params(sort="ctr"))
    assert [group.id for group in found.groups] == ["a", "b"]


def test_more_groups_than_are_sorted_are_refused_with_the_numbers() -> None:
    page = Page([GroupCounts("a", {"click": 1})], SORTED_GROUPS_MAX)
    assert sorted_page(page, Params(sort="ctr")).total == SORTED_GROUPS_MAX
    with pytest.raises(ApiError) as caught:
        sorted_page(page._replace(total=SORTED_GROUPS_MAX + 1), Params(sort="ctr"))
    assert caught.value.status == 400
    assert caught.value.message == (
        "sort=ctr needs all groups of the window, at most 1000; there are 1001. "
        "Use sort=total, or fewer days"
    )
