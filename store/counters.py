"""Contract of a counter store: the deltas of a commit, its answers, and the protocol.

Rules that every implementation keeps, checked by the contract suite: deltas and the watermark they
bring change together or not at all; a writer whose generation, window day or watermark differs from
the store's is refused and gets the stored values; an identity counts once.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

from store.offsets import Gap
from store.records import CounterReader, Grouping
from store.shards import Layout
from store.windows import Period


class Deltas(NamedTuple):
    """Sums of a commit batch in the form that a commit sends; all lists are flat, for speed."""

    types: Sequence[str] = ()
    """Outcome type keys; the deltas below name them by index."""
    identities: Sequence[Any] = ()
    """slot, concatenated entries as bytes, slot, ...: each `streams.aggregate.identity_of` and its
    owner, see `store.identity_owners`."""
    actions: Sequence[Any] = ()
    """id, [day, type, count, ...] in order of day, id, ..."""
    treatments: Sequence[Any] = ()
    channels: Sequence[Any] = ()
    customers: Sequence[Any] = ()
    """id, [day, type, count, ...], [offer id, day, ...], id, ..."""
    events: int = 0
    """Number of events."""


class Position(NamedTuple):
    """The next offset of one partition of one topic id."""

    topic_id: str
    partition: int
    offset: int


class Generation(NamedTuple):
    """State of a tenant's generation that a writer caches and sends with each commit."""

    tenant: str
    number: int
    day: int
    """The window day: the last day of all windows."""
    timezone: str
    complete: bool
    """Whether every event is counted; only a complete generation answers questions."""
    rolled: int | None = None
    """The last day whose due records are all rolled; less than `day` during a roll."""
    build_token: str = ""
    """Set while this generation is built beside the active one."""
    shards: int = 1
    """Number of the tenant's shards; 1 also in the state of a shard other than shard 0."""

    @property
    def layout(self) -> Layout:
        """The shards of this generation of a tenant."""
        return Layout(self.tenant, self.number, self.shards)


#: A partition of one incarnation of a topic: topic id, partition.
Source = tuple[str, int]


class Shortfall(NamedTuple):
    """A source in which a generation has counted less than the one that was active before."""

    source: Source
    watermark: int
    """Next offset to count."""
    target: int
    """The watermark that makes good for it."""

    @property
    def offsets(self) -> int:
        """Number of offsets that are missing."""
        return self.target - self.watermark


class Activated(NamedTuple):
    """A swap or a rollback is done; the generation is complete if it is not behind."""

    generation: int
    previous: int | None
    """The generation that was active before."""
    behind: Sequence[Shortfall]


class Behind(NamedTuple):
    """Nothing changed: the generation has not reached what the active one has counted."""

    sources: Sequence[Shortfall]


class Fewer(NamedTuple):
    """Nothing changed: the generation has fewer events, though it is not behind."""

    events: int
    active_events: int


class Missing(NamedTuple):
    """What keeps a generation from being complete. All empty: nothing does."""

    behind: Sequence[Shortfall]
    """Watermarks of the generation before that it has yet to reach."""
    gaps: Sequence[Gap]
    """Offsets that retention deleted before these counters saw them; history has them."""
    unproven: bool
    """It started empty, and does not hold all of history yet."""
    evicted: bool = False
    """Redis has evicted keys, perhaps of these counters; only a rebuild makes good for them."""
    damaged: str = ""
    """Why a script failed half-way; only a rebuild makes good for it."""
    outdated: bool = False
    """Its identities have the format of an older version: it is complete until the next event is
    counted, and workers rebuild it."""
    unsettled: bool = False
    """The shards of the generation before may have counted more; see `CounterStore.settle`."""


class GenerationState(NamedTuple):
    """State of one generation of a tenant, for `status`."""

    number: int
    active: bool
    building: bool
    """A rebuild is filling it, or was, before it was killed."""
    complete: bool
    missing: Missing
    """What keeps it from being complete."""
    events: int | None
    """Number of events counted; None = made by a version that did not count them."""
    replaced_ms: int | None
    """When another one was activated in its place; None = it is active or being built."""
    offsets: int
    """Sum of its watermarks: how much further than another generation it is."""
    timezone: str
    shards: int = 1


#: What has a limit per tenant: groups of a grouping, and distinct offers of a customer.
Limited = Grouping | Literal["customer_offers"]


class Committed(NamedTuple):
    """The batch is counted."""

    overflow: Sequence[tuple[Limited, int]] = ()
    """Interactions of groups beyond the limit of their grouping, which count as one group, and
    times that an offer of a customer was not remembered."""
    pending: int = 0
    """Events of which actions, treatments and channels are pending: see `CounterStore.fold`."""
    damaged: str = ""
    """Why the script failed half-way: the generation is not complete any more."""


class Duplicates(NamedTuple):
    """Nothing changed: the identities at these indexes of the batch are already counted."""

    indexes: Sequence[int]
    undecided: Collection[int] = ()
    """Those of which it is not known that another record was counted."""


