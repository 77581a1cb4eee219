"""What a rebuild needs of Redis beside generations: its lease, its progress, identities in bulk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from store.counters import Generation
from store.redis.client import Client, Script, redis_errors
from store.redis.keys import Keys

#: Buckets of identities in one call: about 1 ms of Redis.
BUCKETS_MAX: Final = 500
#: Progress is reported once a second; an older report was left by a rebuild that was killed.
REPORT_OLD_MS: Final = 15_000


class LeaseHeld(NamedTuple):
    """Another rebuild of the tenant has the lease."""

    holder: str
    """Who it is, for people: host, process, time."""
    left_ms: int
    """When the lease ends unless it is renewed."""


class RedisBuilds:
    """Leases and progress of rebuilds. Every method raises StoreUnavailable."""

    def __init__(self, client: Client, prefix: str) -> None:
        self._client: Any = client
        self._keys = Keys(prefix)
        self._lease = Script("lease")
        self._identities = Script("identities")

    async def take_lease(
        self, tenant: str, token: str, *, holder: str, lease_ms: int
    ) -> LeaseHeld | None:
        """Take the tenant's lease; return who has it if another token does."""
        return await self._ask(tenant, "take", token, lease_ms, holder)

    async def keep_lease(
        self, tenant: str, token: str, *, holder: str, lease_ms: int
    ) -> LeaseHeld | None:
        """Renew the lease; return who has it if it is lost."""
        return await self._ask(tenant, "keep", token, lease_ms, holder)

    async def free_lease(self, tenant: str, token: str) -> None:
        """Give the lease back, if the token has it."""
        await self._ask(tenant, "free", token, 1, "")

    async def _ask(
        self, tenant: str, action: str, token: str, lease_ms: int, holder: str
    ) -> LeaseHeld | None:
        answer = await self._lease(
            self._client, self._keys.active(tenant), action, token, lease_ms, holder
        )
        if answer[0] == b"ok":
            return None
        return LeaseHeld(answer[1].decode(), max(0, int(answer[2])))

    async def load_identities(
        self,
        building: Generation,
        slot: int,
        buckets: Sequence[bytes],
        *,
        first: int,
        identities: int,
        writes: int,
    ) -> bool:
        """Store a part of a slot's buckets, at most BUCKETS_MAX, from index `first` on.

        Returns False if the generation is not under construction, or has lost writes. The slot must
        have nothing else. `identities` is their number in the whole slot, `writes` the number of
        writes into the generation so far; this one counts, too.
        """
        fields: list[int | bytes] = []
        for index, bucket in enumerate(buckets, first):
            fields += (index, bucket)
        answer = await self._identities(
            self._client,
            self._keys.active(building.tenant),
            building.number,
            building.build_token,
            slot,
            identities,
            writes,
            *fields,
        )
        return bool(answer[0] == b"ok")

    async def report_progress(self, tenant: str, report: Mapping[str, Any]) -> None:
        """Store the progress of the tenant's rebuild, in place of the last one."""
        async with redis_errors():
            await self._client.hset(self._keys.rebuilding, tenant, msgspec.json.encode(report))

    async def report_end(self, tenant: str, report: Mapping[str, Any] | None) -> None:
        """Delete the progress of the tenant's rebuild; store its result, if there is one."""
        async with redis_errors():
            if report is not None:
                await self._client.hset(self._keys.rebuilds, tenant, msgspec.json.encode(report))
            await self._client.hdel(self._keys.rebuilding, tenant)

    async def running(self, now_ms: int) -> dict[str, dict[str, Any]]:
        """Return tenant -> progress of the rebuilds that run; `*`: several tenants together."""
        found = await self._reports(self._keys.rebuilding)
        return {t: r for t, r in found.items() if now_ms - r["atMs"] < REPORT_OLD_MS}

    async def results(self) -> dict[str, dict[str, Any]]:
        """Return tenant -> result of its last rebuild."""
        return await self._reports(self._keys.rebuilds)

    async def _reports(self, key: str) -> dict[str, dict[str, Any]]:
        async with redis_errors():
            found: dict[bytes, bytes] = await self._client.hgetall(key)
        return {tenant.decode(): msgspec.json.decode(value) for tenant, value in found.items()}
