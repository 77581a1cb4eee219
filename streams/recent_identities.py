"""Identities that this worker has counted lately: most copies need no question to the store.

A commit with a copy is refused once, and sent again without it. A copy mostly comes soon after its
original, so a bounded memory finds it before the first call. The store decides about all others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from store.counters import Generation
from store.records import SourcedEvent
from store.windows import DAY_MS
from streams.aggregate import identity_of

#: Identities in memory, of all tenants: about 100 bytes each.
IDENTITIES_MAX: Final = 200_000
#: Tenant and number of a generation -> slot of arrival -> identities.
_Table = dict[tuple[str, int], dict[int, set[bytes]]]


class RecentIdentities:
    """Bounded memory of the identities of the current read session, per generation.

    It finds what the store would find: an identity of the same generation whose slot of arrival is
    near enough, so that the roll cannot have deleted it.
    """

    def __init__(self, slots_back: int, *, identities_max: int = IDENTITIES_MAX) -> None:
        """`slots_back`: slots in which a copy is recognised, as in the store; 0 = none."""
        self._slots_back = slots_back
        self._table_max = identities_max // 2
        self._newer: _Table = {}
        self._older: _Table = {}
        self._size = 0

    def clear(self) -> None:
        """Forget everything: another read session begins, and the store may have lost its tail."""
        self._newer, self._older, self._size = {}, {}, 0

    def known(self, generation: Generation, events: Sequence[SourcedEvent]) -> set[bytes]:
        """Return the identities of `events` that the generation has surely counted before."""
        found: set[bytes] = set()
        key = generation.tenant, generation.number
        tables = [table[key] for table in (self._newer, self._older) if key in table]
        if not tables or not events:
            return found
        slots = {e.recorded_ms // DAY_MS for e in events}
        first, last = min(slots), max(slots)
        identities = {identity_of(e.event) for e in events}
        for table in tables:
            for slot, of_slot in table.items():
                if last - self._slots_back <= slot <= first + self._slots_back:
                    found |= identities & of_slot
        return found

    def add(self, generation: Generation, events: Sequence[SourcedEvent]) -> None:
        """Remember the events of a commit of the generation."""
        if not self._slots_back or not events:
            return
        if self._size + len(events) > self._table_max:
            self._newer, self._older, self._size = {}, self._newer, 0
        of_generation = self._newer.setdefault((generation.tenant, generation.number), {})
        for event, _, recorded_ms in events:
            slot = recorded_ms // DAY_MS
            of_slot = of_generation.get(slot)
            if of_slot is None:
                of_slot = of_generation[slot] = set()
            of_slot.add(identity_of(event))
        self._size += len(events)