class Refused(NamedTuple):
    """Nothing changed: the stored values differ from the writer's and are returned here.

    `generation` None: the tenant has no generation.
    """

    generation: int | None
    day: int | None
    watermark: int | None


class Building(NamedTuple):
    """Result of one step of building ranks of customers."""

    left: frozenset[Period]
    """Periods that are not ranked yet."""
    customers: int
    """Number of customers that were taken."""


class Rolled(NamedTuple):
    """Result of one step of a roll: the window day, and the number of records rolled."""

    day: int
    finished: bool
    records: int


class TenantOverview(NamedTuple):
    """State of a tenant's active generation, for `status`."""

    tenant: str
    generation: int
    complete: bool
    day: int
    rolled: int
    """The last day whose due records are all rolled; less than `day` during a roll."""
    timezone: str
    groups: Mapping[Grouping, int]
    """Number of groups ever seen, per grouping."""
    overflow: Mapping[Limited, int] = {}
    """What was beyond each limit that was reached, as in `Committed`: history answers."""
    generations: Sequence[GenerationState] = ()
    """The active generation and the newest others, in order of number."""
    shards: int = 1
    """With several, the counts are sums, of actions, treatments and channels the highest of any
    shard; the days are the lowest, and it is complete if all are."""
    unranked: Collection[Period] = ()
    """Periods in which customers are not ranked, or not yet: nobody has asked for them lately."""


class Visible(NamedTuple):
    """Percentiles in ms of the time from arrival in Kafka to count, of the last counted events."""

    p50_ms: int
    p99_ms: int
    max_ms: int


class Counted(NamedTuple):
    """What a generation has counted of one topic."""

    generation: Generation
    watermarks: Mapping[int, int]
    """Partition -> next offset to count."""
    first_watermarks: Mapping[int, int]
    """Partition -> the watermark that the generation was created with."""
    pending: int = 0
    """Events whose actions, treatments and channels are yet to be folded."""


class PartitionProgress(NamedTuple):
    """A worker's report on one partition."""

    topic_id: str
    partition: int
    next_offset: int
    end_offset: int | None
    at_ms: int
    visible: Visible | None = None
    """None = no event arrived and was counted recently."""
    offsets_per_s: float | None = None
    """Rate of counting in the last seconds; None = the worker does not report it."""


class Floor(NamedTuple):
    """A worker's report on one partition, for the creation of new tenants."""

    offset: int
    """Below it all events are counted, and their tenants have counters."""
    end_offset: int | None
    instance: str
    """The store's instance when the worker's session began; see `CounterStore.instance`."""


class LogChange(NamedTuple):
    """A topic was recreated or truncated."""

    kind: str
    """recreated | cut"""
    topic_id: str
    at_ms: int


class Incidents(NamedTuple):
    """Incidents of the topic that workers recorded."""

    lost_offsets: int
    """Offsets that retention deleted before the counters saw them. History may have them, and has
    gaps of its own: see `store.postgres.gaps`."""
    log_changes: Sequence[LogChange]


class CustomerRankStore(Protocol):
    """Ranks of customers of the active generations. Every method raises StoreUnavailable."""

    async def build(
        self, generation: Generation, periods: Collection[Period], *, customers_max: int
    ) -> Building | None:
        """Build ranks, for up to `customers_max` customers; call again until nothing is left.

        Return None if the generation is not the active one.
        """
        ...

    async def drop(self, generation: Generation, periods: Collection[Period]) -> Collection[Period]:
        """Drop ranks; return those that were kept. Reads answer `not_ranked` then."""
        ...


class HasCustomerRanks(Protocol):
    """A store with ranks of customers."""

    @property
    def ranks(self) -> CustomerRankStore:
        """Ranks of customers."""
        ...


