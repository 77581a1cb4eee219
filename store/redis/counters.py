"""Counters in Redis: commit a batch, roll the windows to a new day, read a page.

Each method is one script or one pipeline; the scripts are in `lua/`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec

from store.counters import (
    Committed,
    Counted,
    Deltas,
    Duplicates,
    Floor,
    Generation,
    Limited,
    Refused,
    Rolled,
    TenantOverview,
)
from store.records import (
    CountedGroup,
    CountedTrend,
    CounterPage,
    GroupQuestion,
    Incomplete,
    Question,
    TrendQuestion,
    Unchanged,
)
from store.redis.active import active_counted, active_generations
from store.redis.audit import AuditedCounters
from store.redis.builds import RedisBuilds
from store.redis.client import Client, Script, open_client, redis_errors
from store.redis.floors import read_floors, report_floors
from store.redis.fold import Fold
from store.redis.generations import RedisGenerations
from store.redis.group_reads import RedisGroupReads
from store.redis.keys import LIMITED_CODES, watermark_field
from store.redis.overview import overview
from store.redis.pipelined import PipelinedScript
from store.redis.ranks import RedisRanks
from store.redis.reads import RedisReads
from store.redis.removals import RedisRemovals
from store.redis.shard_scripts import KnownLayouts
from store.settings import Settings
from store.windows import DAY_MS, slots_of_horizon

#: Length of a slot of remembered identities, in event arrival time.
SLOT_MS: Final = DAY_MS
_LIMITED: Final[dict[bytes, Limited]] = {v.encode(): k for k, v in LIMITED_CODES.items()}

_pack = msgspec.msgpack.Encoder().encode


class RedisCounters(RedisGenerations):
    """The `store.counters.CounterStore` in Redis: generations, and the counts in them.

    `reports` holds what workers report about themselves, `builds` what rebuilds need besides,
    `removals` what the removal of a tenant needs, `ranks` those of customers.
    """

    def __init__(
        self,
        client: Client,
        prefix: str,
        *,
        dedup_horizon_h: int = 48,
        groups_max: int = 5_000_000,
        offers_max: int = 2_000,
        all_ranks: bool = True,
    ) -> None:
        """Prepare the scripts; no command is sent.

        `dedup_horizon_h` is the minimum time in hours that an identity is remembered (0 = never).
        Once a grouping has `groups_max` groups, all further ones count as one group. Once a
        customer has `offers_max` distinct offers, further ones are not remembered. `all_ranks`:
        new generations rank customers in all periods, whether asked for or not.
        """
        super().__init__(client, prefix, all_ranks=all_ranks)
        self.builds = RedisBuilds(client, prefix)
        self.removals = RedisRemovals(client, prefix)
        self.ranks = RedisRanks(client, prefix)
        self._groups_max = groups_max
        self._offers_max = offers_max
        self._slots_back = slots_of_horizon(dedup_horizon_h)
        self._commit = PipelinedScript(Script("commit", include=["parts", "slots", "counting"]))
        self._owned = PipelinedScript(Script("owned", include=["parts", "slots"], read_only=True))
        self._fold = Fold(client, prefix, groups_max=groups_max)
        self._roll = Script("roll", include=["parts", "windows"])
        layouts = KnownLayouts()
        self._reads = RedisReads(client, prefix, layouts)
        self._group_reads = RedisGroupReads(client, prefix, layouts)
        self._announce_catalog = Script("announce_catalog")

    async def ping(self) -> None:
        """Return when Redis answers. Raises StoreUnavailable."""
        async with redis_errors():
            await self._client.ping()

    def audited(self, generation: int | None = None) -> AuditedCounters:
        """Return a reader for audits of the active generation, or of `generation`."""
        return AuditedCounters(
            self._client,
            self._keys.prefix,
            generation=generation,
            groups_max=self._groups_max,
        )

    async def read(self, question: Question) -> CounterPage | Unchanged | Incomplete:
        """Return one page; see `RedisReads.read`. Raises StoreUnavailable."""
        return await self._reads.read(question)

    async def read_group(self, question: GroupQuestion) -> CountedGroup | Incomplete:
        """Return one group; see `RedisGroupReads.read_group`. Raises StoreUnavailable."""
        return await self._group_reads.read_group(question)

    async def read_trend(self, question: TrendQuestion) -> CountedTrend | Incomplete:
        """Return counts per day; see `RedisGroupReads.read_trend`. Raises StoreUnavailable."""
        return await self._group_reads.read_trend(question)

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
        keep_pending: bool = False,
    ) -> Committed | Duplicates | Refused:
        """Count one batch and move the watermark to `next_offset`, in one script.

        With `keep_pending`, actions, treatments and channels are counted by a later `fold`. They
        are also kept while others are pending, since the order decides which groups are OTHER.

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
            *_packed(deltas),
            f"{self._groups_max}{'+' if keep_pending else ''}",
            self._offers_max,
            *(deltas.identities if self._slots_back else ()),
        )
        if answer[0] in (b"ok", b"damaged"):
            return _committed(answer)
        if answer[0] == b"duplicates":
            others = {index for index in answer[1:] if index >= 0}
            undecided = {-1 - index for index in answer[1:] if index < 0} - others
            return Duplicates(sorted(others | undecided), undecided)
        return Refused(*(int(v) if v else None for v in answer[1:4]))

    async def fold(self, generation: Generation) -> Committed:
        """Add pending deltas of actions, treatments and channels to their groups, a bounded part.

        Call again while the answer has pending events. Raises StoreUnavailable.
        """
        return _committed(await self._fold(generation.tenant, generation.number))

    async def owned_by_others(self, tenant: str, identities: Sequence[Any]) -> Sequence[int]:
        """Return the indexes of the identities of which another record was counted.

        See `store.counters.CounterStore`; changes nothing. Raises StoreUnavailable.
        """
        if not identities or not self._slots_back:
            return ()
        active = self._keys.active(tenant)
        return await self._owned(self._client, active, self._slots_back, *identities)

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


def _packed(deltas: Deltas) -> tuple[bytes, bytes]:
    """Return the two parts of the deltas that the script takes."""
    types, n = deltas.types, deltas.events
    customers = _pack({"types": types, "n": n, "u": deltas.customers})
    if not (deltas.actions or deltas.treatments or deltas.channels):
        return customers, b""
    groups = {"a": deltas.actions, "t": deltas.treatments, "c": deltas.channels}
    return customers, _pack({"types": types, "n": n, **groups})


def _committed(answer: Sequence[Any]) -> Committed:
    """Return what a commit or a fold has answered that was not refused.

    That is {'ok', pending, code of a limit, how much was beyond it, ...} or {'damaged', reason}.
    """
    if answer[0] == b"damaged":
        return Committed(damaged=answer[1].decode(errors="replace"))
    pairs = zip(answer[2::2], answer[3::2], strict=True)
    overflow = [(_LIMITED[code], n) for code, n in pairs] if answer[2:] else ()
    return Committed(overflow, answer[1])


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
            offers_max=settings.offers_per_customer_max,
            all_ranks=settings.ranks_kept_days == 0,
        )
