"""The part of a rebuild that the topic answers: all partitions at once, summed in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from store.identity_owners import partition_owners
from store.windows import DAY_MS
from streams.kafka.topic_scan import TopicScan
from streams.rebuild.owned import ActiveOwners
from streams.rebuild.pace import Pace
from streams.rebuild.progress import ProgressMeter
from streams.rebuild.records import RecordReader
from streams.rebuild.work import Works

#: Customers in memory, of all tenants, before the sums are written: about 1 KiB each.
CUSTOMERS_MAX: Final = 300_000
#: Batches between two looks at the memory.
CHECK_BATCHES: Final = 16


class TopicSummer:
    """Sums the records of the topic for several tenants, whose identities it remembers."""

    def __init__(
        self,
        scan: TopicScan,
        works: Works,
        reader: RecordReader,
        pace: Pace,
        owners: ActiveOwners,
        meter: ProgressMeter,
        *,
        slots_back: int,
        stored: Mapping[int, int],
        now_ms: Callable[[], int],
    ) -> None:
        """Each of `works` must have sums and seen identities.

        `stored`: partition -> history's watermark. An event below may have been a dead letter when
        history passed it, so it gets no owner: its copies are left to history.
        """
        self._scan = scan
        self._works = works
        self._reader = reader
        self._pace = pace
        self._owners = owners
        self._meter = meter
        self._slots_back = slots_back
        self._stored = stored
        self._now_ms = now_ms
        self._slots: dict[int, int] = {}
        self._position = {
            partition: min(work.starts[partition] for work in works.values())
            for partition in range(scan.partitions)
        }

    @property
    def positions(self) -> Mapping[int, int]:
        """Partition -> offset up to which it is summed."""
        return self._position

    async def sum_to(self, ends: Mapping[int, int]) -> None:
        """Sum the records up to `ends`, and write what does not fit into memory.

        Raises OffsetsGone, TopicChanged, RebuildError, StoreUnavailable.
        """
        begin = dict(self._position)
        total = sum(max(0, ends[p] - offset) for p, offset in begin.items())
        self._meter.begin("topic", total)
        self._scan.seek(self._position)
        batches = done = 0
        async for batch in self._scan.batches(ends):
            await self._sum(batch.partition, batch.records)
            done += batch.next_offset - self._position[batch.partition]
            self._position[batch.partition] = batch.next_offset
            self._meter.update(done, lag=max(0, total - done))
            await self._pace.pause(len(batch.records))
            batches += 1
            if batches % CHECK_BATCHES == 0:
                await self._bound_memory()

    async def _sum(self, partition: int, records: Sequence[Any]) -> None:
        works = self._works
        slot = None
        read = [  # history has those below the start
            each
            for each in self._reader.events(records, self._now_ms())
            if each.offset >= works[each.event.tenant].starts[partition]
        ]
        owners = partition_owners(self._scan.topic_id, partition)
        owners = owners._replace(first_offset=self._stored.get(partition, 0))
        for event, offset, arrived_ms in await self._owners.without_copies(works, partition, read):
            work = works.of(event)
            assert work is not None
            slot = arrived_ms // DAY_MS
            owner = owners.of(offset)
            if work.since is not None:
                work.since.add(event, partition, offset, slot, owner)
                continue
            assert work.seen is not None and work.sums is not None
            if work.seen.add(event.event_id[:8], slot, owner):  # identity_of, without the call
                work.sums.add(event)
        if slot is not None:
            self._slots[partition] = slot

    async def _bound_memory(self) -> None:
        if sum(work.sums.groups for work in self._works.values() if work.sums) >= CUSTOMERS_MAX:
            await self.write()
        if len(self._slots) == self._scan.partitions:
            oldest = min(self._slots.values()) - self._slots_back
            for work in self._works.values():
                if work.seen:
                    work.seen.forget_before(oldest, work.slots)

    async def write(self) -> None:
        """Write the sums that are in memory."""
        for work in self._works.values():
            if work.sums:
                await work.builder.write(work.sums.take())

    async def finish(self, oldest_slot: int) -> None:
        """Write the sums that are left, the identities from `oldest_slot`, and the watermarks."""
        await self.write()
        self._meter.begin("identities", None)
        for work in self._works.values():
            if work.seen:
                for slot, packed in work.seen.slots(oldest_slot, work.slots):
                    await work.builder.remember(slot, packed)
            work.seen = work.sums = None
            for partition, offset in self._position.items():
                await work.builder.count(self._scan.topic_id, partition, [], offset)
