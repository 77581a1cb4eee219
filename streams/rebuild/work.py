"""What a rebuild keeps of one tenant, from its plan to its swap."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping

from store.counters import Generation, Source
from streams.rebuild.builder import Builder
from streams.rebuild.identities import SeenIdentities
from streams.rebuild.late import SinceSums
from streams.rebuild.sums import EventSums


@dataclasses.dataclass
class Work:
    """One tenant whose new generation is being built."""

    tenant: str
    types: Collection[str]
    """Keys of its outcome types."""
    active: Generation | None
    """The generation that answers meanwhile."""
    active_events: int | None
    """Its events when the rebuild began; None = unknown."""
    builder: Builder
    starts: Mapping[int, int]
    """Partition -> where the topic is read from."""
    given_up: Collection[Source]
    """Sources with offsets that nobody has any more."""
    slots: set[int] = dataclasses.field(default_factory=set)
    """Slots of arrival whose identities the active generation remembers. Records with producers'
    timestamps, of a backfill say, may be older than the horizon, and have copies all the same."""
    rows: int = 0
    """Events taken from history."""
    sums: EventSums | None = None
    """Sums of the topic's records that are not written yet."""
    seen: SeenIdentities | None = None
    """Identities of the topic's records, and of rows shortly before them."""
    since: SinceSums | None = None
    """Set if the days before one are taken over: decides about the topic's records."""
    notes: list[str] = dataclasses.field(default_factory=list)
    """For the operator, beside the numbers."""
