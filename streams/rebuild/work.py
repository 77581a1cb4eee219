"""What a rebuild keeps of one tenant, from its plan to its swap."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping

from store.counters import Generation, Source
from store.records import Event
from store.shards import Layout, Shard, is_shard
from streams.rebuild.builder import Builder
from streams.rebuild.identities import SeenIdentities
from streams.rebuild.late import SinceSums
from streams.rebuild.sums import EventSums


@dataclasses.dataclass
class Work:
    """One tenant whose new generation is being built, or one of its shards."""

    tenant: str
    shard: Shard
    types: Collection[str]
    """Keys of its outcome types."""
    active: Generation | None
    """The generation that answers meanwhile."""
    active_events: int | None
    """Its events, of all its shards, when the rebuild began; None = unknown."""
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
    shards: list[Work] = dataclasses.field(default_factory=list)
    """Of the work of shard 0: those of all shards, itself the first one."""

    @property
    def name(self) -> str:
        """The name of the shard."""
        return self.builder.tenant

    @property
    def layout(self) -> Layout:
        """The shards of the new generation; only of the work of shard 0."""
        return Layout(self.tenant, self.builder.generation.number, self.shard.shards)


class Works(dict[str, Work]):
    """Name of a shard -> its work, for all shards of some tenants."""

    def of(self, event: Event) -> Work | None:
        """Return the work that an event belongs to, if its tenant is rebuilt."""
        work = self.get(event.tenant)
        if work is None or work.shard.shards == 1:
            return work
        return self[work.layout.name_of(event.customer)]

    @property
    def tenants(self) -> dict[str, Work]:
        """Tenant -> work of its shard 0."""
        return {name: work for name, work in self.items() if not is_shard(name)}
