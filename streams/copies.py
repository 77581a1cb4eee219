"""Events of which another record with their identity was counted: history must not store them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, Protocol

from store.counters import Duplicates, Generation
from store.identity_owners import partition_owners
from store.records import SourcedEvent
from streams.aggregate import by_slot, identities_of, identity_of
from streams.retry import retry

#: Identities whose owner is asked for at once: about 1 ms of Redis.
ASKED_AT_ONCE: Final = 500


class IdentityOwners(Protocol):
    """What is asked of the counters; see `store.counters.CounterStore`."""

    async def generation(self, tenant: str) -> Generation | None:
        """Return the tenant's active generation, or None if it has none."""
        ...

    async def owned_by_others(self, tenant: str, identities: Sequence[Any]) -> Sequence[int]:
        """Return the indexes of the identities of which another record was counted."""
        ...


async def copies_among(
    store: IdentityOwners,
    tenant: str,
    topic_id: str,
    partition: int,
    events: Sequence[SourcedEvent],
) -> set[int]:
    """Return the offsets of those of the tenant's events of which another record was counted.

    Waits while the counters do not answer.
    """
    owners = partition_owners(topic_id, partition)
    ordered = by_slot(events)
    copies: set[int] = set()
    for first in range(0, len(ordered), ASKED_AT_ONCE):
        part = ordered[first : first + ASKED_AT_ONCE]
        identities = identities_of(part, owners)
        indexes = await retry("counters", store.owned_by_others, tenant, identities)
        copies.update(part[index].offset for index in indexes)
    return copies


class CopySearch:
    """What one commit learns of the copies among its events."""

    def __init__(
        self,
        store: IdentityOwners,
        tenant: str,
        topic_id: str,
        partition: int,
        stored_offset: int,
    ) -> None:
        """`stored_offset`: history's watermark. It may lack events below, and gets no other chance.

        So a copy of one of these is left to history, which has each identity once.
        """
        self.owners = partition_owners(topic_id, partition)._replace(first_offset=stored_offset)
        self.counted: set[bytes] = set()
        """Identities that the generation has counted before."""
        self._passed: list[SourcedEvent] = []
        self._undecided: set[bytes] = set()
        self._ask = store, tenant, topic_id, partition

    def begin(self, counted: set[bytes]) -> None:
        """Begin with a generation that has surely counted these identities."""
        self.counted, self._undecided = counted, set()

    def pass_over(self, events: Iterable[SourcedEvent], watermark: int) -> None:
        """Ask the store later which of the events below the watermark were counted."""
        first = self.owners.first_offset
        self._passed += [e for e in events if first <= e.offset < watermark]

    def owned(self, batch: Sequence[SourcedEvent]) -> Sequence[SourcedEvent]:
        """Return the events of a commit whose copies history must not store."""
        first = self.owners.first_offset
        if all(e.offset >= first for e in batch):
            return batch
        self._undecided |= {identity_of(e.event) for e in batch if e.offset < first}
        return [e for e in batch if e.offset >= first]

    def note(self, batch: Sequence[SourcedEvent], answer: Duplicates) -> None:
        """Note the refusal of a batch."""
        self.counted |= {identity_of(batch[index].event) for index in answer.indexes}
        self._undecided |= {identity_of(batch[index].event) for index in answer.undecided}

    async def offsets(self, dropped: Iterable[SourcedEvent] = ()) -> set[int]:
        """Return the offsets of all copies; `dropped` were left out as they are in `counted`.

        Without those whose owner is not known, or may be the event itself.
        """
        others = {e.offset for e in dropped if identity_of(e.event) not in self._undecided}
        return others | await copies_among(*self._ask, self._passed)
