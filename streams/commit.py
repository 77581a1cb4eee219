"""Commit protocol of the counters.

`CounterCommitter.commit` sends one tenant's events of one partition. Where the store refuses the
commit, the committer takes the store's values and skips what is counted, sends again, or raises
RewindRequired.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

from store import metrics
from store.counters import (
    Committed,
    Counted,
    CounterStore,
    Deltas,
    Duplicates,
    Generation,
    Position,
    Refused,
)
from store.logs import get_logger
from store.offsets import Gap
from store.records import SourcedEvent
from store.shards import Layout, is_shard, tenant_of
from store.windows import slots_of_horizon
from streams.aggregate import aggregate, by_slot, distinct
from streams.commit_reports import CommitReports
from streams.completeness import HistoryView
from streams.copies import CopySearch
from streams.folds import Folds
from streams.freshness import Freshness
from streams.recent_identities import RecentIdentities
from streams.retry import retry
from streams.tenant_state import (
    ReadSession,
    RewindRequired,
    TenantState,
    TenantStates,
)

logger = get_logger("commit")


class CounterCommitter:
    """Commits events to the counters and keeps what it knows of each tenant."""

    def __init__(
        self,
        store: CounterStore,
        history: HistoryView,
        *,
        now_ms: Callable[[], int],
        timezone_of: Callable[[str], Awaitable[str]],
        tenants_max: int = 10_000,
        dedup_horizon_h: int = 0,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create a committer without a session.

        `timezone_of(tenant)` returns its IANA name. `tenants_max`: tenants that may have counters.
        `dedup_horizon_h`: that of the store; with 0, copies are left to it.
        """
        self._recent = RecentIdentities(slots_of_horizon(dedup_horizon_h))
        self._store = store
        self._now_ms = now_ms
        self._reports = CommitReports()
        self.freshness = Freshness()
        self.unread: Mapping[int, Sequence[Generation]] = {}
        """Partition -> generations without a watermark of it, where retention took its beginning;
        as of the last call of `counted`."""
        self._found: list[Counted] = []
        self.folds = Folds(store, on_answer=self._reports.report, monotonic_s=monotonic_s)
        self.tenants = TenantStates(
            store,
            history,
            now_ms=now_ms,
            timezone_of=timezone_of,
            tenants_max=tenants_max,
            on_pending=self.folds.note,
        )

    async def counted(self, topic_id: str, earliest_offsets: Mapping[int, int]) -> dict[int, int]:
        """Return, by partition, the offset below which every tenant is counted.

        `earliest_offsets`: the earliest offset that Kafka still holds of each partition. Counters
        without a watermark of a partition have counted nothing of it; there counting begins at the
        earliest offset. Retention may have taken earlier ones, and counters that lack them must not
        be marked complete.
        """
        lowest: dict[int, int] = {}
        unread: dict[int, list[Generation]] = {}
        self._found = []
        tenants = await self._store.tenants()
        async for counted in self._store.active_counted(tenants, topic_id):
            self._found.append(counted)
            generation, watermarks, *_ = counted
            if self.tenants.known.were_recreated(counted, topic_id):
                await mark_recreated(self._store, generation, self._now_ms())
            for partition, earliest in earliest_offsets.items():
                watermark = watermarks.get(partition, earliest)
                lowest[partition] = min(watermark, lowest.get(partition, watermark))
                if earliest and partition not in watermarks:
                    unread.setdefault(partition, []).append(generation)
        self.unread = unread
        return {
            partition: lowest.get(partition, earliest)
            for partition, earliest in earliest_offsets.items()
        }

    def start_session(
        self,
        topic_id: str,
        starts: Mapping[int, int],
        earliest_offsets: Mapping[int, int] | None = None,
    ) -> None:
        """Start a read session; forget all tenant states but those that `counted` has just read.

        `starts`: what `counted` returned; reading begins there or before. `earliest_offsets`: as in
        `counted`.
        """
        self.tenants.start_session(
            ReadSession(topic_id, dict(starts), dict(earliest_offsets or {}), {}), self._found
        )
        self._found = []
        self._recent.clear()
        self._reports.clear()
        self.freshness.begin(self._now_ms())

    async def commit(
        self,
        tenant: str,
        partition: int,
        events: Sequence[SourcedEvent],
        next_offset: int,
        *,
        stored_offset: int = 0,
        more: bool = False,
    ) -> set[int]:
        """Count `events`, all that the tenant has from its watermark to `next_offset`.

        Of a tenant with several shards, `tenant` is the name of one, and `events` are its events.
        Return the offsets of the copies, which history must not store: another record with their
        identity was counted. Those below `stored_offset`, history's watermark, may be left out.
        While `more` records wait, a part of the deltas may be left pending: see `streams.folds`.
        Raises RewindRequired when the store has less than the tenant's watermark.
        """
        session = self.tenants.session
        state = await self.tenants.get(tenant)
        search = CopySearch(self._store, tenant, session.topic_id, partition, stored_offset)
        search.begin(self._recent.known(state.generation, events))
        while True:
            session.check_not_behind(state, partition)
            expected_offset = state.watermarks.get(partition)
            if expected_offset is not None:
                search.pass_over(events, expected_offset)
                if expected_offset >= next_offset:
                    session.committed_through[tenant, partition] = next_offset
                    return await search.offsets()
                events = [e for e in events if e.offset >= expected_offset]
            # After that: of two copies, the one before the watermark may have been rejected.
            unique, copies = distinct(events, search.counted)
            batch = by_slot(unique)
            answer = await retry(
                "counters",
                self._store.commit,
                state.generation,
                topic_id=session.topic_id,
                partition=partition,
                expected_offset=expected_offset,
                next_offset=next_offset,
                deltas=aggregate(batch, state.calendar, search.owners),
                keep_pending=more,
            )
            if isinstance(answer, Committed):
                state.watermarks[partition] = next_offset
                session.committed_through[tenant, partition] = next_offset
                metrics.COUNTED.inc(len(batch))
                metrics.DUPLICATES.inc(len(copies))
                owned = search.owned(batch)
                if session is self.tenants.session:
                    self._recent.add(state.generation, owned)
                self.freshness.note(partition, [e.recorded_ms for e in batch], self._now_ms())
                self._reports.report(tenant, answer)
                await self.folds.after_commit(state.generation, answer.pending, more=more)
                return await search.offsets(copies)
            if isinstance(answer, Duplicates):
                search.note(batch, answer)
            elif answer.generation is None and not batch and await self._is_removed(tenant):
                self.tenants.forget(tenant_of(tenant))
                return set()
            else:
                state = await self._correct(session, state, partition, expected_offset, answer)
                search.begin(self._recent.known(state.generation, events))

    async def _correct(
        self,
        session: ReadSession,
        state: TenantState,
        partition: int,
        expected_offset: int | None,
        refused: Refused,
    ) -> TenantState:
        """Return the state corrected by a refusal; raise RewindRequired if the store has less."""
        metrics.REFUSED.inc()
        tenant = state.generation.tenant
        if refused.generation is None and is_shard(tenant):
            raise RewindRequired(f"{tenant} gets no more events: another generation is active")
        if refused.generation is None and not await self._is_removed(tenant):
            raise RewindRequired(f"the counters of tenant {tenant} are gone")
        if refused.generation != state.generation.number:
            logger.info("new generation", tenant=tenant, number=refused.generation)
            state = await self.tenants.reload(state)
            if session is not self.tenants.session:
                raise RewindRequired("another read session has started")
            return state
        if refused.day is not None and refused.day != state.generation.day:
            state.generation = state.generation._replace(day=refused.day)
        if refused.watermark != expected_offset:
            if refused.watermark is None or (
                expected_offset is not None and refused.watermark < expected_offset
            ):
                raise RewindRequired(
                    f"the counters of tenant {tenant} are at offset {refused.watermark} of "
                    f"partition {partition}, not at {expected_offset}"
                )
            state.watermarks[partition] = refused.watermark
            self.folds.note(state.generation, 1)  # perhaps, by a commit without an answer
        return state

    async def _is_removed(self, tenant: str) -> bool:
        """Return whether an operator has removed the tenant, whose counters are gone."""
        topic_id, tenant = self.tenants.session.topic_id, tenant_of(tenant)
        found = await retry("counters", self._store.counted_before_removal, [tenant], topic_id)
        return tenant in found

    async def reset(self, partition: int, offset: int, end: int) -> None:
        """Lower every tenant's watermark of the partition to `offset`; see `lower_all`."""
        await lower_all(self._store, self.tenants, partition, offset, end)