class CounterStore(CounterReader, HasCustomerRanks, Protocol):
    """Counters of all tenants. Every method raises StoreUnavailable."""

    async def generation(self, tenant: str) -> Generation | None:
        """Return the tenant's active generation, or None if it has none."""
        ...

    async def tenants(self) -> Sequence[str]:
        """Return the tenants that have a generation, sorted."""
        ...

    async def refused(self, tenants: Sequence[str], tenants_max: int) -> Sequence[str]:
        """Return the new tenants beyond `tenants_max`; reserve a slot for the others."""
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
        """Create the tenant's first generation, or return the one that exists.

        If the tenant was removed before, its watermarks begin where the removed counters ended.
        """
        ...

    async def counted_before_removal(
        self, tenants: Sequence[str], topic_id: str
    ) -> Mapping[str, Mapping[int, int]]:
        """Return tenant -> partition -> offset, of those that were removed and have no counters.

        The tenant's events below the offset were counted before the removal.
        """
        ...

    async def build(
        self,
        tenant: str,
        *,
        day: int,
        timezone: str,
        token: str,
        watermarks: Sequence[Position],
        gaps: Sequence[Gap] = (),
    ) -> Generation:
        """Create a generation beside the active one.

        `gaps` are offsets that it lacks though history has them.
        Only a writer with its token can change it, and no reader sees it before `swap`.
        """
        ...

    async def swap(
        self,
        building: Generation,
        *,
        now_ms: int,
        behind: bool = False,
        fewer: bool = False,
        given_up: Collection[Source] = (),
        writes: int | None = None,
    ) -> Activated | Behind | Fewer | None:
        """Make a generation under construction the active one, in one step.

        It is complete if it has reached every watermark of the active one. If not, it is refused;
        with `behind` it is activated, and complete as soon as it has reached them. `fewer` allows
        fewer events than the active one has. Offsets of the sources in `given_up` are not waited
        for: nobody has them any more. The previous generation stays for `rollback`. Return None if
        the generation is not under construction, or has not had the number of `writes` of sums and
        identities. Safe to repeat.
        """
        ...

    async def rollback(self, tenant: str, *, now_ms: int) -> Activated | None:
        """Activate the previous generation, if any, complete once it has all that was counted."""
        ...

    async def settle(self, tenant: str) -> Sequence[Shortfall]:
        """Finish a swap or rollback of several shards; return what they have yet to count."""
        ...

    async def drop(self, generation: Generation) -> None:
        """Delete a generation that is not active, in bounded steps."""
        ...

    async def mark_evicted(self, generation: Generation, at_ms: int) -> bool:
        """Record that the generation may lack keys; return whether it was not recorded before."""
        ...

    async def mark_complete(self, generation: Generation) -> None:
        """Record that a generation that started empty has all of history now."""
        ...

    async def watermarks(self, generation: Generation, topic_id: str) -> Mapping[int, int]:
        """Return partition -> next offset to count."""
        ...

    def active_counted(self, tenants: Sequence[str], topic_id: str) -> AsyncIterator[Counted]:
        """Yield what each tenant's active generation, if it has one, has counted of the topic."""
        ...

    async def floors(self, topic_id: str) -> Mapping[int, Floor]:
        """Return partition -> what its worker reported last for the creation of new tenants."""
        ...

    async def instance(self) -> str:
        """Return an id that changes when the store restarts, and may have lost its last writes."""
        ...

    async def first_watermarks(self, generation: Generation, topic_id: str) -> Mapping[int, int]:
        """Return partition -> the watermark that the generation was created with."""
        ...

    async def events(self, generation: Generation) -> int | None:
        """Return the number of events counted; None = made by a version that did not count them."""
        ...

    async def missing(self, generation: Generation) -> Missing:
        """Return what keeps the generation from being complete."""
        ...

    async def generations(self, tenant: str) -> Sequence[GenerationState]:
        """Return the tenant's generations, the active one among them, in order of number."""
        ...

    async def lower_watermark(self, tenant: str, number: int, position: Position) -> None:
        """Lower a watermark of a generation that is not active, where it is higher."""
        ...

    async def note_gap(self, generation: Generation, gap: Gap) -> bool:
        """Record offsets that these counters never saw, and that history has or may have.

        The generation is not complete until they are closed. Return False if it has counted past
        them, or does not exist.
        """
        ...

    async def close_gaps(self, generation: Generation, gaps: Sequence[Gap]) -> bool:
        """Forget gaps that turned out to hold no event; return whether it is complete now."""
        ...

    async def note_lost(
        self, topic_id: str, partition: int, first_offset: int, offsets: int
    ) -> None:
        """Record that `offsets` offsets from `first_offset` on were deleted before counting."""
        ...

    async def last_lost(self, topic_id: str) -> Mapping[int, int]:
        """Return partition -> highest first offset of a loss; only partitions with a loss."""
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
        keep_pending: bool = False,
    ) -> Committed | Duplicates | Refused:
        """Count one batch and move the watermark from `expected_offset` to `next_offset`.

        With `keep_pending`, actions, treatments and channels are counted by a later `fold`.
        """
        ...

    async def fold(self, generation: Generation) -> Committed:
        """Count actions, treatments and channels that are pending; a bounded part.

        Call again while the answer has pending events. Pages of these groupings say how many events
        they lack.
        """
        ...

    async def owned_by_others(self, tenant: str, identities: Sequence[Any]) -> Sequence[int]:
        """Return the indexes of the identities of which another record was counted.

        `identities`: as in `Deltas`, with the owners that the records would be. Those that are not
        remembered, and those whose owner is not known, are left out.
        """
        ...

    async def roll(
        self, generation: Generation, target_day: int, *, now_ms: int, records_max: int
    ) -> Rolled | Refused:
        """Move the window day to `target_day` and roll up to `records_max` due records."""
        ...

    async def overview(self) -> Sequence[TenantOverview]:
        """Return the state of every tenant's generation."""
        ...
