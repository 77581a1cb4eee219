"""Cache of each tenant's generation and watermarks, as the worker knows them.

The store is the truth. The cache is filled when a tenant is first met in a read session, and
corrected when the store refuses a commit (see `streams.commit`).
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
from collections.abc import Awaitable, Callable, Iterable, Mapping, Set
from typing import Final

from store.counters import Counted, CounterStore, Generation
from store.logs import get_logger
from store.offsets import Gap
from store.records import StoreUnavailable
from store.shards import Layout, generation_of, is_shard, tenant_of, tenants_of
from store.windows import Calendar
from streams.completeness import HistoryView, complete_all
from streams.known_counters import KnownCounters
from streams.new_tenants import NewTenants
from streams.retry import retry

logger = get_logger("tenants")

calendar_of: Final = functools.cache(Calendar)  # as many as there are time zones
#: Tenants whose counters are read or created at once, each with a connection of its own.
OPEN_MAX: Final = 16


class RewindRequired(Exception):
    """A store holds less than was read: it lost its tail, or everything.

    The worker must rewind and read again what the store lacks.
    """


@dataclasses.dataclass
class TenantState:
    """One tenant's generation and watermarks, as this worker last saw them in the store."""

    generation: Generation
    calendar: Calendar
    watermarks: dict[int, int]
    """Partition -> next offset to count, of the topic that is read now."""


@dataclasses.dataclass(frozen=True)
class ReadSession:
    """A period of reading, from one assignment or rewind to the next."""

    topic_id: str
    starts: Mapping[int, int]
    """Partition -> offset below which every tenant was counted when the session began."""
    earliest_offsets: Mapping[int, int]
    """Partition -> earliest offset that Kafka held when the session began."""
    committed_through: dict[tuple[str, int], int]
    """(tenant, partition) -> offset below which the session has committed the tenant's events.

    A tenant without an entry had no event since `starts`."""
    lost_through: dict[int, int] = dataclasses.field(default_factory=dict)
    """Partition -> end of the last offsets that retention took, once they are noted."""

    def check_not_behind(self, state: TenantState, partition: int) -> None:
        """Raise RewindRequired if the tenant's watermark is below what this session has committed.

        A batch holds the tenant's events since the previous batch, so the counters must have all
        events before it, whatever their generation. A rebuild or a rollback may have activated a
        generation that is behind, in this partition or another.
        """
        tenant, number = state.generation.tenant, state.generation.number
        committed = self.committed_through.get((tenant, partition), self.starts.get(partition, 0))
        watermark = state.watermarks.get(partition, self.earliest_offsets.get(partition, 0))
        if watermark < committed:
            raise RewindRequired(
                f"generation {number} of tenant {tenant} is at offset {watermark} of partition "
                f"{partition}, but this worker has committed up to {committed}"
            )

    def check_gaps_noted(self, state: TenantState) -> None:
        """Raise RewindRequired if the tenant lacks offsets that retention took in this session.

        They were noted for the generations that were active then, and this is another one.
        """
        for partition, end in self.lost_through.items():
            watermark = state.watermarks.get(partition, 0)
            if watermark < end:
                raise RewindRequired(
                    f"generation {state.generation.number} of tenant {state.generation.tenant} is "
                    f"at offset {watermark} of partition {partition}, and retention took offsets "
                    f"up to {end}"
                )


