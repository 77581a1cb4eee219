"""When pending deltas are folded: see ADR 0019.

While records wait, a commit leaves the deltas of actions, treatments and channels pending, and
those of many batches are folded at once. Nothing stays pending once no backlog is left.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

from store.counters import Committed, CounterStore, Generation
from streams.retry import retry

#: Events that may be pending for a tenant: their sums are a few ms of Redis.
PENDING_EVENTS_MAX: Final = 5_000
#: Time after which they are folded although more records wait. Of a tenant with few events each
#: fold costs Redis as much as the commits since the one before.
PENDING_MAX_S: Final = 20.0
#: Longest time that the fold of one tenant takes from those of others, whose nodes answer.
FOLD_TIMEOUT_S: Final = 5.0
#: Tenants that are folded at once, each with a connection of its own.
FOLDS_MAX: Final = 16
#: Calls for one tenant, of a few ms: another worker may add to it all the time.
CALLS_MAX: Final = 50


class Folds:
    """The generations with pending deltas that this worker knows. For one event loop."""

    def __init__(
        self,
        store: CounterStore,
        *,
        on_answer: Callable[[str, Committed], None],
        monotonic_s: Callable[[], float],
    ) -> None:
        """`on_answer` is called with the tenant and the answer of each fold."""
        self._store = store
        self._on_answer = on_answer
        self._monotonic_s = monotonic_s
        self._since_s: dict[Generation, float] = {}
        """Generation -> time since when something is pending."""
        self._calls = asyncio.Semaphore(FOLDS_MAX)

    async def after_commit(self, generation: Generation, pending: int, *, more: bool) -> None:
        """Note what a commit has left pending; fold it unless `more` records wait.

        Also then where too much is pending.
        """
        if not pending:
            return
        self.note(generation, pending)
        if not more or pending >= PENDING_EVENTS_MAX:
            await self._fold(generation)

    def note(self, generation: Generation, pending: int) -> None:
        """Note the number of events that are pending: of a commit, or found at the start."""
        if pending:
            self._since_s.setdefault(_key(generation), self._monotonic_s())

    async def fold_all(self) -> None:
        """Fold all that is pending."""
        await asyncio.gather(*(self._fold(generation) for generation in list(self._since_s)))

    async def fold_old(self) -> None:
        """Fold what is pending for longer than PENDING_MAX_S."""
        old_s = self._monotonic_s() - PENDING_MAX_S
        old = [generation for generation, since_s in self._since_s.items() if since_s <= old_s]
        await asyncio.gather(*(self._fold_within_limit(generation) for generation in old))

    async def _fold_within_limit(self, generation: Generation) -> None:
        """Fold, but not for longer than FOLD_TIMEOUT_S."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FOLD_TIMEOUT_S):
                await self._fold(generation)

    async def _fold(self, generation: Generation) -> None:
        """Fold until nothing is pending; what a commit adds meanwhile is noted by that commit."""
        generation = _key(generation)
        self._since_s.pop(generation, None)
        pending = 1  # until it is known, also where this is cancelled
        try:
            async with self._calls:
                for _ in range(CALLS_MAX):
                    answer = await retry("counters", self._store.fold, generation)
                    pending = answer.pending
                    self._on_answer(generation.tenant, answer)
                    if not pending:
                        return
        finally:
            self.note(generation, pending)


def _key(generation: Generation) -> Generation:
    """Return the generation without what changes during its life."""
    return generation._replace(day=0, complete=False, rolled=None)
