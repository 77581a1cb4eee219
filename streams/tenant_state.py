"""Cache of each tenant's generation and watermarks, as the worker knows them.

The store is the truth. The cache is filled when a tenant is first met in a read session, and
corrected when the store refuses a commit (see `streams.commit`).
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Protocol

from store.counters import CounterStore, Generation, Position
from store.logs import get_logger
from store.records import StoreUnavailable
from store.windows import Calendar
from streams.retry import retry

logger = get_logger("tenants")


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


class HistoryView(Protocol):
    """What the completeness check asks of history. Both methods raise StoreUnavailable."""

    async def covers(self, tenant: str, topic_id: str, starts: Mapping[int, int]) -> bool:
        """Return whether reading the topic from `starts` meets every row of the tenant.

        With no starts: whether the tenant has no row.
        """
        ...

    async def positions(self, topic_id: str) -> Mapping[int, int]:
        """Return, by partition, the offset below which the topic is in history."""
        ...


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
    ) -> None:
        """Create an empty cache.

        `timezone_of(tenant)` returns its IANA name. `tenants_max`: tenants that may have counters.
        """
        self.tenants_max = tenants_max
        self.session = ReadSession("", {}, {}, {})
        self._store = store
        self._history = history
        self._now_ms = now_ms
        self._timezone_of = timezone_of
        self._states: dict[str, TenantState] = {}
        self._opening: dict[str, asyncio.Lock] = {}

    def start_session(self, session: ReadSession) -> None:
        """Forget every state: they belong to the session before."""
        self.session = session
        self._states.clear()

    @property
    def names(self) -> Sequence[str]:
        """The tenants met in this session."""
        return list(self._states)

    def behind(self, partition: int, offset: int) -> list[str]:
        """Return the tenants whose watermark of the partition is below `offset`, lowest first."""
        watermarks = {
            tenant: state.watermarks.get(partition, 0) for tenant, state in self._states.items()
        }
        return sorted((t for t, w in watermarks.items() if w < offset), key=watermarks.__getitem__)

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
        await asyncio.gather(*(self.get(tenant) for tenant in new if tenant not in refused))
        return refused

    async def get(self, tenant: str) -> TenantState:
        """Return the tenant's state; create its first generation where the store has none.

        Raises RewindRequired where the store holds less than this session has committed.
        """
        state = self._states.get(tenant)
        if state is not None:
            return state
        async with self._opening.setdefault(tenant, asyncio.Lock()):
            while tenant not in self._states:
                session = self.session
                state = await retry("counters", self.load, tenant, session)
                if session is self.session:  # else it belongs to a session that is over
                    for partition in session.starts:
                        session.check_not_behind(state, partition)
                    self._states[tenant] = state
            return self._states[tenant]

    async def reload(self, state: TenantState) -> TenantState:
        """Return the tenant's state read again, because its generation is no longer active."""
        tenant = state.generation.tenant
        if self._states.get(tenant) is state:
            del self._states[tenant]
        return await self.get(tenant)

    async def adopt_generation(self, active: Generation) -> None:
        """Take `active` as the tenant's generation; raise RewindRequired as `get` does.

        Without this a tenant without events would not learn of a rebuild or a rollback.
        """
        if not self.session.topic_id:
            return
        state = self._states.get(active.tenant)
        if state is not None and state.generation.number != active.number:
            del self._states[active.tenant]
        await self.get(active.tenant)

    async def load(self, tenant: str, session: ReadSession) -> TenantState:
        """Return the tenant's state from the store, uncached; create a generation if needed."""
        generation = await self._store.generation(tenant)
        if generation is None:
            generation = await self._create(tenant, session)
        watermarks = await self._store.watermarks(generation, session.topic_id)
        return TenantState(generation, Calendar(generation.timezone), dict(watermarks))

    async def _create(self, tenant: str, session: ReadSession) -> Generation:
        zone = await self._timezone_of(tenant)
        try:
            complete = await self._history.covers(tenant, session.topic_id, {})
        except StoreUnavailable as error:
            logger.warning("completeness not known yet", tenant=tenant, error=str(error))
            complete = False
        if not complete:
            logger.warning(
                "counters start empty though the tenant has history; history answers until the "
                "counters hold all of it",
                tenant=tenant,
                starts=session.starts,
            )
        return await self._store.create(
            tenant,
            day=Calendar(zone).day_of(self._now_ms()),
            timezone=zone,
            complete=complete,
            # The tenant has nothing counted, so no event below what all tenants have counted.
            watermarks=[
                Position(session.topic_id, partition, offset)
                for partition, offset in session.starts.items()
            ],
        )

    async def try_mark_complete(self, tenant: str) -> bool:
        """Mark counters that started empty as complete if they now hold everything.

        Return False where Kafka does not reach back to all of the tenant's history: only a rebuild
        from history completes these counters.
        """
        topic_id = self.session.topic_id
        if not topic_id:
            return False
        state = await self.get(tenant)
        generation = state.generation
        if generation.complete:
            return True
        starts = await self._store.first_watermarks(generation, topic_id)
        if not await self._history.covers(tenant, topic_id, starts):
            return False
        lost = await self._store.last_lost(topic_id)
        if any(offset >= starts.get(partition, 0) for partition, offset in lost.items()):
            return False  # history may hold events of the lost offsets, which were never read
        counted = await self._store.watermarks(generation, topic_id)
        stored = await self._history.positions(topic_id)
        if all(counted.get(partition, 0) >= offset for partition, offset in stored.items()):
            await self._store.mark_complete(generation)
            state.generation = generation._replace(complete=True)
            logger.info("counters are complete", tenant=tenant)
        return True
