"""Reads of the counters for an audit, and its corrections.

The scripts are `lua/audit.lua` and `lua/adjust.lua`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from store.audit import NO_GROUP, Correction, GroupState, OfferSeen, Watermarks
from store.records import Grouping, StoreUnavailable
from store.redis.active import active_generations
from store.redis.client import Client, Script, redis_errors
from store.redis.fold import Fold
from store.redis.keys import BLOCK_DAYS, GROUPING_CODES, Keys
from store.redis.ranks import unranked_of
from store.redis.watermarks import offsets_of
from store.shards import Layout
from store.windows import TILE_DAYS, Period

#: Groups of one read: a script of 1 ms, or 3 ms if each group has 20 fields.
READ_GROUPS: Final = 100
#: Reads of the same groups: each may find deltas that a commit has left since the last fold.
READS_MAX: Final = 1_000
#: Groups of one correction: about 30 commands each.
ADJUST_GROUPS: Final = 40
_WINDOWS: Final[tuple[Period, ...]] = ("weekly", "monthly", "alltime")
_SCAN: Final = 1_000

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.decode


class GenerationState(NamedTuple):
    """The fields of a generation that decide whether and how it can be audited."""

    number: int
    day: int
    rolled: int
    timezone: str
    complete: bool
    overflow: frozenset[str]
    """Codes of the limits that were reached: see `LIMITED_CODES`."""
    types: Sequence[str]
    unranked: frozenset[Period]
    """Periods whose rank of customers is not kept, or not complete yet."""
    watermarks: Watermarks
    first_watermarks: Watermarks


class RawGroup(NamedTuple):
    """A group as it is stored."""

    fields: Sequence[bytes]
    ranks: Sequence[bytes | None]

    @property
    def windows(self) -> bytes:
        """The field `s`, which changes with each event that is counted; empty if there is none."""
        return dict(zip(self.fields[::2], self.fields[1::2], strict=True)).get(b"s", b"")


class Chunk(NamedTuple):
    """Some groups, and the generation at the same moment."""

    generation: GenerationState
    groups: Mapping[str, RawGroup]


class Unreadable(Exception):
    """A record of the counters that no worker has written like this."""


class AuditedCounters:
    """Reads and corrections of an audit. Every method raises StoreUnavailable."""

    def __init__(
        self,
        client: Client,
        prefix: str,
        *,
        generation: int | None = None,
        groups_max: int = 5_000_000,
    ) -> None:
        """Read the tenant's active generation, or `generation`, which may be under construction.

        `groups_max`: maximum groups of a grouping, for deltas that are folded.
        """
        self._client: Any = client
        self._fold = Fold(client, prefix, groups_max=groups_max)
        self._generation = "" if generation is None else generation
        self._keys = Keys(prefix)
        self._read = Script("audit", read_only=True)
        self._adjust = Script("adjust", include=["parts", "windows"])

    async def tenants(self) -> list[str]:
        """Return the tenants that have a generation, sorted."""
        async with redis_errors():
            names = await self._client.smembers(self._keys.tenants)
        return sorted(name.decode() for name in names)

    async def layout(self, tenant: str) -> Layout:
        """Return the shards of the tenant's active generation; one shard if it has none."""
        async for generation in active_generations(self._client, self._keys, [tenant]):
            return generation.layout
        return Layout(tenant, 0)

    async def read(self, tenant: str, grouping: Grouping, ids: Sequence[str]) -> Chunk | None:
        """Return the first groups of `ids`, at least one, at one moment; None = no generation.

        What is pending is folded first: the counts are those of the watermarks.
        """
        for _ in range(READS_MAX):
            answer = await self._read(
                self._client,
                self._keys.active(tenant),
                GROUPING_CODES[grouping],
                self._generation,
                *ids[:READ_GROUPS],
            )
            if not answer:
                return None
            if answer[0] != b"pending":
                break
            await self._fold.all(tenant, int(answer[1]))
        else:
            raise StoreUnavailable(f"the counters of tenant {tenant} change without a pause")
        groups = {
            id_: RawGroup(fields, ranks)
            for id_, (fields, *ranks) in zip(ids, answer[2], strict=False)
        }
        return Chunk(_generation(int(answer[0]), answer[1]), groups)

    async def ids(self, tenant: str, generation: int, grouping: Grouping) -> AsyncIterator[str]:
        """Yield the ids of all groups, some perhaps more than once."""
        await self._fold.all(tenant, generation)
        key = self._keys.rank(tenant, generation, grouping, "a")
        cursor = 0
        while True:
            async with redis_errors():
                cursor, found = await self._client.zscan(key, cursor, count=_SCAN)
            for id_, _ in found:
                yield id_.decode()
            if cursor == 0:
                return

    async def sample(self, tenant: str, generation: int, grouping: Grouping, n: int) -> list[str]:
        """Return up to `n` ids, chosen at random."""
        await self._fold.all(tenant, generation)
        key = self._keys.rank(tenant, generation, grouping, "a")
        async with redis_errors():
            found = await self._client.zrandmember(key, n)
        return [id_.decode() for id_ in found]

    async def sizes(
        self, tenant: str, generation: int, grouping: Grouping, ids: Sequence[str]
    ) -> list[int]:
        """Return the number of events that each group has in all time; 0 = it is not there."""
        key = self._keys.rank(tenant, generation, grouping, "a")
        async with redis_errors():
            scores = await self._client.zmscore(key, ids)
        return [-int(score or 0) for score in scores]

    async def offers(self, tenant: str, generation: int) -> dict[bytes, str]:
        """Return the offers by the number that customers' records have of them."""
        async with redis_errors():
            found = await self._client.hgetall(self._keys.offers(tenant, generation))
        return {number: offer.decode() for offer, number in found.items()}

    async def adjust(
        self,
        tenant: str,
        generation: GenerationState,
        grouping: Grouping,
        corrections: Sequence[Correction],
        *,
        unreadable: bytes | None = None,
    ) -> bool:
        """Apply corrections, at most ADJUST_GROUPS; return False if nothing was changed.

        They are refused if the generation or its window day is another one now. With `unreadable`
        there is one correction, of a record that cannot be read: it is deleted first, so that the
        correction is its whole counts. `unreadable` is the record's `windows` when it was audited;
        if it has changed, an event was counted since, and the correction is refused, too.
        """
        types = sorted(
            {key for c in corrections for key in c.alltime}
            | {key for c in corrections for _, key in c.tiles}
        )
        index = {key: i for i, key in enumerate(types)}
        flat: list[Any] = []
        for c in corrections:
            alltime = [part for key, n in c.alltime.items() for part in (index[key], n)]
            tiles = [part for (day, key), n in c.tiles.items() for part in (day, index[key], n)]
            offers = [
                part
                for seen, days in c.offers.items()
                for part in (*seen, *(-1 if day is None else day for day in days))
            ]
            flat += (c.id, alltime, tiles, offers)
        replaced: tuple[str | bytes, ...] = ("",) if unreadable is None else ("1", unreadable)
        answer = await self._adjust(
            self._client,
            self._keys.active(tenant),
            generation.number,
            generation.day,
            _pack({"kind": GROUPING_CODES[grouping], "types": types, "groups": flat}),
            *replaced,
        )
        return bool(answer[0] == b"ok")

    async def take_turn(self, every_ms: int) -> bool:
        """Return whether this caller is the first in `every_ms`, among all workers."""
        async with redis_errors():
            return bool(await self._client.set(self._keys.audit_turn, "1", nx=True, px=every_ms))


