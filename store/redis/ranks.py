"""Ranks of customers that are kept while somebody asks for them: see ADR 0022.

The scripts are `lua/rank.lua` and `lua/unrank.lua`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from store.counters import Building, Generation
from store.redis.active import TENANTS_PER_CALL, active_fields
from store.redis.client import Client, Script, redis_errors
from store.redis.keys import Keys
from store.shards import tenant_of
from store.windows import Period

#: Codes of the periods in which customers are ranked on demand, as in lua/rank.lua.
RANK_CODES: Final[dict[Period, str]] = {"daily": "d", "weekly": "w", "monthly": "m"}
ALL_CODES: Final = "".join(RANK_CODES.values())
_PERIODS: Final = {code: period for period, code in RANK_CODES.items()}


class TenantRanks(NamedTuple):
    """Ranks of customers that one shard of a tenant's active generation keeps, or lacks."""

    generation: Generation
    kept: frozenset[Period]
    """Those that are being built among them."""
    last_asked_ms: Mapping[Period, int]
    """When somebody asked last; a period that nobody asked for is missing."""


class RedisRanks:
    """Ranks of customers, and who asked for them. Every method raises StoreUnavailable."""

    def __init__(self, client: Client, prefix: str) -> None:
        self._client: Any = client
        self._keys = Keys(prefix)
        self._rank = Script("rank", include=["parts", "order", "ranking"])
        self._unrank = Script("unrank", include=["parts", "ranking"])

    # ---- questions

    async def note_asked(
        self, tenant: str, period: Period, *, at_ms: int, is_lacking: bool
    ) -> None:
        """Record a question about customers; if its rank `is_lacking`, have it built."""
        member = _member(tenant, period)
        async with redis_errors():
            pipeline = self._client.pipeline(transaction=False)
            pipeline.zadd(self._keys.ranks_asked, {member: at_ms})
            if is_lacking:
                pipeline.sadd(self._keys.ranks_wanted, member)
            await pipeline.execute()

    async def wanted(self) -> dict[str, set[Period]]:
        """Return tenant -> periods whose ranks are to be built."""
        async with redis_errors():
            members = await self._client.smembers(self._keys.ranks_wanted)
        found: dict[str, set[Period]] = {}
        for member in members:
            tenant, _, code = member.decode().rpartition(":")
            found.setdefault(tenant, set()).add(_PERIODS[code])
        return found

    async def want(self, tenant: str, periods: Collection[Period]) -> None:
        """Have ranks built."""
        if periods:
            async with redis_errors():
                await self._client.sadd(self._keys.ranks_wanted, *_members(tenant, periods))

    async def unwant(self, tenant: str, periods: Collection[Period]) -> None:
        """Forget that ranks are to be built."""
        if periods:
            async with redis_errors():
                await self._client.srem(self._keys.ranks_wanted, *_members(tenant, periods))

    # ---- ranks

    async def build(
        self, generation: Generation, periods: Collection[Period], *, customers_max: int
    ) -> Building | None:
        """Build ranks of the active generation, for up to `customers_max` customers.

        Call again until nothing is left. Return None if the generation is not the active one.
        """
        answer = await self._rank(
            self._client,
            self._keys.active(generation.tenant),
            generation.number,
            "".join(RANK_CODES[period] for period in periods),
            customers_max,
        )
        if answer[0] != b"ok":
            return None
        return Building(periods_of(answer[1].decode()), answer[2])

    async def drop(self, generation: Generation, periods: Collection[Period]) -> frozenset[Period]:
        """Drop ranks of the active generation; return those that it kept until now."""
        answer = await self._unrank(
            self._client,
            self._keys.active(generation.tenant),
            generation.number,
            "".join(RANK_CODES[period] for period in periods),
        )
        return periods_of(answer[0].decode())

    async def of_tenants(self, tenants: Sequence[str]) -> AsyncIterator[TenantRanks]:
        """Yield the ranks of each shard of the tenants that have counters.

        Takes three round trips per `TENANTS_PER_CALL` tenants.
        """
        for first in range(0, len(tenants), TENANTS_PER_CALL):
            part = tenants[first : first + TENANTS_PER_CALL]
            fields = {
                generation: values
                async for generation, values in active_fields(
                    self._client, self._keys, part, ("unranked",)
                )
            }
            for generation, asked_ms in (await self._last_asked(fields)).items():
                (unranked,) = fields[generation]
                kept = set(RANK_CODES) - periods_of((unranked or b"").decode())
                yield TenantRanks(generation, frozenset(kept), asked_ms)

    async def _last_asked(
        self, generations: Iterable[Generation]
    ) -> dict[Generation, dict[Period, int]]:
        generations = list(generations)
        async with redis_errors():
            pipeline = self._client.pipeline(transaction=False)
            for generation in generations:
                members = _members(tenant_of(generation.tenant), RANK_CODES)
                pipeline.zmscore(self._keys.ranks_asked, members)
            answers = await pipeline.execute() if generations else []
        return {
            generation: {
                period: int(score)
                for period, score in zip(RANK_CODES, scores, strict=True)
                if score is not None
            }
            for generation, scores in zip(generations, answers, strict=True)
        }


async def unranked_codes(client: Any, keys: Keys, tenant: str) -> str:
    """Return the codes of the ranks that the active generation of a tenant does not keep."""
    async for _, (unranked,) in active_fields(client, keys, [tenant_of(tenant)], ("unranked",)):
        return (unranked or b"").decode()
    return ALL_CODES


def periods_of(codes: str) -> frozenset[Period]:
    """Return the periods with these codes."""
    return frozenset(_PERIODS[code] for code in codes)


def unranked_of(meta: Mapping[bytes, bytes]) -> frozenset[Period]:
    """Return the periods in which a generation does not rank customers, or not yet."""
    return periods_of((meta.get(b"unranked", b"") + meta.get(b"ranking", b"")).decode())


def rank_members(tenant: str) -> list[str]:
    """Return the members that `ranks_asked` and `ranks_wanted` may have of a tenant."""
    return _members(tenant, RANK_CODES)


def _members(tenant: str, periods: Iterable[Period]) -> list[str]:
    return [_member(tenant, period) for period in periods]


def _member(tenant: str, period: Period) -> str:
    return f"{tenant}:{RANK_CODES[period]}"
