"""Counters of an older format: rebuilt by the workers of a newer version, beside what is there."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol

from store.logs import get_logger
from streams.rebuild import Failure, Options, RebuildError, RebuildResult
from streams.rebuild.results import Refused
from streams.rollover import turn_order

logger = get_logger("outdated")

#: Tenants that are rebuilt together, in the memory of a worker.
TENANTS_AT_ONCE: Final = 10


class OutdatedView(Protocol):
    """What is asked of the counters."""

    async def tenants(self) -> Sequence[str]:
        """Return the tenants that have counters. Raises StoreUnavailable."""
        ...

    async def outdated(self, tenants: Sequence[str]) -> list[str]:
        """Return those whose counters have an older format. Raises StoreUnavailable."""
        ...


class Rebuilds(Protocol):
    """What rebuilds counters: `streams.rebuild.Rebuilder`."""

    def rebuild(
        self, tenants: Sequence[str], options: Options
    ) -> AsyncIterator[RebuildResult | Failure]:
        """Rebuild the counters of `tenants` and yield the outcome of each."""
        ...


class OutdatedCounters:
    """Rebuilds outdated counters. Every worker may run it: a rebuild has a lease."""

    def __init__(
        self,
        counters: OutdatedView,
        open_rebuilder: Callable[[], AbstractAsyncContextManager[Rebuilds]],
        *,
        worker: str = "",
    ) -> None:
        """Open nothing yet. The rebuilder has connections of its own, while it is needed.

        `worker` names this worker: each one begins with other tenants.
        """
        self._counters = counters
        self._open_rebuilder = open_rebuilder
        self._worker = worker
        self._failed: set[str] = set()
        self._done = False

    async def rebuild(self) -> None:
        """Rebuild what is outdated; call this every minute. Raises StoreUnavailable.

        Where Kafka does not answer, the next call tries again. A tenant whose rebuild fails is left
        to an operator, who finds it in `status`. Once nothing is outdated, nothing becomes so but
        by a rollback, which an operator wants.
        """
        if self._done:
            return
        found = set(await self._counters.outdated(await self._counters.tenants()))
        outdated = turn_order(found - self._failed, self._worker)
        self._done = not outdated
        if not outdated:
            return
        logger.warning("counters of an older version are rebuilt", tenants=len(outdated))
        async with self._open_rebuilder() as rebuilder:
            for first in range(0, len(outdated), TENANTS_AT_ONCE):
                # Asked again, as other workers rebuild, too.
                part = await self._counters.outdated(outdated[first : first + TENANTS_AT_ONCE])
                try:
                    async for outcome in rebuilder.rebuild(part, Options()):
                        self._note(outcome)
                except RebuildError as error:
                    logger.warning(
                        "counters of an older version wait to be rebuilt", error=str(error)
                    )
                    return

    def _note(self, outcome: RebuildResult | Failure) -> None:
        if isinstance(outcome, Refused):
            return  # another worker does it
        if isinstance(outcome, Failure):
            self._failed.add(outcome.tenant)
            logger.error(
                "counters of an older version were not rebuilt",
                tenant=outcome.tenant,
                error=outcome.reason,
            )
        else:
            logger.info("counters of an older version were rebuilt", tenant=outcome.tenant)
