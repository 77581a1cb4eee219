"""State of the counters of all tenants, for `status`, in few round trips."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from store.counters import GenerationState, Limited, Missing, Shortfall, Source, TenantOverview
from store.records import GROUPINGS
from store.redis.active import TENANTS_PER_CALL
from store.redis.client import redis_errors
from store.redis.keys import LIMITED_CODES, Keys
from store.redis.old_generations import generation_state
from store.redis.ranks import unranked_of
from store.shards import Layout
from store.windows import Period

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
        return [
            _joined(each, await _shards(client, keys, each)) if each.shards > 1 else each
            for each in found
        ]


async def _shards(client: Any, keys: Keys, tenant: TenantOverview) -> list[TenantOverview]:
    """Return the state of the tenant's shards other than shard 0, those that there are."""
    names = Layout(tenant.tenant, tenant.generation, tenant.shards).others
    return await _overview(client, keys, names)


def _joined(tenant: TenantOverview, others: Sequence[TenantOverview]) -> TenantOverview:
    """Return the state of a tenant, given that of shard 0 and of the others."""
    shards = [tenant, *others]
    overflow: Counter[Limited] = Counter()
    for each in shards:
        overflow.update(each.overflow)
    groups = {g: max(each.groups[g] for each in shards) for g in GROUPINGS}
    groups["customer"] = sum(each.groups["customer"] for each in shards)
    active = [each for shard in shards for each in shard.generations if each.active]
    whole = len(shards) == tenant.shards and all(each.complete for each in shards)
    return tenant._replace(
        complete=whole,
        day=min(each.day for each in shards),
        rolled=min(each.rolled for each in shards),
        groups=groups,
        overflow=dict(overflow),
        unranked=frozenset[Period]().union(*(each.unranked for each in shards)),
        generations=[
            _joined_generation(each, active, whole) if each.active else each
            for each in tenant.generations
        ],
    )


def _joined_generation(
    generation: GenerationState, shards: Sequence[GenerationState], whole: bool
) -> GenerationState:
    """Return the state of the active generation, given those of all its shards."""
    missing = [each.missing for each in shards]
    behind: dict[Source, Shortfall] = {}
    for each in sorted(each for of in missing for each in of.behind):
        behind.setdefault(each.source, each)  # the lowest watermark
    events = [each.events or 0 for each in shards]
    return generation._replace(
        complete=whole,
        events=None if generation.events is None else sum(events),
        missing=Missing(
            behind=list(behind.values()),
            gaps=sorted({gap for of in missing for gap in of.gaps}),
            unproven=any(of.unproven for of in missing) or len(shards) < generation.shards,
            evicted=any(of.evicted for of in missing),
            damaged=next((of.damaged for of in missing if of.damaged), ""),
            outdated=any(of.outdated for of in missing),
            unsettled=any(of.unsettled for of in missing),
        ),
    )


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
                    limited: int(meta[field])
                    for limited, code in LIMITED_CODES.items()
                    if (field := f"over:{code}".encode()) in meta
                },
                generations=[
                    generation_state(each, fields, is_active=each == number)
                    for each, fields in metas.items()
                    if b"day" in fields
                ],
                shards=int(meta.get(b"shards", 1)),
                unranked=unranked_of(meta),
            )
        )
    return found