def _generation(number: int, flat: Sequence[bytes]) -> GenerationState:
    meta = dict(zip(flat[::2], flat[1::2], strict=True))
    return GenerationState(
        number=number,
        day=int(meta[b"day"]),
        rolled=int(meta[b"rolled"]),
        timezone=meta[b"timezone"].decode(),
        complete=meta[b"complete"] == b"1",
        overflow=frozenset(k[5:].decode() for k in meta if k.startswith(b"over:")),
        types=_unpack(meta[b"types"]) if b"types" in meta else (),
        unranked=unranked_of(meta),
        watermarks=offsets_of(meta, "w"),
        first_watermarks=offsets_of(meta, "f"),
    )


def decode(
    group: RawGroup, generation: GenerationState, offers: Mapping[bytes, str]
) -> GroupState | None:
    """Return the counts of a stored group, or None if its record cannot be read."""
    try:
        return _decode(group, generation, offers)
    except (Unreadable, msgspec.DecodeError, ValueError, TypeError, IndexError, KeyError):
        return None


def _decode(
    group: RawGroup, generation: GenerationState, offers: Mapping[bytes, str]
) -> GroupState:
    ranks: dict[Period | int, int] = {}
    names: tuple[Period | int, ...] = ("daily", generation.day + 1, "weekly", "monthly", "alltime")
    for period, score in zip(names, group.ranks, strict=True):
        if score is not None:
            ranks[period] = -round(float(score))
    if not group.fields:
        return NO_GROUP._replace(ranks=ranks)
    windows: dict[Period, dict[str, int]] = {}
    tiles: dict[tuple[int, str], int] = {}
    seen: dict[OfferSeen, int] = {}
    uniques: dict[Period, int] = {}
    types = generation.types
    for name, value in zip(group.fields[::2], group.fields[1::2], strict=True):
        if name == b"s":
            windows = _windows(_unpack(value), types)
        elif name.startswith(b"-"):
            seen[OfferSeen(offers[name[1:]])] = int(value)
        elif name == b"q":
            uniques = _uniques(value, generation.day) if value else {}
        elif name.startswith(b"p"):
            day, _, number = name[1:].partition(b":")
            seen[OfferSeen(offers[number], int(day))] = int(value)
        else:
            _add_block(tiles, int(name), _unpack(value), types, generation.day - TILE_DAYS)
    return GroupState(windows, tiles, ranks, seen, uniques)


