"""The counters in Redis: each method is one script or one pipeline. See lua/ for the scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from redis.asyncio import RedisCluster

from store.counters import (
    Committed,
    Deltas,
    Duplicates,
    Generation,
    Incidents,
    LogChange,
    PartitionProgress,
    Position,
    Refused,
    Rolled,
    TenantOverview,
    Visible,
)
from store.records import GROUPINGS, CounterPage, GroupCounts, Grouping, Incomplete, Page, Question
from store.redis.client import Client, Script, redis_errors
from store.redis.keys import GROUPING_CODES, Keys, mark_field
from store.windows import DAY_MS, Period, from_tiles

#: Length of a slot of remembered identities, in event arrival time.
SLOT_MS: Final = DAY_MS
#: Workers say twice a second how far they are; what is older than this says nothing of now.
PROGRESS_OLD_MS: Final = 10_000
#: Keys that one call of `drop` deletes at most: a few milliseconds.
DROP_KEYS: Final = 1_000
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


class RedisCounters:
    """A `store.counters.CounterStore` in Redis."""

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
        self._client: Any = client  # the driver's types are of both kinds of answers, str and bytes
        self._keys = Keys(prefix)
        self._groups_max = groups_max
        self._slots_back = -(-dedup_horizon_h // 24)
        self._commit = Script("commit")
        self._roll = Script("roll")
        self._create = Script("create")
        self._admit = Script("admit")
        self._swap = Script("swap")
        self._rollback = Script("rollback")
        self._drop = Script("drop")
        self._read = Script("read", read_only=True)

    # ---- asked by readers

    async def read(self, question: Question) -> CounterPage | Incomplete:
        """One page from one snapshot. Raises StoreUnavailable."""
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

    async def announce_catalog(self, tenant: str, version: int) -> None:
        """Tells all readers, with their next read, that the tenant's catalog has changed."""
        async with redis_errors():
            await self._client.set(self._keys.catalog(tenant), version)

    async def ping(self) -> None:
        async with redis_errors():
            await self._client.ping()

    async def instance(self) -> str:
        """Changes when Redis was restarted or another server took over: what was written just
        before may then be missing."""
        async with redis_errors():
            if isinstance(self._client, RedisCluster):
                infos = await self._client.info("server", target_nodes=RedisCluster.PRIMARIES)
                return ",".join(sorted(str(info["run_id"]) for info in infos.values()))
            return str((await self._client.info("server"))["run_id"])

    async def lag(self, now_ms: int) -> int | None:
        """Events in the log that are not counted, as the workers reported them last; None =
        nothing is known, or nothing new: no worker has a partition, or it hangs. A log that was
        replaced is left out."""
        progress = await self.progress()
        if not progress:
            return None
        newest = max(progress, key=lambda p: p.at_ms).topic_id
        current = [p for p in progress if p.topic_id == newest]
        if any(p.end_offset is None or now_ms - p.at_ms > PROGRESS_OLD_MS for p in current):
            return None
        return sum(max(0, (p.end_offset or 0) - p.next_offset) for p in current)

    # ---- for the worker

    async def generation(self, tenant: str) -> Generation | None:
        async with redis_errors():
            active = await self._client.get(self._keys.active(tenant))
            if active is None:
                return None
            meta = await self._client.hmget(
                self._keys.meta(tenant, int(active)), ["day", "timezone", "complete", "rolled"]
            )
        if meta[0] is None:
            return None
        return Generation(
            tenant,
            int(active),
            int(meta[0]),
            meta[1].decode(),
            meta[2] == b"1",
            int(meta[3]),
        )

    async def tenants(self) -> Sequence[str]:
        async with redis_errors():
            names = await self._client.smembers(self._keys.tenants)
        return sorted(name.decode() for name in names)

    async def refused(self, tenants: Sequence[str], tenants_max: int) -> Sequence[str]:
        answer = await self._admit(self._client, self._keys.tenants, tenants_max, *tenants)
        return [name.decode() for name in answer]

    async def create(
        self,
        tenant: str,
        *,
        day: int,
        timezone: str,
        complete: bool,
        watermarks: Sequence[Position],
    ) -> Generation:
        # Listed first: a tenant listed without a generation is harmless, the other way is not.
        async with redis_errors():
            await self._client.sadd(self._keys.tenants, tenant)
        await self._new_generation(tenant, day, timezone, complete, "", watermarks)
        generation = await self.generation(tenant)
        assert generation is not None
        return generation

    async def build(
        self,
        tenant: str,
        *,
        day: int,
        timezone: str,
        token: str,
        watermarks: Sequence[Position],
    ) -> Generation:
        number = await self._new_generation(tenant, day, timezone, False, token, watermarks)
        return Generation(tenant, number, day, timezone, False, day, token)

    async def _new_generation(
        self,
        tenant: str,
        day: int,
        timezone: str,
        complete: bool,
        token: str,
        watermarks: Sequence[Position],
    ) -> int:
        marks: list[str | int] = []
        for mark in watermarks:
            for kind in ("w", "f"):
                marks += [mark_field(kind, mark.topic_id, mark.partition), mark.offset]
        async with redis_errors():
            number = int(await self._client.incr(self._keys.last(tenant)))
        await self._create(
            self._client,
            self._keys.active(tenant),
            number,
            day,
            timezone,
            int(complete),
            token,
            *marks,
        )
        return number

    async def swap(self, building: Generation) -> bool:
        # Listed first, as in `create`: it may be the tenant's first, after a flush.
        async with redis_errors():
            await self._client.sadd(self._keys.tenants, building.tenant)
        answer = await self._swap(
            self._client, self._keys.active(building.tenant), building.number, building.build_token
        )
        return bool(answer[0] == b"ok")

    async def rollback(self, tenant: str) -> int | None:
        active = await self.generation(tenant)
        if active is None:
            return None
        answer = await self._rollback(self._client, self._keys.active(tenant), active.number)
        return int(answer[1]) if answer[0] == b"ok" else None

    async def drop(self, generation: Generation) -> None:
        more = 1
        while more:
            more, _ = await self._drop(
                self._client, self._keys.active(generation.tenant), generation.number, DROP_KEYS
            )

    async def mark_complete(self, generation: Generation) -> None:
        async with redis_errors():
            await self._client.hset(
                self._keys.meta(generation.tenant, generation.number), "complete", "1"
            )

    async def watermarks(self, generation: Generation, topic_id: str) -> Mapping[int, int]:
        return await self._marks(generation, "w", topic_id)

    async def first_watermarks(self, generation: Generation, topic_id: str) -> Mapping[int, int]:
        return await self._marks(generation, "f", topic_id)

    async def all_watermarks(self, generation: Generation) -> Mapping[tuple[str, int], int]:
        """(log, partition) -> next offset to count, of every log the generation ever counted."""
        async with redis_errors():
            meta = await self._client.hgetall(self._keys.meta(generation.tenant, generation.number))
        found = {}
        for field, value in meta.items():
            kind, _, rest = field.decode().partition(":")
            if kind == "w" and not rest.startswith("rebuild:"):
                topic_id, _, partition = rest.rpartition(":")
                found[topic_id, int(partition)] = int(value)
        return found

    async def _marks(self, generation: Generation, kind: str, topic_id: str) -> Mapping[int, int]:
        async with redis_errors():
            meta = await self._client.hgetall(self._keys.meta(generation.tenant, generation.number))
        start = mark_field(kind, topic_id, 0)[:-1].encode()
        return {int(k[len(start) :]): int(v) for k, v in meta.items() if k.startswith(start)}

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
        answer = await self._commit(
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

    # ---- progress, for people and for the lag

    async def report_progress(self, marks: Sequence[PartitionProgress]) -> None:
        if not marks:
            return
        fields = {
            f"{m.topic_id}:{m.partition}": f"{m.next_offset},"
            f"{'' if m.end_offset is None else m.end_offset},{m.at_ms}"
            + "".join(f",{ms}" for ms in m.visible or ())
            for m in marks
        }
        async with redis_errors():
            await self._client.hset(self._keys.progress, mapping=fields)

    async def progress(self) -> list[PartitionProgress]:
        """The last word of the workers on each partition, of any log they ever read."""
        async with redis_errors():
            fields: dict[bytes, bytes] = await self._client.hgetall(self._keys.progress)
        found = []
        for name, value in fields.items():
            topic_id, _, partition = name.decode().rpartition(":")
            next_offset, end, at_ms, *visible = value.decode().split(",")
            found.append(
                PartitionProgress(
                    topic_id,
                    int(partition),
                    int(next_offset),
                    int(end) if end else None,
                    int(at_ms),
                    Visible(*map(int, visible)) if visible else None,
                )
            )
        return sorted(found)

    async def report_arrivals(self, topic_id: str, read: Mapping[int, int]) -> None:
        """Partition of `log` -> all that arrived before this, in ms, has been counted."""
        if read:
            async with redis_errors():
                await self._client.hset(
                    self._keys.arrivals, mapping={f"{topic_id}:{p}": ms for p, ms in read.items()}
                )

    async def arrivals(self, topic_id: str | None = None) -> Mapping[int, int]:
        """What was reported last; without `log` of the one that was read last."""
        async with redis_errors():
            fields: dict[bytes, bytes] = await self._client.hgetall(self._keys.arrivals)
        places = [(*name.decode().rpartition(":")[::2], int(ms)) for name, ms in fields.items()]
        if topic_id is None:
            topic_id = max(places, key=lambda place: place[2])[0] if places else ""
        return {int(partition): ms for of, partition, ms in places if of == topic_id}

    async def note_lost(self, topic_id: str, partition: int, first: int, offsets: int) -> None:
        async with redis_errors():
            await self._client.hset(
                self._keys.incidents, f"lost:{topic_id}:{partition}:{first}", offsets
            )

    async def last_lost(self, topic_id: str) -> Mapping[int, int]:
        async with redis_errors():
            fields: list[bytes] = await self._client.hkeys(self._keys.incidents)
        last: dict[int, int] = {}
        for name in fields:
            kind, _, place = name.decode().partition(":")
            if kind == "lost" and place.startswith(f"{topic_id}:"):
                _, partition, first = place.split(":")
                last[int(partition)] = max(int(first), last.get(int(partition), 0))
        return last

    async def note_log_change(self, kind: str, topic_id: str, at_ms: int) -> None:
        """Remembers that `log` was recreated or cut."""
        async with redis_errors():
            await self._client.hset(self._keys.incidents, f"{kind}:{topic_id}", at_ms)

    async def incidents(self) -> Incidents:
        async with redis_errors():
            fields: dict[bytes, bytes] = await self._client.hgetall(self._keys.incidents)
        lost = sum(int(v) for k, v in fields.items() if k.startswith(b"lost:"))
        changes = []
        for name, at_ms in fields.items():
            kind, _, topic_id = name.decode().partition(":")
            if kind != "lost":
                changes.append(LogChange(kind, topic_id, int(at_ms)))
        return Incidents(lost, sorted(changes, key=lambda c: c.at_ms))

    async def overview(self) -> list[TenantOverview]:
        """Every tenant's generation at a glance."""
        found = []
        for tenant in await self.tenants():
            generation = await self.generation(tenant)
            if generation is None:
                continue
            groups: dict[Grouping, int] = {}
            async with redis_errors():
                meta = self._keys.meta(tenant, generation.number)
                fields = ["rolled", *(f"over:{GROUPING_CODES[grouping]}" for grouping in GROUPINGS)]
                rolled, *over = await self._client.hmget(meta, fields)
                for grouping in GROUPINGS:
                    groups[grouping] = await self._client.zcard(
                        self._keys.rank(tenant, generation.number, grouping, "a")
                    )
            found.append(
                TenantOverview(
                    tenant,
                    generation.number,
                    generation.complete,
                    generation.day,
                    int(rolled),
                    generation.timezone,
                    groups,
                    {g: int(n) for g, n in zip(GROUPINGS, over, strict=True) if n},
                )
            )
        return found