class TenantStates:
    """States of all tenants met in the current read session. For one event loop."""

    def __init__(
        self,
        store: CounterStore,
        history: HistoryView,
        *,
        now_ms: Callable[[], int],
        timezone_of: Callable[[str], Awaitable[str]],
        tenants_max: int,
        on_pending: Callable[[Generation, int], None] = lambda generation, pending: None,
    ) -> None:
        """Create an empty cache.

        `timezone_of(tenant)` returns its IANA name. `tenants_max`: tenants that may have counters.
        `on_pending` is told of events that a generation has yet to fold, when it is read.
        """
        self._on_pending = on_pending
        self.tenants_max = tenants_max
        self.session = ReadSession("", {}, {}, {})
        self._store = store
        self._history = history
        self._new = NewTenants(store, history, now_ms=now_ms, timezone_of=timezone_of)
        self._states: dict[str, TenantState] = {}
        self._generations: dict[str, Generation] = {}  # as met last in the session
        self._opening: dict[str, asyncio.Lock] = {}
        self.known = KnownCounters()

    def start_session(self, session: ReadSession, found: Iterable[Counted] = ()) -> None:
        """Forget every state: they belong to the session before.

        `found`: what was read for this session: a tenant of it needs no reading of its own.
        """
        self.session = session
        self._states = {counted.generation.tenant: self._state(counted) for counted in found}
        self._generations = {name: state.generation for name, state in self._states.items()}

    @property
    def names(self) -> Set[str]:
        """The tenants met in this session."""
        return tenants_of(self._states)

    def behind(self, partition: int, offset: int) -> list[str]:
        """Return the shards whose watermark of the partition is below `offset`, lowest first."""
        watermarks = {
            tenant: state.watermarks.get(partition, 0) for tenant, state in self._states.items()
        }
        return sorted((t for t, w in watermarks.items() if w < offset), key=watermarks.__getitem__)

    def forget(self, tenant: str) -> None:
        """Forget a tenant that was removed, with all its shards."""
        self._generations.pop(tenant, None)
        for name in [tenant, *(name for name in self._states if tenant_of(name) == tenant)]:
            self._states.pop(name, None)
            self.known.forget(name)

    async def counted_before_removal(
        self, tenants: Iterable[str], partition: int
    ) -> Mapping[str, int]:
        """Return tenant -> offset below which its events were counted before it was removed.

        They must not make the tenant again. Only tenants that were removed, and had no event since.
        """
        new = [tenant for tenant in tenants if tenant not in self._states]
        if not new:
            return {}
        session = self.session
        found = await retry("counters", self._store.counted_before_removal, new, session.topic_id)
        offsets = {t: of[partition] for t, of in found.items() if partition in of}
        for tenant, offset in offsets.items():
            # A rebuild may give the tenant counters that lack these events.
            committed = session.committed_through.get((tenant, partition), 0)
            session.committed_through[tenant, partition] = max(committed, offset)
        return offsets

    async def refuse_excess(self, tenants: Iterable[str]) -> set[str]:
        """Return the new tenants beyond `tenants_max`; create counters for the other new ones.

        Events of a refused tenant must not be counted. The counters of every tenant of a commit
        batch must exist before anything of the batch is counted: otherwise, after a crash in
        between, a tenant without counters has uncounted events below an offset that every existing
        tenant has counted, and reading would start after them.
        """
        new = [tenant for tenant in tenants if tenant not in self._states]
        if not new:
            return set()
        refused = set(await retry("counters", self._store.refused, new, self.tenants_max))
        slots = asyncio.Semaphore(OPEN_MAX)

        async def open_counters(tenant: str) -> None:
            async with slots:
                await self.get(tenant)

        await asyncio.gather(*(open_counters(tenant) for tenant in new if tenant not in refused))
        return refused

    async def get(self, tenant: str) -> TenantState:
        """Return the tenant's state; create its first generation where the store has none.

        Raises RewindRequired where the store holds less than this session has committed.
        """
        known = self._states.get(tenant)
        if known is not None:
            return known
        async with self._opening.setdefault(tenant, asyncio.Lock()):
            while tenant not in self._states:
                session = self.session
                state, is_new = await retry("counters", self._load, tenant, session)
                if session is self.session:  # else it belongs to a session that is over
                    for partition in session.starts:
                        session.check_not_behind(state, partition)
                    if not is_new:
                        session.check_gaps_noted(state)
                    check_shards(self._generations.get(tenant), state.generation)
                    self._generations[tenant] = state.generation
                    self._states[tenant] = state
            return self._states[tenant]

    async def reload(self, state: TenantState) -> TenantState:
        """Return the tenant's state read again, because its generation is no longer active."""
        if self._states.get(state.generation.tenant) is state:
            del self._states[state.generation.tenant]
        return await self.get(state.generation.tenant)

    async def layout(self, tenant: str) -> Layout:
        """Return the shards of the tenant, whose states are all known then."""
        layout = (await self.get(tenant)).generation.layout
        for name in layout.others if layout.shards > 1 else ():
            await self.get(name)
        return layout

    async def adopt_generation(self, active: Generation) -> None:
        """Take `active` as the tenant's generation; raise RewindRequired as `get` does.

        Without this a tenant without events would not learn of a rebuild or a rollback.
        """
        if not self.session.topic_id:
            return
        state = self._states.get(active.tenant)
        if state is not None and state.generation.number != active.number:
            logger.info("new generation", tenant=active.tenant, number=active.number)
            del self._states[active.tenant]
        await self.get(active.tenant)

    async def load(self, tenant: str, session: ReadSession) -> TenantState:
        """Return the tenant's state from the store, uncached; create a generation if needed."""
        return (await self._load(tenant, session))[0]

    async def _load(self, tenant: str, session: ReadSession) -> tuple[TenantState, bool]:
        """Return the tenant's state from the store, and whether it was not there before."""
        async for counted in self._store.active_counted([tenant], session.topic_id):
            return self._state(counted), False
        if is_shard(tenant):
            await check_lost(self._store, tenant)
        await self._new.create(
            tenant, session.topic_id, session.starts, was_known=tenant in self.known
        )
        async for counted in self._store.active_counted([tenant], session.topic_id):
            return self._state(counted), True
        raise StoreUnavailable(f"the counters of tenant {tenant} were removed at once")

    def _state(self, counted: Counted) -> TenantState:
        generation, watermarks, _, pending = counted
        self._on_pending(generation, pending)
        self.known.note(counted, self.session.topic_id)
        return TenantState(generation, calendar_of(generation.timezone), dict(watermarks))

    async def try_mark_complete(self, tenant: str) -> bool:
        """Mark the tenant's generation complete if it now holds everything that history has.

        Return False where only a rebuild from history completes it.
        """
        if not self.session.topic_id:
            return False
        shards = [await self.get(name) for name in (await self.layout(tenant)).names]
        known = [state.generation for state in shards]
        return await complete_all(self._store, self._history, known, self.session.topic_id)

    async def lacking(self, gap: Gap) -> Mapping[Generation, int]:
        """Return generation -> its first offset of `gap`, for every tenant that lacks some.

        Retention took these offsets, and the session reads on after them. A generation that becomes
        active later and lacks some raises RewindRequired, so that the gap is met again for it.
        """
        session = self.session
        tenants = await self._store.tenants()
        async for counted in self._store.active_counted(tenants, session.topic_id):
            await self.get(counted.generation.tenant)
        session.lost_through[gap.partition] = gap.next_offset
        watermarks = {
            state.generation: state.watermarks.get(gap.partition, 0)
            for state in self._states.values()
        }
        return {
            generation: max(watermark, gap.first_offset)
            for generation, watermark in watermarks.items()
            if watermark < gap.next_offset
        }


def check_shards(known: Generation | None, active: Generation) -> None:
    """Raise RewindRequired if another generation is active, and one of the two has several shards.

    The watermarks of its shards say nothing about those of the other ones. So what is read next
    begins where all shards of the active generation have counted everything.
    """
    if known is None or known.number == active.number:
        return
    if max(known.shards, active.shards) > 1:
        raise RewindRequired(
            f"generation {active.number} of tenant {active.tenant} is active, with "
            f"{active.shards} shards, in place of {known.number}, with {known.shards}"
        )


async def check_lost(store: CounterStore, shard: str) -> None:
    """Log that the store has lost a shard without counters.

    Raises RewindRequired if it is none of the active generation, so that nothing is lost.
    """
    tenant = tenant_of(shard)
    active = await store.generation(tenant)
    if active is None or active.number != generation_of(shard):
        raise RewindRequired(f"another generation of tenant {tenant} is active")
    logger.error(
        "Redis lost a shard of a tenant; history answers until it is rebuilt",
        tenant=tenant,
        shard=shard,
    )
