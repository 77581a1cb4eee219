"""Refill: fills history that was lost, from the topic, up to where history's own watermarks are.

Beyond its watermark a partition belongs to the workers: they store each event there by themselves,
and a rebuild of counters from history expects no rows there. So rows are added below it only. A
partition without a watermark has lost it: the refill then writes as a worker does, and moves it.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Final

from store.clock import system_clock_ms
from store.offsets import Gap
from store.postgres.history import HistoryRefused, HistoryWriter
from store.postgres.pool import Pool
from store.postgres.refill import HistoryFiller
from store.records import Event, SourcedEvent
from store.settings import Settings
from store.shards import by_shard
from streams.commit_batch import (
    judged_at_ms,
    recorded_ms,
    rules_for,
    split_evenly,
    unregistered,
)
from streams.copies import IdentityOwners, copies_among
from streams.counting_catalogs import CountingCatalogs, NoCopies, PostgresCatalogs
from streams.decode.decoder import make_decoder
from streams.decode.rejection import Skipped
from streams.kafka.topic_scan import OffsetsGone, ScanBatch, TopicScan, open_scan
from streams.retry import retry

#: Records of one transaction.
BATCH_RECORDS: Final = 5_000
#: Events whose identity is known and whose row may be missing: that many are looked up at once,
#: since a lookup reads all rows of their tenants. About 50 MB of memory.
SUSPECTS_MAX: Final = 50_000

#: `progress(phase, done, total)`. Phases: `identities`; `topic`, in offsets; `rows`. The total of
#: the first and the last is not known, and is 0.
Progress = Callable[[str, int, int], None]


class RefillError(Exception):
    """A refill is not possible. What it has stored until then is right, and stays."""


@dataclasses.dataclass
class RefillResult:
    """Outcome of a refill, in records and events."""

    scanned: int = 0
    """Records that were read."""
    stored: int = 0
    """Events whose row was added."""
    present: int = 0
    """Events that history had, and copies of events."""
    rejected: int = 0
    skipped: int = 0
    """Records of other event types."""
    of_others: int = 0
    """Events of other tenants than the one that was asked for."""
    removed: int = 0
    """Events that were removed with their tenant."""
    copies: int = 0
    """Events of which the counters have counted another record."""
    left: int = 0
    """Events beyond history's position: a worker took over while they were read."""
    identities: int = 0
    """Identities that rows had lost and that were registered again."""
    unreadable: int = 0
    """Offsets that retention took while the topic was read."""
    beyond: int = 0
    """Offsets from history's position to the end of the topic, which workers store."""


def _no_progress(phase: str, done: int, total: int) -> None:
    """Ignore the progress of a refill."""


