"""One page of a tenant from the pages of its shards. Pure.

A customer is in one shard, so the pages of customers are merged. Actions, treatments and channels
are in all of them, so all their groups are read, and summed.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Final

from store.records import CounterPage, GroupCounts, Incomplete, Page, Question, Unchanged

#: Groups that are read of one shard, beside others: a script of less than 10 ms. An answer that
#: needs more comes from history.
SHARD_GROUPS_MAX: Final = 1_000
_BETWEEN_VERSIONS: Final = b"|"


def of_shard(question: Question) -> Question | Incomplete:
    """Return what each shard is asked, or the reason why the shards cannot answer."""
    limit = SHARD_GROUPS_MAX
    if question.group_by == "customer":
        limit = question.offset + question.limit
        if limit > SHARD_GROUPS_MAX:
            return Incomplete("too_many_groups")
    return question._replace(offset=0, limit=limit)


def merge(question: Question, pages: Sequence[CounterPage]) -> CounterPage | Incomplete:
    """Return the answer to `question`, given the shards' answers to `of_shard(question)`."""
    if question.group_by == "customer":
        groups = heapq.merge(*(each.page.groups for each in pages), key=_order)
        shown = list(islice(groups, question.offset, question.offset + question.limit))
        total = sum(each.page.total for each in pages)
    else:
        if any(each.page.total > len(each.page.groups) for each in pages):
            return Incomplete("too_many_groups")
        summed = _sum(each.page for each in pages)
        shown = summed[question.offset : question.offset + question.limit]
        total = len(summed)
    return CounterPage(
        Page(shown, total),
        catalog_version=max(each.catalog_version for each in pages),
        pending=sum(each.pending for each in pages),
        is_ranked=all(each.is_ranked for each in pages),
        version=join_versions([each.version for each in pages]),
    )


def join_versions(versions: Sequence[bytes]) -> bytes:
    """Return the version of a page of several shards; b"" if one of them has none."""
    return _BETWEEN_VERSIONS.join(versions) if all(versions) else b""


def split_version(version: bytes | None, shards: int) -> Sequence[bytes | None]:
    """Return the version that each shard is asked with, given that of the page."""
    if version is None:
        return [None] * shards
    of_shards = version.split(_BETWEEN_VERSIONS)
    return of_shards if len(of_shards) == shards else [b""] * shards


def all_unchanged(answers: Sequence[Unchanged]) -> Unchanged:
    """Return the answer of a tenant whose shards all are unchanged."""
    return Unchanged(sum(each.pending for each in answers), all(a.is_ranked for a in answers))


def _sum(pages: Iterable[Page]) -> list[GroupCounts]:
    counts: dict[str, Counter[str]] = {}
    for page in pages:
        for group in page.groups:
            counts.setdefault(group.id, Counter()).update(group.counts)
    return sorted((GroupCounts(id_, dict(n)) for id_, n in counts.items()), key=_order)


def _order(group: GroupCounts) -> tuple[int, str]:
    return -group.total, group.id
