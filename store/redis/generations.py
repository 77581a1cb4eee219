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
from store.redis.client import Client, Script, redis_errors
from store.redis.keys import gap_field, watermark_field
from store.redis.old_generations import RedisOldGenerations
from store.redis.ranks import ALL_CODES, unranked_codes
from store.redis.reports import RedisReports
from store.redis.shards import shortfalls
from store.shards import Layout, is_shard, tenant_of


class RedisGenerations(RedisOldGenerations):
    """Generations and watermarks of all tenants. Every method raises StoreUnavailable."""

    def __init__(self, client: Client, prefix: str, *, all_ranks: bool) -> None:
        """`all_ranks`: new generations rank customers in all periods, whether asked for or not."""
        super().__init__(client, prefix)
        self._all_ranks = all_ranks
        self.reports = RedisReports(client, prefix)
        self._create = Script("create")
        self._swap = Script("swap")
        self._rollback = Script("rollback")

    async def create(
        self,
        tenant: str,
        *,
        day: int,
        timezone: str,
        complete: bool,
        watermarks: Sequence[Position],
        shards: int = 1,
    ) -> Generation:
        """Create the tenant's first generation, or return the one that exists."""
        # Listed first: a tenant listed without a generation is harmless, the opposite is not.
        await _list(self._client, self._keys.tenants, tenant_of(tenant))
        await self._new_generation(
            tenant,
            day=day,
            timezone=timezone,
            complete=complete,
            token="",
            watermarks=watermarks,
            gaps=(),
            shards=shards,
            unranked="" if self._all_ranks else ALL_CODES,
        )
        # Again, as a removal of the tenant may have taken it from the list meanwhile.
        await _list(self._client, self._keys.tenants, tenant_of(tenant))
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
        shards: int = 1,
    ) -> Generation:
        """Create a generation beside the active one; `token` is needed to change it.

        Of several shards this is shard 0, and a call for each of the others follows.
        """
        unranked = "" if self._all_ranks else await unranked_codes(self._client, self._keys, tenant)
        number = await self._new_generation(
            tenant,
            day=day,
            timezone=timezone,
            complete=False,
            token=token,
            watermarks=watermarks,
            gaps=gaps,
            shards=shards,
            unranked=unranked,
        )
        return Generation(
            tenant=tenant,
            number=number,
            day=day,
            timezone=timezone,
            complete=False,
            rolled=day,
            build_token=token,
            shards=shards,
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
        shards: int,
        unranked: str,
    ) -> int:
        fields: list[str | int] = ["unranked", unranked]
        if shards > 1:
            fields += ["shards", shards]
        for gap in gaps:
            fields += [gap_field(gap), gap.next_offset]
        for position in watermarks:
            for kind in ("w", "f"):
                field = watermark_field(kind, position.topic_id, position.partition)
                fields += [field, position.offset]
        while True:
            async with redis_errors():
                number = int(await self._client.incr(self._keys.last(tenant)))
            if not token:  # a rebuild builds each shard by a call of its own
                for name in Layout(tenant, number, shards).others:
                    await self._new_generation(
                        name,
                        day=day,
                        timezone=timezone,
                        complete=complete,
                        token="",
                        watermarks=watermarks,
                        gaps=gaps,
                        shards=1,
                        unranked=unranked,
                    )
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
        await _list(self._client, self._keys.tenants, tenant_of(building.tenant))
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
                lacking: Sequence[Shortfall] = shortfalls(answer[2])
                if not is_shard(building.tenant):
                    lacking = await self.shards.settle(building.tenant) or lacking
                    await self._announce(building.tenant)
                return Activated(building.number, previous, lacking)
            case b"behind":
                return Behind(shortfalls(answer[1]))
            case b"fewer":
                return Fewer(int(answer[1]), int(answer[2]))
        return None

    async def rollback(self, tenant: str, *, now_ms: int) -> Activated | None:
        """Activate the previous generation; None if there is none."""
        active = await self.generation(tenant)
        previous = active and await self.previous(active)
        if active is None or previous is None:
            return None
        layout = await self.shards.layout(tenant, previous.number)
        await self.shards.restore(layout)
        answer = await self._rollback(
            self._client, self._keys.active(tenant), active.number, now_ms
        )
        if answer[0] == b"ok":
            lacking: Sequence[Shortfall] = shortfalls(answer[2])
        else:
            # Refused, as another generation is active now. If it is the previous one, this is a
            # repetition of a call whose answer was lost.
            now = await self.generation(tenant)
            if now is None or now.number != previous.number:
                return None
            lacking = (await self.missing(now)).behind
        lacking = await self.shards.settle(tenant) or lacking
        await self._announce(tenant)
        return Activated(previous.number, active.number, lacking)

    async def _announce(self, tenant: str) -> None:
        """Tell the workers of an activation. It is done, so an error here must not hide that."""
        with contextlib.suppress(StoreUnavailable):  # workers look at all tenants every 30 s
            await self.reports.note_activation(tenant)


async def _list(client: Any, tenants_key: str, tenant: str) -> None:
    async with redis_errors():
        await client.sadd(tenants_key, tenant)
