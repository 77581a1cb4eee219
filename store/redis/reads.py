"""Reads of the counters: one script, or one for each shard of a tenant with several."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from store.records import CounterPage, GroupCounts, Incomplete, Page, Question
from store.redis.client import Client, Script
from store.redis.keys import GROUPING_CODES, Keys
from store.shard_pages import merge, of_shard
from store.shards import Layout
from store.windows import Period, from_tiles

_PERIOD_CODES: Final[dict[Period, str]] = {
    "daily": "d",
    "weekly": "w",
    "monthly": "m",
    "alltime": "a",
}
#: Code of an exact window, which no period has.
_EXACT_CODE: Final = "x"
#: Offset of a window's count after each outcome type code in a record's `s`: see lua/layout.lua.
_WINDOW_INDEX: Final[dict[Period, int]] = {"weekly": 1, "monthly": 2, "alltime": 3}
#: Reads of one question: a rebuild or a rollback may activate other shards meanwhile.
_ATTEMPTS: Final = 3

_unpack = msgspec.msgpack.decode


class RedisReads:
    """The `store.records.CounterReader` in Redis."""

    def __init__(self, client: Client, prefix: str) -> None:
        self._client = client
        self._keys = Keys(prefix)
        self._read = Script("read", read_only=True, include=["order"])
        self._layouts: dict[str, Layout] = {}
        """Tenants with several shards, as shard 0 has said last."""

    async def read(self, question: Question) -> CounterPage | Incomplete:
        """Return one page. Raises StoreUnavailable.

        Each shard answers from one snapshot, all for the same day and of the same generation. The
        first question about a tenant with several shards takes two round trips, all others one.
        """
        if question.period is None and not from_tiles(question.window, question.today):
            return Incomplete("no_period")
        found: CounterPage | Incomplete = Incomplete("no_generation")
        for _ in range(_ATTEMPTS):
            layout = self._layouts.get(question.tenant)
            if layout is None:
                answer = await self._ask(question, question.tenant, "1")
                if answer[0] != b"sharded":
                    return _found(answer, question.period)
                self._learn(question.tenant, answer)
                continue
            asked = of_shard(question)
            if isinstance(asked, Incomplete):
                return asked
            first = f"{layout.shards}@{layout.generation}"
            answers = await asyncio.gather(
                self._ask(asked, question.tenant, first),
                *(self._ask(asked, name, "") for name in layout.others),
            )
            if answers[0][0] == b"sharded":
                self._learn(question.tenant, answers[0])
                continue
            pages = [_found(answer, question.period) for answer in answers]
            reasons = [page for page in pages if isinstance(page, Incomplete)]
            if not reasons:
                return merge(question, [page for page in pages if isinstance(page, CounterPage)])
            found = reasons[0]
            if found.reason != "no_generation":
                return found
            # Another generation may have become active after shard 0 was read: ask again.
            self._layouts.pop(question.tenant, None)
        return found

    def _learn(self, tenant: str, answer: Sequence[Any]) -> None:
        layout = Layout(tenant, int(answer[2]), int(answer[1]))
        if layout.shards > 1:
            self._layouts[tenant] = layout
        else:
            self._layouts.pop(tenant, None)

    async def _ask(self, question: Question, name: str, shards: str) -> list[Any]:
        period, start = question.period, question.window.start_day
        return await self._read(
            self._client,
            self._keys.active(name),
            GROUPING_CODES[question.group_by],
            _PERIOD_CODES[period] if period else _EXACT_CODE,
            question.today,
            question.timezone,
            question.offset,
            question.limit,
            "" if start is None else start,
            shards,
        )


def _found(answer: Sequence[Any], period: Period | None) -> CounterPage | Incomplete:
    """Return the page of an answer of the read script, or the reason why there is none."""
    if answer[0] != b"ok":
        return Incomplete(answer[0].decode())
    _, version, pending, types, total, ids, counts, uniques, is_ranked = answer
    names = _unpack(types) if types else []
    index = _WINDOW_INDEX.get(period, 0) if period else 0
    groups = []
    for i, name in enumerate(ids):
        flat = _unpack(counts[i])
        if index:  # due, code, weekly, monthly, alltime, code, ...
            codes, numbers = flat[1::4], flat[1 + index :: 4]
        else:
            codes, numbers = flat[::2], flat[1::2]
        by_type = {names[c]: n for c, n in zip(codes, numbers, strict=True) if n}
        groups.append(GroupCounts(name.decode(), by_type, uniques[i] if uniques else None))
    return CounterPage(Page(groups, total), int(version), int(pending), is_ranked == 1)
