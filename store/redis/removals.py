"""Removal of a tenant's counters, and what stays of it: the offsets that it had counted.

The removed tenant's records are still in the topic, and a worker that rewinds reads some of them
again. Without these offsets they would make the tenant again, and count again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from store.counters import Source
from store.redis.active import TENANTS_PER_CALL
from store.redis.client import Client, Script, redis_errors
from store.redis.keys import Keys
from store.redis.old_generations import drop_in_steps
from store.redis.ranks import rank_members
from store.redis.shards import NUMBERS_MAX, RedisShards, join


class Ended(NamedTuple):
    """A tenant's counters that nobody reads or changes any more, and that are to be deleted."""

    tenant: str
    last: int
    """Number of its last generation."""
    counted: Mapping[Source, int]
    """(topic id, partition) -> offset below which its events were counted or stored."""


class RedisRemovals:
    """Removes the counters of tenants. Every method raises StoreUnavailable."""

    def __init__(self, client: Client, prefix: str) -> None:
        self._client: Any = client
        self._keys = Keys(prefix)
        self._remove = Script("remove")
        self._drop = Script("drop")
        self._shards = RedisShards(client, prefix)

    async def end(self, tenant: str, stored: Mapping[Source, int]) -> Ended:
        """End the counters of the tenant, all shards in one step; safe to repeat.

        `stored` is (topic id, partition) -> offset below which history has the topic.
        """
        counted = dict(stored)
        for layout in await self._shards.layouts(tenant):
            # Before shard 0: what they have counted must not be counted again.
            join(counted, await self._shards.retire(layout))
        fields: list[str | int] = []
        for (topic_id, partition), offset in counted.items():
            fields += [f"{topic_id}:{partition}", offset]
        last, flat = await self._remove(self._client, self._keys.active(tenant), "", *fields)
        return Ended(tenant, int(last), _offsets(dict(zip(flat[::2], flat[1::2], strict=True))))

    async def delete(
        self, ended: Ended, *, progress: Callable[[int], None] = lambda groups: None
    ) -> tuple[int, int]:
        """Delete all generations up to the last, and all reports on the tenant.

        Return the number of generations and of groups. `progress` is called with the number of
        groups deleted so far. Safe to repeat.
        """
        tenant, generations, groups = ended.tenant, 0, 0
        for number in range(max(1, ended.last - NUMBERS_MAX + 1), ended.last + 1):
            async with redis_errors():
                found = await self._client.exists(
                    self._keys.meta(tenant, number), self._keys.dropped(tenant, number)
                )
            generations += bool(found)
            parts = await self._shards.end(await self._shards.layout(tenant, number))
            # Also where meta was lost: it may have been evicted.
            for name, part in [*parts, (tenant, number)]:
                async for deleted in drop_in_steps(
                    self._drop, self._client, self._keys.active(name), part
                ):
                    groups += deleted
                    progress(groups)
        await self._delete_reports(tenant)
        return generations, groups

    async def _delete_reports(self, tenant: str) -> None:
        keys = self._keys
        async with redis_errors():
            await self._client.unlink(keys.catalog(tenant), keys.rules(tenant))
            pipeline = self._client.pipeline(transaction=False)
            for reports in (keys.audits, keys.rebuilds, keys.rebuilding):
                pipeline.hdel(reports, tenant)
            pipeline.zrem(keys.activations, tenant)
            pipeline.zrem(keys.ranks_asked, *rank_members(tenant))
            pipeline.srem(keys.ranks_wanted, *rank_members(tenant))
            # Last: a tenant that is listed without a generation is harmless, and an interrupted
            # removal is found by the list.
            pipeline.srem(keys.tenants, tenant)
            await pipeline.execute()
            # A worker may have made the tenant again meanwhile: it lists it before and after that.
            if await self._client.exists(keys.active(tenant)):
                await self._client.sadd(keys.tenants, tenant)

    async def counted_before(
        self, tenants: Sequence[str], topic_id: str
    ) -> dict[str, Mapping[int, int]]:
        """Return tenant -> partition -> offset below which its events were counted, of the removed.

        A tenant that has counters again is not removed. Takes one round trip per
        `TENANTS_PER_CALL` tenants.
        """
        found: dict[str, Mapping[int, int]] = {}
        for first in range(0, len(tenants), TENANTS_PER_CALL):
            part = tenants[first : first + TENANTS_PER_CALL]
            async with redis_errors():
                pipeline = self._client.pipeline(transaction=False)
                for tenant in part:
                    pipeline.hgetall(self._keys.removed(tenant))
                    pipeline.exists(self._keys.active(tenant))
                answers = await pipeline.execute()
            for tenant, fields, has_counters in zip(part, answers[::2], answers[1::2], strict=True):
                if fields and not has_counters:
                    offsets = _offsets(fields)
                    found[tenant] = {p: o for (of, p), o in offsets.items() if of == topic_id}
        return found


def _offsets(fields: Mapping[bytes, bytes]) -> dict[Source, int]:
    found = {}
    for source, offset in fields.items():
        topic_id, _, partition = source.decode().rpartition(":")
        if topic_id:  # not the time
            found[topic_id, int(partition)] = int(offset)
    return found
