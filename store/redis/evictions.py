"""Whether Redis may have evicted counters, and the mark of those that it may have.

Redis says only how many keys it has evicted, not which. So a growth of that number makes every
generation that exists doubtful: a mark in its meta keeps it from being complete, until a rebuild
replaces it. The numbers that are dealt with are recorded in Redis, so a restart of workers and
readers changes nothing. Readers compare with the record too, and need no worker for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from store.redis.client import Client, Script, redis_errors
from store.redis.health import NodeHealth, RedisHealth, health_of
from store.redis.keys import Keys
from store.redis.shards import RedisShards
from store.shards import is_shard, tenant_of

#: Tenants that are marked at the same time.
TENANTS_AT_ONCE: Final = 100
#: Highest numbers of a tenant's generations that are marked: those that are kept, or being built.
MARKED_MAX: Final = 20


class Seen(NamedTuple):
    """What was recorded of a node when its evictions were last dealt with."""

    evicted_keys: int
    policy: str


class RedisEvictions:
    """Evictions of counters. Every method raises StoreUnavailable."""

    def __init__(self, client: Client, prefix: str) -> None:
        self._client: Any = client
        self._keys = Keys(prefix)
        self._mark = Script("evicted")
        self._shards = RedisShards(client, prefix)

    async def health(self) -> RedisHealth:
        """Return how Redis is set and how full it is."""
        return await health_of(self._client)

    async def refusal(self) -> str | None:
        """Return why no counters are complete: `evicting` or `evicted`; None = nothing known."""
        health = await self.health()
        if health.evicts_counters:
            return "evicting"
        return "evicted" if await self.unmarked(health) else None

    async def unmarked(self, health: RedisHealth) -> bool:
        """Return whether counters may have been evicted since the last `record`."""
        seen = await self._seen()
        return any(may_lack_counters(node, seen.get(node.run_id)) for node in health.nodes)

    async def mark(self, tenants: Iterable[str], at_ms: int) -> int:
        """Mark all generations of `tenants`, in all shards; return how many were not marked before.

        Tenants with counters are listed again, as the list of tenants may be evicted too.
        """
        marked, names = 0, list(tenants)
        for first in range(0, len(names), TENANTS_AT_ONCE):
            part = names[first : first + TENANTS_AT_ONCE]
            marked += sum(await asyncio.gather(*(self._mark_tenant(each, at_ms) for each in part)))
        return marked

    async def record(self, health: RedisHealth) -> None:
        """Record what `health` shows as dealt with; call this after `mark`."""
        wanted = {
            node.run_id: Seen(node.evicted_keys, node.policy or "")
            for node in health.nodes
            if node.evicted_keys is not None
        }
        seen = await self._seen()
        if seen == wanted:
            return
        fields = {name: f"{seen.evicted_keys},{seen.policy}" for name, seen in wanted.items()}
        async with redis_errors():
            if fields:
                await self._client.hset(self._keys.evictions, mapping=fields)
            if gone := seen.keys() - wanted.keys():
                await self._client.hdel(self._keys.evictions, *gone)

    async def _mark_tenant(self, tenant: str, at_ms: int) -> int:
        async with redis_errors():
            active, last = await self._client.mget(
                self._keys.active(tenant), self._keys.last(tenant)
            )
            if active is not None:
                await self._client.sadd(self._keys.tenants, tenant_of(tenant))
        last = int(last or 0)
        numbers = {*range(max(1, last - MARKED_MAX + 1), last + 1)}
        if active is not None:
            numbers.add(int(active))
        marked = 0
        for number in sorted(numbers):
            answer = await self._mark(self._client, self._keys.active(tenant), number, at_ms)
            marked += answer[0]
        for layout in [] if is_shard(tenant) else await self._shards.layouts(tenant):
            marked += sum([await self._mark_tenant(name, at_ms) for name in layout.others])
        return marked

    async def _seen(self) -> dict[str, Seen]:
        async with redis_errors():
            fields: Mapping[bytes, bytes] = await self._client.hgetall(self._keys.evictions)
        found = {}
        for name, value in fields.items():
            evicted_keys, _, policy = value.decode().partition(",")
            found[name.decode()] = Seen(int(evicted_keys), policy)
        return found


def may_lack_counters(node: NodeHealth, seen: Seen | None) -> bool:
    """Return whether a node may have evicted counters since it was `seen`. Pure.

    `volatile-*` evicts keys with a TTL, and counters have none. A server without a record has been
    started since, or was never looked at: if it evicts, what it did before is unknown.
    """
    if node.evicted_keys is None:
        return False
    if seen is None:
        grew, policies = node.evicted_keys > 0, {node.policy or ""}
        if node.evicts_counters:
            return True
    else:
        # Fewer than before: the statistics were reset.
        before = seen.evicted_keys if seen.evicted_keys <= node.evicted_keys else 0
        grew, policies = node.evicted_keys > before, {node.policy or "", seen.policy}
    spares_counters = any(policy.startswith("volatile-") for policy in policies) and not any(
        policy.startswith("allkeys-") for policy in policies
    )
    return grew and not spares_counters
