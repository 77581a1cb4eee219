"""Generations of counters in Redis: created, built, swapped, rolled back and dropped.

Each method is one script or one pipeline; the scripts are in `lua/`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence
from typing import Any

from store.counters import (
    Activated,
    Behind,
    Fewer,
    Generation,
    Position,
    Shortfall,
    Source,
)
from store.offsets import Gap
from store.records import StoreUnavailable
from store.redis.active import active_generations
from store.redis.client import Client, Script, redis_errors
from store.redis.keys import gap_field, watermark_field
from store.redis.old_generations import RedisOldGenerations
from store.redis.reports import RedisReports


class RedisGenerations(RedisOldGenerations):
    """Generations and watermarks of all tenants. Every method raises StoreUnavailable."""

    def __init__(self, client: Client, prefix: str) -> None:
        super().__init__(client, prefix)
        self.reports = RedisReports(client, prefix)
        self._create = Script("create")
        self._admit = Script("admit")
        self._swap = Script("swap")
        self._rollback = Script("rollback")
        self._prove = Script("prove")

    async def generation(self, tenant: str) -> Generation | None:
        """Return the tenant's active generation, or None if it has none."""
        async for generation in active_generations(self._client, self._keys, [tenant]):
            return generation
        return None

    async def refused(self, tenants: Sequence[str], tenants_max: int) -> Sequence[str]:
        """Return the new tenants beyond `tenants_max`; reserve a slot for the others."""
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
        """Create the tenant's first generation, or return the one that exists."""
        # Listed first: a tenant listed without a generation is harmless, the opposite is not.
        await _list(self._client, self._keys.tenants, tenant)
        await self._new_generation(
            tenant,
            day=day,
            timezone=timezone,
            complete=complete,
            token="",
            watermarks=watermarks,
            gaps=(),
        )
        # Again, as a removal of the tenant may have taken it from the list meanwhile.
        await _list(self._client, self._keys.tenants, tenant)
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
        gaps: Sequence[Gap] = (),
    ) -> Generation:
        """Create a generation beside the active one; `token` is needed to change it."""
        number = await self._new_generation(
            tenant,
            day=day,
            timezone=timezone,
            complete=False,
            token=token,
            watermarks=watermarks,
            gaps=gaps,
        )
        return Generation(
            tenant=tenant,
            number=number,
            day=day,
            timezone=timezone,
            complete=False,
            rolled=day,
            build_token=token,
        )

    async def _new_generation(
        self,
        tenant: str,
        *,
        day: int,
        timezone: str,
        complete: bool,
        token: str,
        watermarks: Sequence[Position],
        gaps: Sequence[Gap],
    ) -> int:
        fields: list[str | int] = []
        for gap in gaps:
            fields += [gap_field(gap), gap.next_offset]
        for position in watermarks:
            for kind in ("w", "f"):
                field = watermark_field(kind, position.topic_id, position.partition)
                fields += [field, position.offset]
        while True:
            async with redis_errors():
                number = int(await self._client.incr(self._keys.last(tenant)))
            answer = await self._create(
                self._client,
                self._keys.active(tenant),
                number,
                day,
                timezone,
                int(complete),
                token,
                *fields,
            )
            if answer[0] != b"taken":
                return number

    async def swap(
        self,
        building: Generation,
        *,
        now_ms: int,
        behind: bool = False,
        fewer: bool = False,
        given_up: Collection[Source] = (),
        writes: int | None = None,
    ) -> Activated | Behind | Fewer | None:
        """Make a generation under construction the active one; None if it is not that."""
        # Listed first, as in `create`: it may be the tenant's first one after a flush.
        await _list(self._client, self._keys.tenants, building.tenant)
        answer = await self._swap(
            self._client,
            self._keys.active(building.tenant),
            building.number,
            building.build_token,
            int(behind),
            int(fewer),
            now_ms,
            "" if writes is None else writes,
            *(f"{topic_id}:{partition}" for topic_id, partition in given_up),
        )
        match answer[0]:
            case b"ok":
                previous = int(answer[1]) if answer[1] else None
                await self._announce(building.tenant)
                return Activated(building.number, previous, _shortfalls(answer[2]))
            case b"behind":
                return Behind(_shortfalls(answer[1]))
            case b"fewer":
                return Fewer(int(answer[1]), int(answer[2]))
        return None

    async def rollback(self, tenant: str, *, now_ms: int) -> Activated | None:
        """Activate the previous generation; None if there is none."""
        active = await self.generation(tenant)
        previous = active and await self.previous(active)
        if active is None or previous is None:
            return None
        answer = await self._rollback(
            self._client, self._keys.active(tenant), active.number, now_ms
        )
        if answer[0] == b"ok":
            behind = _shortfalls(answer[2])
        else:
            # Refused, as another generation is active now. If it is the previous one, this is a
            # repetition of a call whose answer was lost.
            now = await self.generation(tenant)
            if now is None or now.number != previous.number:
                return None
            behind = list((await self.missing(now)).behind)
        await self._announce(tenant)
        return Activated(previous.number, active.number, behind)

    async def _announce(self, tenant: str) -> None:
        """Tell the workers of an activation. It is done, so an error here must not hide that."""
        with contextlib.suppress(StoreUnavailable):  # workers look at all tenants every 30 s
            await self.reports.note_activation(tenant)

    async def mark_complete(self, generation: Generation) -> None:
        """Record that a generation that started empty has all of history now."""
        await self._prove(self._client, self._keys.active(generation.tenant), generation.number)


async def _list(client: Any, tenants_key: str, tenant: str) -> None:
    async with redis_errors():
        await client.sadd(tenants_key, tenant)


def _shortfalls(flat: Sequence[Any]) -> list[Shortfall]:
    found = []
    for i in range(0, len(flat), 3):
        topic_id, _, partition = flat[i].decode().rpartition(":")
        found.append(Shortfall((topic_id, int(partition)), int(flat[i + 1]), int(flat[i + 2])))
    return found
