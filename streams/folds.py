"""When pending deltas are folded: see ADR 0019.

While records wait, a commit leaves the deltas of actions, treatments and channels pending, and
those of many batches are folded at once. Without a backlog, commits that follow each other closely
do the same, and a fold follows within FOLD_EVERY_S.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from collections.abc import Callable, Collection
from typing import Final

from store.counters import Committed, CounterStore, Generation
from streams.retry import retry

#: Events that may be pending for a tenant: their sums are a few ms of Redis.
PENDING_EVENTS_MAX: Final = 5_000
#: Time after which they are folded although more records wait. Of a tenant with few events each
#: fold costs Redis as much as the commits since the one before.
PENDING_MAX_S: Final = 20.0
#: Without a backlog: time from one change of a tenant's groups to the next, and how often a worker
#: folds. It adds as much to the time until an event is visible, at most.
FOLD_EVERY_S: Final = 0.05
#: Longest time that the fold of one tenant takes from those of others, whose nodes answer.
FOLD_TIMEOUT_S: Final = 5.0
#: Tenants that are folded at once, each with a connection of its own.
FOLDS_MAX: Final = 16
#: Calls for one tenant, of a few ms: another worker may add to it all the time.
CALLS_MAX: Final = 50


@dataclasses.dataclass
class Pending:
    """What a generation has yet to fold, as far as this worker knows."""

    since_s: float
    is_due: bool = False
    """Whether `fold_due` folds it."""
    is_stuck: bool = False
    """Whether a fold got no answer in time: `fold_old` tries again, and delays no other."""
    on_folded: list[Callable[[], None]] = dataclasses.field(default_factory=list)
    """Called once the events are in all groupings."""


class Folds:
    """The generations with pending deltas that this worker knows. For one event loop."""

    def __init__(
        self,
        store: CounterStore,
        on_answer: Callable[[str, Committed], None],
        monotonic_s: Callable[[], float],
        *,
        every_s: float = 0,
    ) -> None:
        """`on_answer` is called with the tenant and the answer of each fold.

        `every_s`: FOLD_EVERY_S, where `fold_due` is called as often; or 0: without a backlog,
        each commit changes its groups, and what is pending is folded at once.
        """
        self._store = store
        self._on_answer = on_answer
        self._monotonic_s = monotonic_s
        self._every_s = every_s
        self._pending: dict[Generation, Pending] = {}
        self._changed_s: dict[Generation, float] = {}
        """Generation -> time when its groups were changed, of the last `every_s`."""
        self._calls = asyncio.Semaphore(FOLDS_MAX)
        self._in_flight: Counter[Generation] = Counter()
        self._none_in_flight = asyncio.Event()
        self._none_in_flight.set()

    def is_soon(self, generation: Generation) -> bool:
        """Return whether the groups were changed a moment ago, so that a commit leaves them."""
        changed_s = self._changed_s.get(_key(generation))
        return changed_s is not None and self._monotonic_s() < changed_s + self._every_s

    async def after_commit(
        self,
        generation: Generation,
        pending: int,
        on_visible: Callable[[], None],
        *,
        more: bool,
    ) -> None:
        """Note what a commit has left pending; fold it soon unless `more` records wait.

        At once where too much is pending. `on_visible` is called when the events of the commit are
        in all groupings; while more records wait, now: the lag says what is lacking.
        """
        generation = _key(generation)
        if not pending:
            self._note_changed(generation)
            on_visible()
            return
        of_generation = self._note(generation)
        if more:
            on_visible()
        else:
            of_generation.on_folded.append(on_visible)
        if pending >= PENDING_EVENTS_MAX:
            await self._fold(generation)
        elif not more:
            await self._fold_soon([generation])

    def note_found(self, generation: Generation, pending: int) -> None:
        """Note what was pending when the generation was read: of another worker, say."""
        if pending:
            self._note(_key(generation)).is_due = True

    async def end_backlog(self) -> None:
        """Have all folded that is pending: no more records wait."""
        await self._fold_soon(list(self._pending))

    async def fold_all(self) -> None:
        """Fold all that is pending, after the folds that have begun: they may not be the end."""
        await self._none_in_flight.wait()
        await asyncio.gather(*(self._fold(generation) for generation in list(self._pending)))

    async def fold_due(self) -> None:
        """Fold what is due. To be called every `every_s`."""
        due = [
            generation
            for generation, each in self._pending.items()
            if each.is_due and not each.is_stuck and generation not in self._in_flight
        ]
        await asyncio.gather(*(self._fold_within_limit(generation) for generation in due))
        now_s = self._monotonic_s()
        self._changed_s = {g: s for g, s in self._changed_s.items() if now_s < s + self._every_s}

    async def fold_old(self) -> None:
        """Fold what is pending for longer than PENDING_MAX_S, or got no answer."""
        old_s = self._monotonic_s() - PENDING_MAX_S
        old = [
            generation
            for generation, each in self._pending.items()
            if each.is_stuck or each.since_s <= old_s
        ]
        await asyncio.gather(*(self._fold_within_limit(generation) for generation in old))

    def _note(self, generation: Generation) -> Pending:
        return self._pending.setdefault(generation, Pending(self._monotonic_s()))

    def _note_changed(self, generation: Generation) -> None:
        if self._every_s:
            self._changed_s[generation] = self._monotonic_s()

    async def _fold_soon(self, generations: Collection[Generation]) -> None:
        if not self._every_s:
            await asyncio.gather(*(self._fold(generation) for generation in generations))
            return
        for generation in generations:
            self._note(generation).is_due = True

    async def _fold_within_limit(self, generation: Generation) -> None:
        """Fold, but not for longer than FOLD_TIMEOUT_S."""
        try:
            await self._fold(generation, timeout_s=FOLD_TIMEOUT_S)
        except TimeoutError:
            self._note(generation).is_stuck = True

    async def _fold(self, generation: Generation, *, timeout_s: float | None = None) -> None:
        """Fold until nothing is pending; what a commit adds meanwhile is noted by that commit."""
        folded = self._pending.pop(generation, None)
        if folded is None:
            return
        pending = 1  # until it is known, also where this is cancelled
        self._in_flight[generation] += 1
        self._none_in_flight.clear()
        try:
            # The time that it waits for others is no part of the limit: it would never have a turn.
            async with self._calls, asyncio.timeout(timeout_s):
                for _ in range(CALLS_MAX):
                    answer = await retry("counters", self._store.fold, generation)
                    pending = answer.pending
                    self._on_answer(generation.tenant, answer)
                    if not pending:
                        break
        finally:
            self._in_flight[generation] -= 1
            if not self._in_flight[generation]:
                del self._in_flight[generation]
            if not self._in_flight:
                self._none_in_flight.set()
            if pending:
                noted = self._note(generation)
                noted.is_due = True
                noted.on_folded[:0] = folded.on_folded
        if not pending:
            self._note_changed(generation)
            for on_folded in folded.on_folded:
                on_folded()


def _key(generation: Generation) -> Generation:
    """Return the generation without what changes during its life."""
    return generation._replace(day=0, complete=False, rolled=None)