async def lower_all(
    store: CounterStore, tenants: TenantStates, partition: int, offset: int, end: int
) -> None:
    """Lower every tenant's watermark of the partition to `offset`, where it is higher.

    For a partition that was truncated at `end`: its records from `offset` on are read again.
    """
    session = tenants.session
    position = Position(session.topic_id, partition, offset)
    names = []
    for tenant in await store.tenants():
        # Those that are not active first: a swap or a rollback may activate them at any time.
        await lower_others(store, tenant, position, end)
    async for counted in store.active_counted(await store.tenants(), session.topic_id):
        names.append(counted.generation.tenant)
    for tenant in names:
        state = await tenants.load(tenant, session)
        while (expected_offset := state.watermarks.get(partition, 0)) > offset:
            answer = await store.commit(
                state.generation,
                topic_id=session.topic_id,
                partition=partition,
                expected_offset=expected_offset,
                next_offset=offset,
                deltas=Deltas(),
            )
            if isinstance(answer, Committed):
                break
            state = await tenants.load(tenant, session)


async def lower_others(store: CounterStore, tenant: str, position: Position, end: int) -> None:
    """Lower a watermark of the tenant's generations that are not active, where it is higher.

    Those that had yet to reach more than `end`, where the partition was truncated, lack what was
    there (see `Generation.complete`): the records that take its place are others.
    """
    for each in await store.generations(tenant):
        generation = Generation(tenant, each.number, 0, each.timezone, each.complete)
        for source, watermark, target in each.missing.behind:
            if source == (position.topic_id, position.partition) and target > end:
                await store.note_gap(generation, Gap(*source, max(watermark, end), target))
        await store.lower_watermark(tenant, each.number, position)
        if not each.active:
            for name in Layout(tenant, each.number, each.shards).others:
                await lower_others(store, name, position, end)


async def mark_recreated(store: CounterStore, generation: Generation, at_ms: int) -> None:
    """Let history answer for counters that took the place of lost ones."""
    logger.error(
        "Redis lost the counters of a tenant, and a worker created others; history answers until "
        "they are rebuilt",
        tenant=generation.tenant,
    )
    await store.mark_evicted(generation, at_ms)
