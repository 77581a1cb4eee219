"""The sampled audit that workers make from time to time, of one tenant each time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from store import metrics
from store.audit import AuditNote
from store.logs import get_logger
from store.postgres.audit import AuditedHistory
from store.postgres.pool import Pool
from store.records import StoreUnavailable
from store.redis.audit import AuditedCounters
from store.redis.client import Client
from store.redis.reports import RedisReports
from store.settings import Settings
from streams.audit.auditor import TenantAudit
from streams.audit.shards import TenantAuditor, make_tenant_auditor

logger = get_logger("audit")

#: Groups of each grouping: history looks for their rows of 31 days by its time index.
SAMPLE: Final = 20
#: Bound of one statement of history; such an audit reads while events are being stored.
STATEMENT_TIMEOUT_MS: Final = 60_000
#: A worker looks so often whether an audit is due, and at the results of other workers.
CHECK_S: Final = 60.0
#: Cells of the log line.
_SHOWN: Final = 5


class PeriodicAudit:
    """Audits the tenants in turn. Of all workers, one does it at a time."""

    def __init__(
        self,
        auditor: TenantAuditor,
        counters: AuditedCounters,
        reports: RedisReports,
        *,
        every_s: float,
        now_ms: Callable[[], int],
    ) -> None:
        self.auditor = auditor
        self._counters = counters
        self._reports = reports
        self._every_ms = int(every_s * 1_000)
        self._now_ms = now_ms
        self.check_s = min(every_s, CHECK_S) or CHECK_S
        """Seconds between two calls of `audit_next`."""

    async def audit_next(self) -> None:
        """Audit the tenant whose last audit is the oldest, if this worker is the first to ask.

        Raises StoreUnavailable if Redis does not answer. If Postgres does not, the turn is skipped.
        """
        tenants = await self._counters.tenants()
        audits = await self._reports.audits()
        _show(audits)
        if not self._every_ms or not tenants or not await self._counters.take_turn(self._every_ms):
            return
        tenant = min(tenants, key=lambda t: (audits[t].at_ms if t in audits else 0, t))
        audit = await self._audit(tenant)
        if (await self._reports.audits()).get(tenant) != audits.get(tenant):
            return  # audited or repaired meanwhile: what was found here may be over
        note = audit.note("worker", previous=audits.get(tenant))
        await self._reports.note_audit(tenant, note)
        metrics.AUDITS.labels("drift" if audit.differing else note.result).inc()
        _show({**audits, tenant: note})
        if audit.differing:
            logger.error(
                "counters differ from history",
                tenant=tenant,
                groups=len(audit.differing),
                cells=audit.cells,
                first=[
                    f"{d.grouping} {d.id} {c.period} {c.column}: {c.counters}, not {c.history}"
                    for d in audit.differing
                    for c in d.cells
                ][:_SHOWN],
            )
        else:
            logger.info("audited", tenant=tenant, groups=audit.groups, skipped=note.reason)

    async def _audit(self, tenant: str) -> TenantAudit:
        """Audit a sample of the tenant; if a store does not answer, that is the result."""
        try:
            return await self.auditor.audit(tenant, sample=SAMPLE, recent=True)
        except StoreUnavailable as error:
            return TenantAudit(
                tenant=tenant,
                generation=None,
                at_ms=self._now_ms(),
                duration_s=0.0,
                sample=SAMPLE,
                groups=0,
                differing=(),
                notes=[str(error)],
            )


def make_periodic_audit(
    settings: Settings,
    client: Client,
    pool: Pool,
    *,
    timezone_of: Callable[[str], Awaitable[str]],
    now_ms: Callable[[], int],
) -> PeriodicAudit:
    """Return the periodic audit of a worker, on the worker's connections."""
    counters = AuditedCounters(
        client, settings.redis_prefix, groups_max=settings.keys_per_grouping_max
    )
    history = AuditedHistory(pool, statement_timeout_ms=STATEMENT_TIMEOUT_MS)
    return PeriodicAudit(
        make_tenant_auditor(counters, history, timezone_of=timezone_of, now_ms=now_ms),
        counters,
        RedisReports(client, settings.redis_prefix),
        every_s=settings.audit_every_s,
        now_ms=now_ms,
    )


def _show(audits: Mapping[str, AuditNote]) -> None:
    metrics.AUDIT_DRIFT_CELLS.set(sum(note.cells for note in audits.values()))
