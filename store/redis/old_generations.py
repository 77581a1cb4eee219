"""All tenants and their generations in Redis, and the deletion of what is not needed any more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final

from store.counters import Generation, GenerationState, Shortfall
from store.redis.active import TENANTS_PER_CALL, active_generations, outdated_tenants
from store.redis.client import Client, Script, redis_errors
from store.redis.completeness import RedisCompleteness, missing_of
from store.redis.shards import NUMBERS_MAX, RedisShards
from store.redis.watermarks import offsets_of

#: Maximum number of keys that one call of the `drop` script deletes: a few milliseconds.
DROP_KEYS: Final = 1_000
#: Pause between two such calls, in which Redis serves others.
DROP_PAUSE_S: Final = 0.005


class RedisOldGenerations(RedisCompleteness):
    """Tenants, and generations beside the active one. Every method raises StoreUnavailable."""

    def __init__(self, client: Client, prefix: str) -> None:
        super().__init__(client, prefix)
        self.shards = RedisShards(client, prefix)
        self._admit = Script("admit")
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

    async def refused(self, tenants: Sequence[str], tenants_max: int) -> Sequence[str]:
        """Return the new tenants beyond `tenants_max`; reserve a slot for the others."""
        answer = await self._admit(self._client, self._keys.tenants, tenants_max, *tenants)
        return [name.decode() for name in answer]

    async def generation(self, tenant: str) -> Generation | None:
        """Return the tenant's active generation, or None if it has none."""
        async for generation in active_generations(self._client, self._keys, [tenant]):
            return generation
        return None

    async def outdated(self, tenants: Sequence[str]) -> list[str]:
        """Return those of the tenants whose counters have identities of an older format."""
        return await outdated_tenants(self._client, self._keys, tenants)

    async def settle(self, tenant: str) -> Sequence[Shortfall]:
        """Finish a swap or rollback of several shards; see `RedisShards.settle`."""
        return await self.shards.settle(tenant)

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
        """Delete a generation that is not active, with all its shards, in steps with pauses."""
        for each in await self.with_shards(generation):
            active = self._keys.active(each.tenant)
            async for _ in drop_in_steps(self._drop, self._client, active, each.number):
                pass

    async def drop_shard(self, name: str) -> None:
        """Delete what a shard other than shard 0 has, before it is built: remains of a lost one."""
        for number in await self.shards.end_one(name):
            await self.drop(Generation(name, number, 0, "", complete=False))

    async def with_shards(self, generation: Generation) -> list[Generation]:
        """Return the parts of a generation; shard 0, which it is, comes last. None if it is active.

        Nobody can activate it or count in it any more after that.
        """
        answer = await self._drop(
            self._client, self._keys.active(generation.tenant), generation.number, 0
        )
        if not answer[0]:
            return []
        layout = await self.shards.layout(generation.tenant, generation.number)
        numbers = await self.shards.end(layout)
        return [Generation(name, n, 0, "", complete=False) for name, n in numbers] + [generation]

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
        shards=int(meta.get(b"shards", 1)),
    )
