"""What any counter store must offer: the shapes of a commit, and the protocol.

The rules that every implementation keeps, and that the contract suite holds it to: deltas and the
watermark they bring change together or not at all; a writer whose generation, window day or
watermark is not the store's is refused with the true ones; an identity counts once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from store.records import CounterReader, Grouping


class Deltas(NamedTuple):
    """The sums of a batch, in the form that a commit sends. All lists are flat, to be cheap."""

    types: Sequence[str] = ()
    """Outcome type keys; the deltas below name them by place."""
    identities: Sequence[Any] = ()
    """slot, identities end to end as bytes, slot, ...: see `streams.aggregate.identity_of`."""
    actions: Sequence[Any] = ()
    """id, [day, type, count, ...] in order of day, id, ..."""
    treatments: Sequence[Any] = ()
    channels: Sequence[Any] = ()
    customers: Sequence[Any] = ()
    """id, [day, type, count, ...], [offer id, day, ...], id, ..."""


class Position(NamedTuple):
    """A place in the log: the next offset of one partition, of one log (topic id)."""

    topic_id: str
    partition: int
    offset: int


class Generation(NamedTuple):
    """What a writer must know, and believe rightly, of a tenant's generation."""

    tenant: str
    number: int
    day: int
    """The window day: the day that the windows end with."""
    timezone: str
    complete: bool
    """Whether it counted everything there is; only then it answers questions."""
    rolled: int | None = None
    """The last day whose due records are all rolled; behind `day` while a roll is under way."""
    build_token: str = ""
    """Set where this is a generation being built beside the active one."""


class Committed(NamedTuple):
    """The batch is counted."""

    over: Sequence[tuple[Grouping, int]] = ()
    """Interactions of groups beyond the limit of their grouping, which count as one group."""


class Duplicates(NamedTuple):
    """Nothing changed: these identities (by place in the batch) are counted already."""

    places: Sequence[int]


class Refused(NamedTuple):
    """Nothing changed: the store's true values. `generation` None: the tenant has none."""

    generation: int | None
    day: int | None
    watermark: int | None


class Rolled(NamedTuple):
    day: int
    finished: bool
    records: int


class TenantOverview(NamedTuple):
    tenant: str
    generation: int
    complete: bool
    day: int
    rolled: int
    """The last day whose due records are all rolled; behind `day` while a roll runs."""
    timezone: str
    groups: Mapping[Grouping, int]
    """Groups ever seen, per grouping."""
    over: Mapping[Grouping, int] = {}
    """Interactions of groups beyond the limit, per grouping that has some: history answers it."""


class Visible(NamedTuple):
    """From arrival in Kafka to count, of the events counted last: half of them took no longer than
    `p50_ms`, and so on."""

    p50_ms: int
    p99_ms: int
    max_ms: int


class PartitionProgress(NamedTuple):
    topic_id: str
    partition: int
    next_offset: int
    end_offset: int | None
    at_ms: int
    visible: Visible | None = None
    """None = no event arrived and was counted lately."""


class LogChange(NamedTuple):
    kind: str
    """recreated | cut"""
    topic_id: str
    at_ms: int


class Incidents(NamedTuple):
    lost_offsets: int
    """Offsets that retention took before they were counted."""
    log_changes: Sequence[LogChange]


class CounterStore(CounterReader, Protocol):
    async def generation(self, tenant: str) -> Generation | None: ...

    async def tenants(self) -> Sequence[str]: ...

    async def refused(self, tenants: Sequence[str], tenants_max: int) -> Sequence[str]:
        """Of these tenants those that shall have no counters, as there are `tenants_max` others.
        The room for those that are not refused is theirs from now on."""
        ...

    async def create(
        self,
        tenant: str,
        *,
        day: int,
        timezone: str,
        complete: bool,
        watermarks: Sequence[Position],
    ) -> Generation:
        """Creates the tenant's first generation; where one exists, answers with that one."""
        ...

    async def build(
        self,
        tenant: str,
        *,
        day: int,
        timezone: str,
        token: str,
        watermarks: Sequence[Position],
    ) -> Generation:
        """A new generation beside the active one. Only a writer with its token can change it, and
        no reader sees it before `swap`."""
        ...

    async def swap(self, building: Generation) -> bool:
        """Makes a generation that was being built the active one, complete, in one step; the one
        before stays for `rollback`. False: it is not being built (any more)."""
        ...

    async def rollback(self, tenant: str) -> int | None:
        """Makes the generation before the active one active again; its number, or None where
        there is none."""
        ...

    async def drop(self, generation: Generation) -> None:
        """Deletes a generation that is not active, in bounded steps."""
        ...

    async def mark_complete(self, generation: Generation) -> None: ...

    async def watermarks(self, generation: Generation, topic_id: str) -> Mapping[int, int]:
        """Partition -> next offset to count."""
        ...

    async def first_watermarks(self, generation: Generation, topic_id: str) -> Mapping[int, int]:
        """Partition -> the watermark that the generation was created with."""
        ...

    async def note_lost(self, topic_id: str, partition: int, first: int, offsets: int) -> None:
        """Remembers that `offsets` offsets from `first` on were gone before they were counted."""
        ...

    async def last_lost(self, topic_id: str) -> Mapping[int, int]:
        """Partition -> the highest `first` that was noted of it; those without a loss left out."""
        ...

    async def commit(
        self,
        generation: Generation,
        *,
        topic_id: str,
        partition: int,
        expected_offset: int | None,
        next_offset: int,
        deltas: Deltas,
    ) -> Committed | Duplicates | Refused: ...

    async def roll(
        self, generation: Generation, target_day: int, *, now_ms: int, records_max: int
    ) -> Rolled | Refused: ...

    async def overview(self) -> Sequence[TenantOverview]:
        """Every tenant's generation at a glance."""
        ...
