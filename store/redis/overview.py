"""State of the counters of all tenants, for `status`, in few round trips."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from store.counters import TenantOverview
from store.records import GROUPINGS
from store.redis.client import redis_errors
from store.redis.keys import GROUPING_CODES, Keys
from store.redis.old_generations import TENANTS_PER_CALL, generation_state

#: How many of a tenant's last numbers are looked at, beside the active one.
NUMBERS_MAX: Final = 10


async def overview(client: Any, keys: Keys) -> list[TenantOverview]:
    """Return the state of every tenant's generations, sorted. Raises StoreUnavailable.

    Takes two round trips per `TENANTS_PER_CALL` tenants.
    """
    async with redis_errors():
        tenants = sorted(tenant.decode() for tenant in await client.smembers(keys.tenants))
        found: list[TenantOverview] = []
        for first in range(0, len(tenants), TENANTS_PER_CALL):
            found += await _overview(client, keys, tenants[first : first + TENANTS_PER_CALL])
    return found


async def _overview(client: Any, keys: Keys, tenants: Sequence[str]) -> list[TenantOverview]:
    pipeline = client.pipeline(transaction=False)
    for tenant in tenants:
        pipeline.get(keys.active(tenant))
        pipeline.get(keys.last(tenant))
    answers = await pipeline.execute()
    active = {
        tenant: int(number)
        for tenant, number in zip(tenants, answers[::2], strict=True)
        if number is not None
    }
    last = {t: int(number or 0) for t, number in zip(tenants, answers[1::2], strict=True)}
    numbers = {
        tenant: sorted({number, *range(max(1, last[tenant] - NUMBERS_MAX + 1), last[tenant] + 1)})
        for tenant, number in active.items()
    }
    pipeline = client.pipeline(transaction=False)
    for tenant, number in active.items():
        for each in numbers[tenant]:
            pipeline.hgetall(keys.meta(tenant, each))
        for grouping in GROUPINGS:
            pipeline.zcard(keys.rank(tenant, number, grouping, "a"))
    answers = iter(await pipeline.execute() if active else ())
    found = []
    for tenant, number in active.items():
        metas = {each: next(answers) for each in numbers[tenant]}
        groups = {grouping: int(next(answers)) for grouping in GROUPINGS}
        meta = metas[number]
        if b"day" not in meta:
            continue
        found.append(
            TenantOverview(
                tenant=tenant,
                generation=number,
                complete=meta[b"complete"] == b"1",
                day=int(meta[b"day"]),
                rolled=int(meta[b"rolled"]),
                timezone=meta[b"timezone"].decode(),
                groups=groups,
                overflow={
                    grouping: int(meta[field])
                    for grouping in GROUPINGS
                    if (field := f"over:{GROUPING_CODES[grouping]}".encode()) in meta
                },
                generations=[
                    generation_state(each, fields, is_active=each == number)
                    for each, fields in metas.items()
                    if b"day" in fields
                ],
            )
        )
    return found