class Refill:
    """One refill of the history of one tenant, or of all.

    It may be interrupted at any time and run again, and any number may run at once, beside workers.
    """

    def __init__(
        self,
        settings: Settings,
        pool: Pool,
        *,
        counted_tenants: Collection[str],
        owners: IdentityOwners | None = None,
        tenant: str | None = None,
        progress: Progress = _no_progress,
        now_ms: Callable[[], int] = system_clock_ms,
    ) -> None:
        """`counted_tenants`: tenants with counters; as many others as a worker accepts are new.

        `owners`: the counters, which know which record of an identity was counted; None = none.
        """
        self._settings = settings
        self._pool = pool
        self._owners = owners
        self._tenant = tenant
        self._progress = progress
        self._writer = HistoryWriter(pool)
        self._reader = _EventReader(
            settings, pool, tenant=tenant, known_tenants=counted_tenants, now_ms=now_ms
        )
        self._result = self._reader.result
        self._filled: dict[int, range] = {}
        self._suspects: dict[int, list[SourcedEvent]] = {}
        self._suspected = 0

    async def run(self) -> RefillResult:
        """Fill history and return the result.

        Raises RefillError, TopicChanged and StoreUnavailable.
        """
        async with open_scan(self._settings, client_id="interaction-summary-refill") as scan:
            await self._prepare(scan)
            starts, ends = await scan.earliest(), await scan.ends()
            until = self._until(starts, ends)
            self._result.beyond = sum(ends[p] - max(starts[p], until[p]) for p in ends)
            self._filled = {p: range(starts[p], end) for p, end in until.items() if end > starts[p]}
            for partition in self._moved:
                self._note_lost(partition, 0, starts[partition])
            total = sum(map(len, self._filled.values()))
            done = dict(starts)
            scan.seek(starts)
            async for batch in self._batches(scan, until):
                for part in _split(batch):
                    await self._store(part)
                    done[part.partition] = part.next_offset
                    self._progress("topic", sum(done.values()) - sum(starts.values()), total)
            await self._restore_suspects()
            await scan.check_topic_id()
        if self._tenant is None:
            await self._writer.forget_filled(scan.topic_id, self._filled)
        return self._result

    async def _prepare(self, scan: TopicScan) -> None:
        topic = self._settings.interactions_topic
        self._topic_id = scan.topic_id
        self._lost: dict[int, list[Gap]] = {}
        """Partition -> offsets that retention took: noted with a watermark that was lost."""
        self._filler = HistoryFiller(self._pool, topic=topic, topic_id=scan.topic_id)
        self._progress("identities", 0, 0)
        self._result.identities = await self._filler.restore_identities(self._tenant)
        self._missing = await self._filler.missing_rows(self._tenant)
        self._watermarks: dict[int, int | None] = dict.fromkeys(range(scan.partitions))
        self._watermarks |= await self._writer.positions(scan.topic_id)
        self._moved = {p for p, offset in self._watermarks.items() if offset is None}
        """Partitions whose watermark was lost, and is moved by this refill."""

    def _until(self, starts: Mapping[int, int], ends: Mapping[int, int]) -> dict[int, int]:
        """Return where the work on each partition ends."""
        lost = [p for p in sorted(self._moved) if ends[p] > starts[p]]
        if lost and self._tenant is not None:
            raise RefillError(
                f"history has lost its position in partitions {lost}: start a worker, or fill the "
                "history of all tenants (leave out --tenant)"
            )
        stored = {p: ends[p] if at is None else at for p, at in self._watermarks.items()}
        return {partition: min(stored[partition], end) for partition, end in ends.items()}

    async def _batches(self, scan: TopicScan, until: Mapping[int, int]) -> AsyncIterator[ScanBatch]:
        while True:
            try:
                async for batch in scan.batches(until):
                    yield batch
            except OffsetsGone as gone:
                self._result.unreadable += gone.earliest - gone.wanted
                self._note_lost(gone.partition, gone.wanted, gone.earliest)
                scan.seek({gone.partition: gone.earliest})
                self._filled[gone.partition] = range(gone.earliest, until[gone.partition])
            else:
                return

    def _note_lost(self, partition: int, first: int, end: int) -> None:
        if first < end:
            gap = Gap(self._topic_id, partition, first, end)
            self._lost.setdefault(partition, []).append(gap)

    async def _store(self, part: ScanBatch) -> None:
        """Store what history lacks of the records of one partition."""
        partition = part.partition
        events = await self._reader.read(self._topic_id, part.partition, part.records)
        events = await self._without_copies(partition, events)
        stored = 0
        if partition in self._moved:
            stored = await self._write(partition, part.next_offset, events)
        stored_to = self._watermarks[partition] or 0
        below = [event for event in events if event.offset < stored_to]
        if partition not in self._moved or self._missing:
            filled = await self._filler.fill(partition, below)
            stored += filled.stored
            await self._suspect(partition, filled.known)
        self._result.stored += stored
        self._result.present += len(below) - stored
        self._result.left += len(events) - len(below)

    async def _without_copies(
        self, partition: int, events: list[SourcedEvent]
    ) -> list[SourcedEvent]:
        """Leave out the events of which the counters have counted another record."""
        if self._owners is None:
            return events
        by_tenant: dict[str, list[SourcedEvent]] = {}
        for each in events:
            by_tenant.setdefault(each.event.tenant, []).append(each)
        copies: set[int] = set()
        for tenant, of_tenant in by_tenant.items():
            active = await retry("counters", self._owners.generation, tenant)
            shards = by_shard(active.layout, of_tenant) if active else {}
            for name, part in shards.items():
                copies |= await copies_among(self._owners, name, self._topic_id, partition, part)
        self._result.copies += len(copies)
        return [each for each in events if each.offset not in copies]

    async def _suspect(self, partition: int, known: Sequence[SourcedEvent]) -> None:
        """Keep the events of `known` that have a registered identity, but perhaps no row."""
        of_lossy = [event for event in known if event.event.tenant in self._missing]
        suspects = await self._filler.without_row_at_source(partition, of_lossy)
        self._suspects.setdefault(partition, []).extend(suspects)
        self._suspected += len(suspects)
        if self._suspected >= SUSPECTS_MAX:
            await self._restore_suspects()

    async def _write(self, partition: int, next_offset: int, events: Sequence[SourcedEvent]) -> int:
        """Write as a worker does, with the watermark; return the number of new events.

        If a worker or another refill was faster, this one goes on below their watermark only.
        """
        answer = await self._writer.write(
            topic=self._settings.interactions_topic,
            topic_id=self._topic_id,
            partition=partition,
            expected_offset=self._watermarks[partition],
            next_offset=next_offset,
            events=events,
            gaps=self._lost.get(partition, ()),
        )
        if isinstance(answer, HistoryRefused):
            self._moved.discard(partition)
            stored_to = self._watermarks[partition] = answer.watermark or 0
            self._filled[partition] = range(self._filled[partition].start, stored_to)
            return 0
        self._watermarks[partition] = next_offset
        return answer

    async def _restore_suspects(self) -> None:
        """Store the suspects that have no row."""
        self._progress("rows", 0, 0)
        restored = await self._filler.restore_rows(self._suspects)
        self._result.stored += restored
        self._result.present -= restored
        self._suspects.clear()
        self._suspected = 0


