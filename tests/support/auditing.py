"""Audits on the stores of one test, and what Redis holds, to see what a repair changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from store.postgres.audit import AuditedHistory
from store.redis.audit import AuditedCounters
from streams.audit.auditor import Auditor, TenantAudit, make_auditor
from streams.audit.segment import Comparer
from tests.support.events import NOW_MS
from tests.support.stores import Stores


def auditor_of(
    stores: Stores,
    *,
    now_ms: Callable[[], int] = lambda: NOW_MS,
    timezone: str = "UTC",
    wait_s: float = 10.0,
) -> Auditor:
    async def timezone_of(tenant: str) -> str:
        return timezone

    return make_auditor(
        AuditedCounters(stores.client, "is"),
        AuditedHistory(stores.pool),
        timezone_of=timezone_of,
        now_ms=now_ms,
        wait_s=wait_s,
        pause_s=0.01,
    )


def comparer_of(stores: Stores, *, counters: AuditedCounters) -> Comparer:
    async def timezone_of(tenant: str) -> str:
        return "UTC"

    return Comparer(
        counters,
        AuditedHistory(stores.pool),
        timezone_of=timezone_of,
        now_ms=lambda: NOW_MS,
        wait_s=10.0,
    )


def cells_of(audit: TenantAudit) -> list[tuple[Any, ...]]:
    """Return the differing cells: grouping, id, period, column, counters, history."""
    return [(d.grouping, d.id, *cell) for d in audit.differing for cell in d.cells]


async def dump_all(client: Any, prefix: str = "is") -> dict[bytes, bytes]:
    """Return all keys with their serialized values."""
    keys = sorted([key async for key in client.scan_iter(f"{prefix}:*")])
    return {key: await _contents(client, key) for key in keys}


async def _contents(client: Any, key: bytes) -> Any:
    """Return all of a key, without the stamps of a generation, which a repair sets.

    The order in which Redis 7.0 dumps a set has no meaning, and changes.
    """
    if key.endswith(b":meta"):
        fields = await client.hgetall(key)
        return {name: fields[name] for name in fields if name not in (b"stamp", b"stamp_u")}
    if await client.type(key) == b"set":
        return sorted(await client.smembers(key))
    return await client.dump(key)
