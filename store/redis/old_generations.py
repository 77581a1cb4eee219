"""All tenants and their generations in Redis, and the deletion of what is not needed any more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final

from store.counters import Generation, GenerationState
from store.redis.client import Client, Script, redis_errors
from store.redis.completeness import RedisCompleteness, missing_of
from store.redis.watermarks import offsets_of

#: Maximum number of keys that one call of the `drop` script deletes: a few milliseconds.
DROP_KEYS: Final = 1_000
#: Pause between two such calls, in which Redis serves others.
DROP_PAUSE_S: Final = 0.005
#: How many of a tenant's last numbers are looked at.
NUMBERS_MAX: Final = 100
#: Tenants of one pipeline: Redis serves others between its commands.
TENANTS_PER_CALL: Final = 500


class RedisOldGenerations(RedisCompleteness):
    """Tenants, and generations beside the active one. Every method raises StoreUnavailable."""

    def __init__(self, client: Client, prefix: str) -> None:
        super().__init__(client, prefix)
        self._drop = Script("drop")
        self._expire = Script("expire")

    async def tenants(self) -> Sequence[str]:
        """Return the tenants that have a generation, sorted."""
        async with redis_errors():
            names = await self._client.smembers(self._keys.tenants)
        return sorted(name.decode() for name in names)

    async def tenant_count(self) -> int:
        """Return the number of tenants that have a generation."""
        async with redis_errors():
            return int(await self._client.scard(self._keys.tenants))

    async def generations(self, tenant: str) -> list[GenerationState]:
        """Return the tenant's generations, the active one among them, in order of number."""
        async with redis_errors():
            active = await self._client.get(self._keys.active(tenant))
            numbers = await self._numbers(tenant)
            pipeline = self._client.pipeline(transaction=False)
            for number in numbers:
                pipeline.hgetall(self._keys.meta(tenant, number))
            metas = await pipeline.execute() if numbers else []
        return [
            generation_state(number, meta, is_active=active == str(number).encode())
            for number, meta in zip(numbers, metas, strict=True)
            if b"day" in meta  # else it was lost, and what is left is to be dropped
        ]

    async def with_several(self, tenants: Sequence[str]) -> list[str]:
        """Return those of the tenants that ever had more than one generation."""
        found: list[str] = []
        for first in range(0, len(tenants), TENANTS_PER_CALL):
            part = tenants[first : first + TENANTS_PER_CALL]
            async with redis_errors():
                pipeline = self._client.pipeline(transaction=False)
                for tenant in part:
                    pipeline.get(self._keys.last(tenant))
                answers = await pipeline.execute()
            found += [t for t, last in zip(part, answers, strict=True) if int(last or 0) > 1]
        return found

    async def expired(
        self, tenant: str, *, now_ms: int, keep_ms: int, abandoned_ms: int
    ) -> list[Generation]:
        """Return the generations to drop; none of them can be activated any more.

        These are the ones replaced `keep_ms` ago, the ones under construction that have had no
        lease of a rebuild for `abandoned_ms`, and those whose deletion was interrupted.
        """
        found = []
        async with redis_errors():
            numbers = await self._numbers(tenant)
            pipeline = self._client.pipeline(transaction=False)
            for number in numbers:
                pipeline.exists(self._keys.meta(tenant, number))
                pipeline.exists(self._keys.dropped(tenant, number))
            present = await pipeline.execute() if numbers else []
        keys = zip(numbers, present[::2], present[1::2], strict=True)
        for number in (n for n, meta, dropped in keys if meta or dropped):
            answer = await self._expire(
                self._client, self._keys.active(tenant), number, now_ms, keep_ms, abandoned_ms
            )
            if answer[0] == b"drop":
                found.append(Generation(tenant, number, 0, "", complete=False))
        return found

    async def drop(self, generation: Generation) -> None:
        """Delete a generation that is not active, in steps with pauses."""
        active = self._keys.active(generation.tenant)
        async for _ in drop_in_steps(self._drop, self._client, active, generation.number):
            pass

    async def drop_some(self, generation: Generation) -> bool:
        """Delete up to DROP_KEYS keys of a generation; return whether any may be left."""
        active = self._keys.active(generation.tenant)
        answer = await self._drop(self._client, active, generation.number, DROP_KEYS)
        return bool(answer[0])

    async def dropped_previous(self, generation: Generation) -> int | None:
        """Return the number of the generation before, if there was one and it was dropped."""
        number = (await self._meta(generation)).get(b"previous")
        if not number or await self._meta(generation._replace(number=int(number))):
            return None
        return int(number)

    async def _numbers(self, tenant: str) -> Sequence[int]:
        last = int(await self._client.get(self._keys.last(tenant)) or 0)
        return range(max(1, last - NUMBERS_MAX + 1), last + 1)


async def drop_in_steps(
    drop: Script, client: Client, active_key: str, number: int
) -> AsyncIterator[int]:
    """Delete all keys of a generation; yield the number of groups that each step deleted.

    A step deletes up to DROP_KEYS keys; pauses are between them. Raises StoreUnavailable.
    """
    more = True
    while more:
        left, groups = await drop(client, active_key, number, DROP_KEYS)
        yield groups
        more = bool(left)
        await asyncio.sleep(DROP_PAUSE_S if more else 0)


def generation_state(
    number: int, meta: Mapping[bytes, bytes], *, is_active: bool
) -> GenerationState:
    """Return the state of a generation from its meta hash."""

    def whole_number(name: bytes) -> int | None:
        return int(meta[name]) if name in meta else None

    return GenerationState(
        number=number,
        active=is_active,
        building=b"building" in meta,
        complete=meta.get(b"complete") == b"1",
        missing=missing_of(meta),
        events=whole_number(b"events"),
        replaced_ms=whole_number(b"replaced_ms"),
        offsets=sum(offsets_of(meta, "w").values()),
        timezone=meta.get(b"timezone", b"").decode(),
    )
