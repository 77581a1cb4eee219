"""Generations of a tenant's counters in Redis: created, built, swapped, dropped, watermarks.

Each method is one script or one pipeline; see lua/ for the scripts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from store.counters import Generation, Position, TenantOverview
from store.records import GROUPINGS, Grouping
from store.redis.client import Client, Script, redis_errors
from store.redis.keys import GROUPING_CODES, Keys, mark_field

#: Maximum keys that one call of the drop script deletes: a few milliseconds.
DROP_KEYS: Final = 1_000


class RedisGenerations:
    """Lifecycle and watermarks of generations. Every method raises StoreUnavailable."""

    def __init__(self, client: Client, prefix: str) -> None:
        self._client: Any = client  # the driver's types cover answers of str and of bytes
        self._keys = Keys(prefix)
        self._create_script = Script("create")
        self._admit_script = Script("admit")
        self._swap_script = Script("swap")
        self._rollback_script = Script("rollback")
        self._drop_script = Script("drop")

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
        answer = await self._admit_script(self._client, self._keys.tenants, tenants_max, *tenants)
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
        await self._create_script(
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
        answer = await self._swap_script(
            self._client, self._keys.active(building.tenant), building.number, building.build_token
        )
        return bool(answer[0] == b"ok")

    async def rollback(self, tenant: str) -> int | None:
        active = await self.generation(tenant)
        if active is None:
            return None
        answer = await self._rollback_script(self._client, self._keys.active(tenant), active.number)
        return int(answer[1]) if answer[0] == b"ok" else None

    async def drop(self, generation: Generation) -> None:
        more = 1
        while more:
            more, _ = await self._drop_script(
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