def _uniques(kept: bytes, today: int) -> dict[Period, int]:
    """Decode `q`: weekly, monthly, alltime, day, number of that day, of three bytes each."""
    if len(kept) != 15:
        raise Unreadable
    numbers = [int.from_bytes(kept[i : i + 3], "little") for i in range(0, 15, 3)]
    found: dict[Period, int] = dict(zip(_WINDOWS, numbers, strict=False))
    if numbers[3] == today:
        found["daily"] = numbers[4]
    return found


def _windows(flat: Any, types: Sequence[str]) -> dict[Period, dict[str, int]]:
    """Decode `s`: due, code, weekly, monthly, alltime, code, ..."""
    if not _are_integers(flat) or len(flat) % 4 != 1:
        raise Unreadable
    codes = _not_negative(flat[1::4])
    if len(set(codes)) < len(codes):
        raise Unreadable
    return {
        period: {types[code]: n for code, n in zip(codes, flat[i::4], strict=True) if n}
        for i, period in enumerate(_WINDOWS, 2)
    }


def _add_block(
    tiles: dict[tuple[int, str], int], block: int, flat: Any, types: Sequence[str], before: int
) -> None:
    """Decode a block: code * 4 + day of the block, count, ...; days up to `before` are over."""
    if not _are_integers(flat):
        raise Unreadable
    for code_and_day, n in zip(_not_negative(flat[::2]), flat[1::2], strict=True):
        code, index = divmod(code_and_day, BLOCK_DAYS)
        day = block * BLOCK_DAYS + index
        if (day, types[code]) in tiles:
            raise Unreadable
        if day > before and n:
            tiles[day, types[code]] = n


def _are_integers(flat: Any) -> bool:
    return isinstance(flat, list) and all(type(n) is int for n in flat)


def _not_negative(numbers: list[int]) -> list[int]:
    """Return the numbers: -1 would be a valid index of a list, but is no code."""
    if numbers and min(numbers) < 0:
        raise Unreadable
    return numbers
