"""Reads of the counters: one script, or one for each shard of a tenant with several."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from store.records import CounterPage, GroupCounts, Incomplete, Page, Question, Unchanged
from store.redis.client import Client, Script
from store.redis.keys import GROUPING_CODES, Keys
from store.redis.shard_scripts import ATTEMPTS, KnownLayouts
from store.shard_pages import all_unchanged, merge, of_shard, split_version
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

_texts: Final = msgspec.msgpack.Decoder(list[str]).decode
_numbers: Final = msgspec.msgpack.Decoder(list[int]).decode
_lists: Final = msgspec.msgpack.Decoder(list[list[int]]).decode


class RedisReads:
    """The `store.records.CounterReader` in Redis."""

    def __init__(self, client: Client, prefix: str, layouts: KnownLayouts) -> None:
        self._client = client
        self._keys = Keys(prefix)
        self._read = Script("read", read_only=True, include=["order"])
        self._layouts = layouts

    async def read(self, question: Question) -> CounterPage | Unchanged | Incomplete:
        """Return one page. Raises StoreUnavailable.

        Each shard answers from one snapshot, all for the same day and of the same generation. The
        first question about a tenant with several shards takes two round trips, and so does one
        with a known version that some of the shards still have; all others take one.
        """
        if question.period is None and not from_tiles(question.window, question.today):
            return Incomplete("no_period")
        found: CounterPage | Unchanged | Incomplete = Incomplete("no_generation")
        for _ in range(ATTEMPTS):
            layout = self._layouts.get(question.tenant)
            if layout is None:
                answer = await self._ask(question, question.tenant, "1")
                if answer[0] != b"sharded":
                    return _found(answer, question)
                self._layouts.learn(question.tenant, answer)
                continue
            asked = of_shard(question)
            if isinstance(asked, Incomplete):
                return asked
            found = await self._read_shards(question, asked, layout)
            if found != Incomplete("no_generation"):
                return found
        return found

    async def _read_shards(
        self, question: Question, asked: Question, layout: Layout
    ) -> CounterPage | Unchanged | Incomplete:
        """Return the answer of all shards, `no_generation` if they may be others by now."""
        shards = [f"{layout.shards}@{layout.generation}", *[""] * (layout.shards - 1)]
        known = split_version(question.known_version, layout.shards)
        answers = await asyncio.gather(
            *(
                self._ask(asked._replace(known_version=version), name, of_shard)
                for name, of_shard, version in zip(layout.names, shards, known, strict=True)
            )
        )
        unchanged = [i for i, answer in enumerate(answers) if answer[0] == b"same"]
        if unchanged and len(unchanged) < layout.shards:
            # The others have changed, so the pages of these are needed, too.
            again = asked._replace(known_version=b"")
            pages_of_rest = await asyncio.gather(
                *(self._ask(again, layout.name(i), shards[i]) for i in unchanged)
            )
            for i, answer in zip(unchanged, pages_of_rest, strict=True):
                answers[i] = answer
        if answers[0][0] == b"sharded":
            self._layouts.learn(question.tenant, answers[0])
            return Incomplete("no_generation")
        results = [_found(answer, asked) for answer in answers]
        for result in results:
            if isinstance(result, Incomplete):
                if result.reason == "no_generation":
                    # Another generation may have become active after shard 0 was read: ask again.
                    self._layouts.forget(question.tenant)
                return result
        same = [result for result in results if isinstance(result, Unchanged)]
        if same:
            return all_unchanged(same)
        return merge(question, [page for page in results if isinstance(page, CounterPage)])

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
            question.known_version or b"",
        )


def _found(answer: Sequence[Any], question: Question) -> CounterPage | Unchanged | Incomplete:
    """Return the page of an answer of the read script, or why there is none."""
    if answer[0] == b"same":
        return Unchanged(int(answer[2]), answer[3] == 1)
    if answer[0] != b"ok":
        return Incomplete(answer[0].decode())
    _, version, pending, is_ranked, catalog, types, total, ids, counts, uniques = answer
    names = _texts(types) if types else []
    index = _WINDOW_INDEX.get(question.period, 0) if question.period else 0
    of_groups: list[dict[str, int]] = []
    for flat in _lists(counts):
        if index:  # due, code, weekly, monthly, alltime, code, ...
            codes, numbers = flat[1::4], flat[1 + index :: 4]
        else:
            codes, numbers = flat[::2], flat[1::2]
        of_groups.append({names[c]: n for c, n in zip(codes, numbers, strict=True) if n})
    offers: Sequence[int | None] = _numbers(uniques) or [None] * len(of_groups)
    groups = list(map(GroupCounts, _texts(ids), of_groups, offers))
    return CounterPage(
        Page(groups, total),
        int(catalog),
        int(pending),
        is_ranked == 1,
        b"" if question.known_version is None else version,
    )
