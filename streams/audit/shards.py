"""Audits of tenants, of those with several shards one shard after the other."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from store.clock import system_clock_ms
from store.postgres.audit import AuditedHistory
from store.postgres.catalog import load_catalog
from store.postgres.pool import open_pool
from store.redis.audit import AuditedCounters
from store.redis.client import open_client
from store.redis.reports import RedisReports
from store.settings import Settings
from store.shards import WHOLE, Shard
from streams.audit.auditor import PAUSE_S, WAIT_S, Auditor, Repair, TenantAudit, make_auditor


class TenantAuditor:
    """Audits and repairs of all shards of a tenant. All methods raise StoreUnavailable.

    Of a shard, its customers are compared, and what its counters have of the other groupings with
    the rows of these customers.
    """

    def __init__(self, counters: AuditedCounters, auditor_of: Callable[[Shard], Auditor]) -> None:
        """`auditor_of` returns the auditor of a shard, which reads its rows of history."""
        self._counters = counters
        self._auditor_of = auditor_of

    async def tenants(self) -> list[str]:
        """Return the tenants that have counters or a history, sorted."""
        return await self._auditor_of(WHOLE).tenants()

    async def audit(
        self,
        tenant: str,
        *,
        sample: int | None = None,
        events_max: int | None = None,
        recent: bool = False,
    ) -> TenantAudit:
        """Audit all shards of a tenant; see `Auditor.audit`. `sample` groups of each shard."""
        layout = await self._counters.layout(tenant)
        parts = []
        for index, name in enumerate(layout.names):
            auditor = self._auditor_of(Shard(index, layout.shards))
            parts.append(
                await auditor.audit(name, sample=sample, events_max=events_max, recent=recent)
            )
        return joined(parts)

    async def repair(self, audit: TenantAudit) -> Repair:
        """Correct the groups that an audit found to differ, and audit them again."""
        if not audit.shards:
            return await self._auditor_of(WHOLE).repair(audit)
        groups, again = 0, []
        for index, part in enumerate(audit.shards):
            if part.differing:
                done = await self._auditor_of(Shard(index, len(audit.shards))).repair(part)
                groups += done.groups
                again.append(done.again)
        return Repair(groups, joined(again)._replace(tenant=audit.tenant))


def joined(parts: Sequence[TenantAudit]) -> TenantAudit:
    """Return the result of a tenant, given those of its shards, shard 0 first."""
    first = parts[0]
    if len(parts) == 1:
        return first
    return first._replace(
        at_ms=max(part.at_ms for part in parts),
        duration_s=sum(part.duration_s for part in parts),
        groups=sum(part.groups for part in parts),
        differing=[each for part in parts for each in part.differing],
        notes=[f"shard {index}: {note}" for index, part in enumerate(parts) for note in part.notes],
        shards=parts,
    )


def make_tenant_auditor(
    counters: AuditedCounters,
    history: AuditedHistory,
    *,
    timezone_of: Callable[[str], Awaitable[str]],
    now_ms: Callable[[], int],
    wait_s: float = WAIT_S,
    pause_s: float = PAUSE_S,
) -> TenantAuditor:
    """Return a TenantAuditor of these stores; see `make_auditor`."""

    def auditor_of(shard: Shard) -> Auditor:
        return make_auditor(
            counters,
            history.of_shard(shard),
            timezone_of=timezone_of,
            now_ms=now_ms,
            wait_s=wait_s,
            pause_s=pause_s,
        )

    return TenantAuditor(counters, auditor_of)


@asynccontextmanager
async def open_auditor(
    settings: Settings, *, now_ms: Callable[[], int] = system_clock_ms
) -> AsyncIterator[tuple[TenantAuditor, RedisReports]]:
    """Open the stores and yield a TenantAuditor on them, and where its results are noted.

    Redis commands are not repeated: a correction that was applied twice would be wrong.
    """
    async with (
        open_client(settings, timeout_s=settings.redis_timeout_s, retries=0) as client,
        open_pool(settings, max_size=3) as pool,
    ):
        counters = AuditedCounters(
            client, settings.redis_prefix, groups_max=settings.keys_per_grouping_max
        )
        history = AuditedHistory(pool)

        async def timezone_of(tenant: str) -> str:
            return (await load_catalog(pool, tenant)).timezone

        auditor = make_tenant_auditor(counters, history, timezone_of=timezone_of, now_ms=now_ms)
        yield auditor, RedisReports(client, settings.redis_prefix)
