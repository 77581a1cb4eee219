"""Order of a list's rows by another field than the total. Pure."""

from __future__ import annotations

from api.errors import bad_request
from api.params import SORTED_GROUPS_MAX, Params, Sort
from store.records import GroupCounts, Page
from store.summary import percent


def sorted_page(page: Page, params: Params) -> Page:
    """Return the page of `params`, given the first SORTED_GROUPS_MAX groups of the window.

    Raises ApiError 400 if the window has more groups.
    """
    if page.total > SORTED_GROUPS_MAX:
        raise bad_request(
            f"sort={params.sort} needs all groups of the window, at most {SORTED_GROUPS_MAX}; "
            f"there are {page.total}. Use sort=total, or fewer days"
        )
    groups = sorted(page.groups, key=lambda group: (-sort_value(group, params.sort), group.id))
    return Page(groups[params.offset : params.offset + params.limit], page.total)


def sort_value(group: GroupCounts, sort: Sort) -> float:
    """Return the value of a group in the field `sort`: rates as a row shows them, to 2 decimals."""
    if sort == "total":
        return group.total
    if sort in ("ctr", "cvr"):
        part = group.counts.get("click" if sort == "ctr" else "convert", 0)
        return percent(part, group.counts.get("impression", 0))
    return group.counts.get(sort, 0)
