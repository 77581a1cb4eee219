"""Audits on the stores of one test, and what Redis holds, to see what a repair changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from store.postgres.audit import AuditedHistory
from store.redis.audit import AuditedCounters
from streams.audit.auditor import Auditor, TenantAudit, make_auditor
from tests.support.events import NOW_MS
from tests.support.stores import Stores


def auditor_of(
    stores: Stores,
    *,
    now_ms: Callable[[], int] = lambda: NOW_MS,
    timezone: str = "UTC",
    wait_s: float = 10.0,
    counters: AuditedCounters | None = None,
) -> Auditor:
    async def timezone_of(tenant: str) -> str:
        return timezone

    counters = counters or AuditedCounters(stores.client, "is")
    return make_auditor(
        counters,
        AuditedHistory(stores.pool),
        timezone_of=timezone_of,
        now_ms=now_ms,
        wait_s=wait_s,
        pause_s=0.01,
    )


def cells_of(audit: TenantAudit) -> list[tuple[Any, ...]]:
    """Return the differing cells: grouping, id, period, column, counters, history."""
    return [(d.grouping, d.id, *cell) for d in audit.differing for cell in d.cells]


async def dump_all(client: Any, prefix: str = "is") -> dict[bytes, bytes]:
    """Return all keys with their serialized values."""
    keys = sorted([key async for key in client.scan_iter(f"{prefix}:*")])
    return {key: await client.dump(key) for key in keys}