class _EventReader:
    """Decodes records by the rules of the worker, and counts what is not stored.

    A worker has sent the rejected records to the dead-letter topic; they are not sent again.
    """

    def __init__(
        self,
        settings: Settings,
        pool: Pool,
        *,
        tenant: str | None,
        known_tenants: Collection[str],
        now_ms: Callable[[], int],
    ) -> None:
        self.result = RefillResult()
        self._tenant = tenant
        self._tenants = set(known_tenants)
        self._tenants_max = settings.tenants_max
        self._registered_only = settings.tenants_registered_only
        self._now_ms = now_ms
        self._decoder = make_decoder(settings)
        self._history = HistoryWriter(pool)
        self._removed: dict[str, Mapping[int, int]] = {}
        """Tenant -> partition -> offset below which its events were removed with it."""
        self._catalogs = CountingCatalogs(
            PostgresCatalogs(pool), NoCopies(), monotonic=time.monotonic
        )

    async def read(
        self, topic_id: str, partition: int, records: Sequence[Any]
    ) -> list[SourcedEvent]:
        """Return the events of a partition to store, in the order of their offsets."""
        now_ms = self._now_ms()
        result = self.result
        result.scanned += len(records)
        by_tenant: dict[str, list[SourcedEvent]] = {}
        for record in records:
            decoded = self._decoder.decode(record.value, judged_at_ms(record, now_ms))
            if isinstance(decoded, Event):
                sourced = SourcedEvent(decoded, record.offset, recorded_ms(record, now_ms))
                by_tenant.setdefault(decoded.tenant, []).append(sourced)
            elif isinstance(decoded, Skipped):
                result.skipped += 1
            else:
                result.rejected += 1
        kept: list[SourcedEvent] = []
        for tenant, events in by_tenant.items():
            if self._tenant is not None and tenant != self._tenant:
                result.of_others += len(events)
                continue
            if tenant not in self._removed:
                self._removed[tenant] = await self._history.removed_through(tenant, topic_id)
            removed = self._removed[tenant].get(partition, 0)
            result.removed += sum(event.offset < removed for event in events)
            events = [event for event in events if event.offset >= removed]
            rules = (await rules_for(self._catalogs, {tenant: events}))[tenant]
            registered = [event for event in events if event.event.outcome in rules.outcome_types]
            if registered and not await self._accepts(tenant):
                registered = []
            result.rejected += len(events) - len(registered)
            kept += registered
        kept.sort(key=lambda event: event.offset)
        return kept

    async def _accepts(self, tenant: str) -> bool:
        """Return whether a worker counts the tenant: it is known, or there is room for one more."""
        if self._registered_only and await unregistered(self._catalogs, [tenant]):
            return False
        if tenant not in self._tenants:
            if len(self._tenants) >= self._tenants_max:
                return False
            self._tenants.add(tenant)
        return True


def _split(batch: ScanBatch) -> Iterator[ScanBatch]:
    """Yield the batch in parts of at most BATCH_RECORDS."""
    parts = list(split_evenly(batch.records, BATCH_RECORDS))
    for records in parts[:-1]:
        yield ScanBatch(batch.partition, records, records[-1].offset + 1)
    yield ScanBatch(batch.partition, parts[-1] if parts else (), batch.next_offset)
