"""The counters in Redis: each method is one script or one pipeline. See lua/ for the scripts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from store.counters import (
    Committed,
    Deltas,
    Duplicates,
    Generation,
    Refused,
    Rolled,
)
from store.records import CounterPage, GroupCounts, Grouping, Incomplete, Page, Question
from store.redis.client import Client, Script, redis_errors
from store.redis.generations import RedisGenerations
from store.redis.keys import GROUPING_CODES, mark_field
from store.redis.reports import RedisReports
from store.windows import DAY_MS, Period, from_tiles

#: Length of a slot of remembered identities, in event arrival time.
SLOT_MS: Final = DAY_MS
_PERIOD_CODES: Final[dict[Period, str]] = {
    "daily": "d",
    "weekly": "w",
    "monthly": "m",
    "alltime": "a",
}
_GROUPINGS: Final[dict[bytes, Grouping]] = {v.encode(): k for k, v in GROUPING_CODES.items()}
#: A window that no period has.
_EXACT_CODE: Final = "x"
#: Where a record's `s` has the counts of a window, after each code: see lua/layout.lua.
_PLACE_OF_WINDOW: Final[dict[Period, int]] = {"weekly": 1, "monthly": 2, "alltime": 3}

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.decode


class RedisCounters(RedisGenerations):
    """Counters in Redis: commit, roll and read. A `store.counters.CounterStore`."""

    def __init__(
        self,
        client: Client,
        prefix: str,
        *,
        dedup_horizon_h: int = 48,
        groups_max: int = 5_000_000,
    ) -> None:
        """`dedup_horizon_h`: how long an identity is remembered at least; 0 = never. `groups_max`:
        groups of one grouping, before the next ones count as one."""
        super().__init__(client, prefix)
        self.reports = RedisReports(client, prefix)
        self._groups_max = groups_max
        self._slots_back = -(-dedup_horizon_h // 24)
        self._commit_script = Script("commit")
        self._roll_script = Script("roll")
        self._read_script = Script("read", read_only=True)

    async def read(self, question: Question) -> CounterPage | Incomplete:
        """One page from one snapshot. Raises StoreUnavailable."""
        period, start = question.period, question.window.start_day
        if period is None and not from_tiles(question.window, question.today):
            return Incomplete("no_period")
        answer = await self._read_script(
            self._client,
            self._keys.active(question.tenant),
            GROUPING_CODES[question.group_by],
            _PERIOD_CODES[period] if period else _EXACT_CODE,
            question.today,
            question.timezone,
            question.offset,
            question.limit,
            "" if start is None else start,
        )
        if answer[0] != b"ok":
            return Incomplete(answer[0].decode())
        _, version, types, total, ids, counts, uniques = answer
        names = _unpack(types) if types else []
        place = _PLACE_OF_WINDOW.get(period, 0) if period else 0
        groups = []
        for i, name in enumerate(ids):
            flat = _unpack(counts[i])
            if place:  # due, code, weekly, monthly, alltime, code, ...
                codes, numbers = flat[1::4], flat[1 + place :: 4]
            else:
                codes, numbers = flat[::2], flat[1::2]
            by_type = {names[c]: n for c, n in zip(codes, numbers, strict=True) if n}
            groups.append(GroupCounts(name.decode(), by_type, uniques[i] if uniques else None))
        return CounterPage(Page(groups, total), int(version))

    async def commit(
        self,
        generation: Generation,
        *,
        topic_id: str,
        partition: int,
        expected_offset: int | None,
        next_offset: int,
        deltas: Deltas,
    ) -> Committed | Duplicates | Refused:
        """Counts one batch and moves the watermark from `expected_offset` (None = there is none) to
        `next_offset`, in one script. Safe to repeat: what is committed is then refused."""
        answer = await self._commit_script(
            self._client,
            self._keys.active(generation.tenant),
            generation.number,
            generation.day,
            mark_field("w", topic_id, partition),
            "" if expected_offset is None else expected_offset,
            next_offset,
            generation.build_token,
            self._slots_back,
            _pack(
                {
                    "types": deltas.types,
                    "a": deltas.actions,
                    "t": deltas.treatments,
                    "c": deltas.channels,
                    "u": deltas.customers,
                }
            ),
            self._groups_max,
            *(deltas.identities if self._slots_back else ()),
        )
        if answer[0] == b"ok":
            over = zip(answer[1::2], answer[2::2], strict=True)
            return Committed([(_GROUPINGS[letter], n) for letter, n in over] if answer[1:] else ())
        if answer[0] == b"duplicates":
            return Duplicates(sorted(set(answer[1:])))
        return Refused(*(int(v) if v else None for v in answer[1:4]))

    async def roll(
        self, generation: Generation, target_day: int, *, now_ms: int, records_max: int
    ) -> Rolled | Refused:
        """Moves the window day to `target_day` (never back) and rolls up to `records_max` due
        records; call again until finished. Forgets identities that arrived longer than the horizon
        before `now_ms`, so that must be a time since when nothing has arrived that is not read."""
        answer = await self._roll_script(
            self._client,
            self._keys.active(generation.tenant),
            generation.number,
            generation.build_token,
            target_day,
            records_max,
            now_ms // SLOT_MS - self._slots_back,
        )
        if answer[0] == b"ok":
            return Rolled(int(answer[1]), answer[2] == 1, answer[3])
        return Refused(int(answer[1]) if answer[1] else None, None, None)

    async def announce_catalog(self, tenant: str, version: int) -> None:
        """Tells all readers, with their next read, that the tenant's catalog has changed."""
        async with redis_errors():
            await self._client.set(self._keys.catalog(tenant), version)

    async def ping(self) -> None:
        async with redis_errors():
            await self._client.ping()

    async def note_lost(self, topic_id: str, partition: int, first: int, offsets: int) -> None:
        """See `RedisReports.note_lost`."""
        await self.reports.note_lost(topic_id, partition, first, offsets)

    async def last_lost(self, topic_id: str) -> Mapping[int, int]:
        """See `RedisReports.last_lost`."""
        return await self.reports.last_lost(topic_id)
