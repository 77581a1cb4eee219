"""What the counters say besides a commit: what is beyond a limit, and damage."""

from __future__ import annotations

from store import metrics
from store.counters import Committed
from store.logs import get_logger

logger = get_logger("commit")


class CommitReports:
    """Counts what is beyond a limit; logs each tenant and subject once."""

    def __init__(self) -> None:
        self._logged: set[tuple[str, str]] = set()

    def clear(self) -> None:
        """Forget what was logged: a new read session logs it again."""
        self._logged.clear()

    def report(self, tenant: str, answer: Committed) -> None:
        """Report what a commit or a fold has counted as OTHER, not remembered, or damaged."""
        for limited, n in answer.overflow:
            metrics.OVER_LIMIT.labels(limited).inc(n)
            if not self._is_new(tenant, limited):
                continue
            if limited == "customer_offers":
                logger.warning(
                    "too many offers of a customer: further offers are not remembered, and history "
                    "answers for customers until OFFERS_PER_CUSTOMER_MAX is raised and the "
                    "counters are rebuilt",
                    tenant=tenant,
                )
            else:
                logger.warning(
                    "too many groups: new groups are counted as one, and history answers for this "
                    "grouping until KEYS_PER_GROUPING_MAX is raised and the counters are rebuilt",
                    tenant=tenant,
                    grouping=limited,
                )
        if answer.damaged and self._is_new(tenant, answer.damaged):
            logger.error(
                "counters of a tenant are damaged: a script failed half-way; history answers until "
                "`interaction-summary rebuild`",
                tenant=tenant,
                cause=answer.damaged,
            )

    def _is_new(self, tenant: str, subject: str) -> bool:
        if (tenant, subject) in self._logged:
            return False
        self._logged.add((tenant, subject))
        return True
