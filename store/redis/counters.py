"""Counters in Redis: commit a batch, roll the windows to a new day, read a page.

Each method is one script or one pipeline; the scripts are in `lua/`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

import msgspec

from store.counters import (
    Committed,
    Counted,
    Deltas,
    Duplicates,
    Floor,
    Generation,
    Refused,
    Rolled,
    TenantOverview,
)
from store.records import CounterPage, GroupCounts, Grouping, Incomplete, Page, Question
from store.redis.active import active_counted, active_generations
from store.redis.audit import AuditedCounters
from store.redis.builds import RedisBuilds
from store.redis.client import Client, Script, open_client, redis_errors
from store.redis.floors import read_floors, report_floors
from store.redis.generations import RedisGenerations
from store.redis.keys import GROUPING_CODES, watermark_field
from store.redis.overview import overview
from store.redis.removals import RedisRemovals
from store.settings import Settings
from store.windows import DAY_MS, Period, from_tiles, slots_of_horizon

#: Length of a slot of remembered identities, in event arrival time.
SLOT_MS: Final = DAY_MS
_PERIOD_CODES: Final[dict[Period, str]] = {
    "daily": "d",
    "weekly": "w",
    "monthly": "m",
    "alltime": "a",
}
_GROUPINGS: Final[dict[bytes, Grouping]] = {v.encode(): k for k, v in GROUPING_CODES.items()}
#: Code of an exact window, which no period has.
_EXACT_CODE: Final = "x"
#: Offset of a window's count after each outcome type code in a record's `s`: see lua/layout.lua.
_WINDOW_INDEX: Final[dict[Period, int]] = {"weekly": 1, "monthly": 2, "alltime": 3}

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.decode


class RedisCounters(RedisGenerations):
    """The `store.counters.CounterStore` in Redis: generations, and the counts in them.

    `reports` holds what workers report about themselves, `builds` what rebuilds need besides,
    `removals` what the removal of a tenant needs.
    """

    def __init__(
        self,
        client: Client,
        prefix: str,
        *,
        dedup_horizon_h: int = 48,
        groups_max: int = 5_000_000,
    ) -> None:
        """Prepare the scripts; no command is sent.

        `dedup_horizon_h` is the minimum time in hours that an identity is remembered (0 = never).
        Once a grouping has `groups_max` groups, all further ones count as one group.
        """
        super().__init__(client, prefix)
        self.builds = RedisBuilds(client, prefix)
        self.removals = RedisRemovals(client, prefix)
        self._groups_max = groups_max
        self._slots_back = slots_of_horizon(dedup_horizon_h)
        self._commit = Script("commit")
        self._roll = Script("roll", include=["windows"])
        self._read = Script("read", read_only=True)
        self._announce_catalog = Script("announce_catalog")

    async def ping(self) -> None:
        """Return when Redis answers. Raises StoreUnavailable."""
        async with redis_errors():
            await self._client.ping()

    def audited(self, generation: int | None = None) -> AuditedCounters:
        """Return a reader for audits of the active generation, or of `generation`."""
        return AuditedCounters(self._client, self._keys.prefix, generation=generation)

    async def read(self, question: Question) -> CounterPage | Incomplete:
        """Return one page from one snapshot. Raises StoreUnavailable."""
        period, start = question.period, question.window.start_day
        if period is None and not from_tiles(question.window, question.today):
            return Incomplete("no_period")
        answer = await self._read(
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
        return CounterPage(Page(groups, total), int(version))

    async def announce_catalog(self, tenant: str, version: int) -> None:
        """Publish the tenant's catalog version: each reader gets it with its next read.

        A lower version than the published one is ignored: of two imports, the earlier one may
        announce last. Raises StoreUnavailable.
        """
        await self._announce_catalog(self._client, self._keys.active(tenant), "", version)

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
        """Count one batch and move the watermark to `next_offset`, in one script.

        `expected_offset` is the watermark before (None = there is none). Safe to repeat: a batch
        that is already committed is refused. Raises StoreUnavailable.
        """
        answer = await self._commit(
            self._client,
            self._keys.active(generation.tenant),
            generation.number,
            generation.day,
            watermark_field("w", topic_id, partition),
            "" if expected_offset is None else expected_offset,
            next_offset,
            generation.build_token,
            self._slots_back,
            _pack(
                {
                    "types": deltas.types,
                    "n": deltas.events,
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
            overflow = zip(answer[1::2], answer[2::2], strict=True)
            return Committed([(_GROUPINGS[code], n) for code, n in overflow] if answer[1:] else ())
        if answer[0] == b"duplicates":
            return Duplicates(sorted(set(answer[1:])))
        return Refused(*(int(v) if v else None for v in answer[1:4]))

    async def roll(
        self, generation: Generation, target_day: int, *, now_ms: int, records_max: int
    ) -> Rolled | Refused:
        """Move the window day to `target_day` and roll up to `records_max` due records.

        The window day never moves back. Call again until the answer is finished. Identities that
        arrived longer than the horizon before `now_ms` are forgotten, so `now_ms` must not be
        later than the arrival watermark. Raises StoreUnavailable.
        """
        answer = await self._roll(
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

    async def counted_before_removal(
        self, tenants: Sequence[str], topic_id: str
    ) -> Mapping[str, Mapping[int, int]]:
        """Return tenant -> partition -> offset; see `RedisRemovals.counted_before`."""
        return await self.removals.counted_before(tenants, topic_id)

    def active_generations(self, tenants: Sequence[str]) -> AsyncIterator[Generation]:
        """Yield the active generation of each tenant that has one. Raises StoreUnavailable."""
        return active_generations(self._client, self._keys, tenants)

    def active_counted(self, tenants: Sequence[str], topic_id: str) -> AsyncIterator[Counted]:
        """Yield what each active generation has counted. Raises StoreUnavailable."""
        return active_counted(self._client, self._keys, tenants, topic_id)

    async def floors(self, topic_id: str) -> Mapping[int, Floor]:
        """Return partition -> floor, as reported last. Raises StoreUnavailable."""
        return await read_floors(self._client, self._keys, topic_id)

    async def report_floors(self, topic_id: str, floors: Mapping[int, Floor]) -> None:
        """Store partition -> floor, replacing the previous ones. Raises StoreUnavailable."""
        await report_floors(self._client, self._keys, topic_id, floors)

    async def instance(self) -> str:
        """Return the instance of Redis; see `RedisReports.instance`."""
        return await self.reports.instance()

    async def overview(self) -> list[TenantOverview]:
        """Return the state of every tenant's generation. Raises StoreUnavailable."""
        return await overview(self._client, self._keys)

    async def note_lost(
        self, topic_id: str, partition: int, first_offset: int, offsets: int
    ) -> None:
        """Record lost offsets; see `RedisReports.note_lost`."""
        await self.reports.note_lost(topic_id, partition, first_offset, offsets)

    async def last_lost(self, topic_id: str) -> Mapping[int, int]:
        """Return the last loss of each partition; see `RedisReports.last_lost`."""
        return await self.reports.last_lost(topic_id)


@asynccontextmanager
async def open_counters(
    settings: Settings, *, timeout_s: float | None = None, retries: int = 0
) -> AsyncIterator[RedisCounters]:
    """Yield the counters that `settings` name, and close their connections at the end.

    `timeout_s` bounds each answer of Redis; the default is REDIS_TIMEOUT_S.
    """
    timeout_s = settings.redis_timeout_s if timeout_s is None else timeout_s
    async with open_client(settings, timeout_s=timeout_s, retries=retries) as client:
        yield RedisCounters(
            client,
            settings.redis_prefix,
            dedup_horizon_h=settings.dedup_horizon_h,
            groups_max=settings.keys_per_grouping_max,
        )
