"""Reads of one group in all periods, and of counts per day: one script for each shard asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from store.records import (
    CountedGroup,
    CountedTrend,
    GroupCounts,
    GroupQuestion,
    Incomplete,
    TrendQuestion,
)
from store.redis.client import Client, Script
from store.redis.keys import BLOCK_DAYS, GROUPING_CODES, Keys
from store.redis.shard_scripts import KnownLayouts, ShardScripts
from store.windows import PERIODS, Period

#: Index in `s` of the first count of a window: lua/layout.lua.
_FIRST_COUNT: Final[dict[Period, int]] = {"weekly": 2, "monthly": 3, "alltime": 4}
#: Index of the first code in `s`, and the step to the next.
_FIRST_CODE: Final = 1
_STEP: Final = 4

_unpack = msgspec.msgpack.decode
_numbers: Final = msgspec.msgpack.Decoder(list[int]).decode


class RedisGroupReads:
    """Part of the `store.records.CounterReader` in Redis. Every method raises StoreUnavailable.

    The groups of a customer's question are in one shard; those of other groupings are the sums of
    all shards. Each shard answers from one snapshot, all for the same day and generation.
    """

    def __init__(self, client: Client, prefix: str, layouts: KnownLayouts) -> None:
        self._client = client
        self._keys = Keys(prefix)
        self._group = Script("group", read_only=True, include=["answering"])
        self._trend = Script("trend", read_only=True, include=["answering"])
        self._shards = ShardScripts(layouts)

    async def read_group(self, question: GroupQuestion) -> CountedGroup | Incomplete:
        """Return one group in all periods, or the reason why not."""
        answers = await self._ask(self._group, question, question.id)
        if isinstance(answers, Incomplete):
            return answers
        version, pending = _version(answers), _pending(answers)
        if not any(each[4] for each in answers):
            return Incomplete("pending") if pending else CountedGroup(None, version)
        counts: dict[Period, Counter[str]] = {period: Counter() for period in PERIODS}
        offers: Sequence[int] = ()
        for _, _, _, types, found in answers:
            if found:
                _add_periods(counts, _unpack(types), found[0], found[1], question.today)
                offers = found[2:]
        group = {
            period: GroupCounts(question.id, dict(counts[period]), offers[i] if offers else None)
            for i, period in enumerate(PERIODS)
        }
        return CountedGroup(group, version, pending)

    async def read_trend(self, question: TrendQuestion) -> CountedTrend | Incomplete:
        """Return counts per day, or the reason why there are none.

        The window has at most TILE_DAYS days, as the tiles have.
        """
        first_day = question.window.start_day
        assert first_day is not None
        group = () if question.id is None else (question.id,)
        answers = await self._ask(self._trend, question, first_day, *group)
        if isinstance(answers, Incomplete):
            return answers
        version, pending = _version(answers), _pending(answers)
        if not any(each[4] for each in answers):
            return Incomplete("pending") if pending else CountedTrend(None, version)
        days: dict[int, Counter[str]] = {}
        for _, _, _, types, blocks in answers:
            names = _unpack(types) if types else []
            for block, of_groups in enumerate(blocks, first_day // BLOCK_DAYS):
                for day, outcome, n in _summed(names, of_groups, block):
                    if day in question.window:
                        days.setdefault(day, Counter())[outcome] += n
        return CountedTrend(days, version, pending)

    async def _ask(
        self, script: Script, question: GroupQuestion | TrendQuestion, *args: str | int
    ) -> Sequence[list[Any]] | Incomplete:
        async def call(name: str, expected: str) -> list[Any]:
            return await script(
                self._client,
                self._keys.active(name),
                GROUPING_CODES[question.group_by],
                question.today,
                question.timezone,
                expected,
                *args,
            )

        customer = question.id if question.group_by == "customer" else None
        return await self._shards.ask(question.tenant, call, customer=customer)


def _version(answers: Sequence[list[Any]]) -> int:
    return max(int(each[1]) for each in answers)


def _pending(answers: Sequence[list[Any]]) -> int:
    return sum(int(each[2]) for each in answers)


def _add_periods(
    counts: dict[Period, Counter[str]], names: list[str], s: bytes, tiles: bytes | None, today: int
) -> None:
    """Add the windows `s` of a record, and the tiles of `today` in its block, to `counts`."""
    flat = _unpack(s)
    outcomes = [names[code] for code in flat[_FIRST_CODE::_STEP]]
    for period, index in _FIRST_COUNT.items():
        for outcome, n in zip(outcomes, flat[index::_STEP], strict=True):
            if n:
                counts[period][outcome] += n
    if tiles:
        for day, outcome, n in _summed(names, [tiles], today // BLOCK_DAYS):
            if day == today:
                counts["daily"][outcome] += n


def _summed(
    names: Sequence[str], packed: Iterable[bytes], block: int
) -> list[tuple[int, str, int]]:
    """Return day, outcome type and interactions of the tiles of a block, summed over groups."""
    sums: dict[int, int] = {}
    for each in packed:
        flat = _numbers(each)
        for at, n in zip(flat[::2], flat[1::2], strict=True):
            sums[at] = sums.get(at, 0) + n
    return [
        (block * BLOCK_DAYS + at % BLOCK_DAYS, names[at // BLOCK_DAYS], n) for at, n in sums.items()
    ]
