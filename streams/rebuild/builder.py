"""One generation under construction: writes sums, identities and events into it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from store.counters import Committed, Deltas, Duplicates, Generation, Refused, Rolled
from store.identity_owners import ENTRY_BYTES, partition_owners
from store.records import SourcedEvent
from store.redis.builds import BUCKETS_MAX
from store.redis.counters import RedisCounters
from store.redis.watermarks import BUILD_LOG
from store.windows import Calendar
from streams.aggregate import aggregate, by_slot, distinct
from streams.rebuild.errors import RebuildError
from streams.rebuild.identities import buckets_of
from streams.rebuild.pace import Pace
from streams.rollover import ROLL_RECORDS

#: Events of one commit while the topic is followed.
FOLLOW_EVENTS: Final = 200
#: Turns of the event loop in which a command is sent to Redis.
SEND_TURNS: Final = 3


class Builder:
    """Writer of one tenant's new generation. Every method raises RebuildError, StoreUnavailable.

    Only the holder of the build token can write to the generation, so a refused commit that moved
    the watermark to where it was to go is this builder's own, whose answer was lost.
    """

    def __init__(
        self,
        counters: RedisCounters,
        pace: Pace,
        *,
        generation: Generation,
        calendar: Calendar,
        watermarks: Mapping[int, int],
    ) -> None:
        """`watermarks`: partition -> where the generation begins in the topic of now."""
        self.tenant = generation.tenant
        self.generation = generation
        self.calendar = calendar
        self.watermarks = dict(watermarks)
        self.events = 0
        """Events that are written."""
        self._counters = counters
        self._pace = pace
        self.writes = 0
        """Writes of sums and identities: what Redis has lost of them is noticed by their number."""

    async def write(self, deltas: Iterable[Deltas]) -> None:
        """Add sums of events whose identities are written by `remember`.

        The maximum rate is kept by whoever reads the events. While Redis applies one of the deltas,
        the next ones are made.
        """
        writing: asyncio.Task[None] | None = None
        try:
            for each in deltas:
                if writing is not None:
                    await writing
                writing = asyncio.create_task(self._write(each))
                for _ in range(SEND_TURNS):
                    await asyncio.sleep(0)
            if writing is not None:
                await writing
        except BaseException:
            if writing is not None:
                writing.cancel()
                await asyncio.wait({writing})
            raise

    async def _write(self, deltas: Deltas) -> None:
        answer = await self._commit(BUILD_LOG, 0, self.writes, self.writes + 1, deltas)
        if not isinstance(answer, Committed):
            raise self._interfered(answer)
        self.writes += 1
        self.events += deltas.events

    async def remember(self, slot: int, packed: bytes) -> None:
        """Write all entries of one slot, concatenated, before the topic is followed."""
        buckets = buckets_of(packed)
        for first in range(0, len(buckets), BUCKETS_MAX):
            stored = await self._pace.call(
                0,
                self._counters.builds.load_identities,
                self.generation,
                slot,
                buckets[first : first + BUCKETS_MAX],
                first=first,
                identities=len(packed) // ENTRY_BYTES,
                writes=self.writes,
            )
            if not stored:
                raise self._interfered(None)
            self.writes += 1

    async def count(
        self, topic_id: str, partition: int, events: Sequence[SourcedEvent], next_offset: int
    ) -> None:
        """Count `events`, all that the tenant has from the watermark to `next_offset`."""
        events = [e for e in events if e.offset >= self.watermarks.get(partition, 0)]
        for first in range(0, max(1, len(events)), FOLLOW_EVENTS):
            part = events[first : first + FOLLOW_EVENTS]
            is_last = first + FOLLOW_EVENTS >= len(events)
            await self._count(
                topic_id, partition, part, next_offset if is_last else part[-1].offset + 1
            )

    async def _count(
        self, topic_id: str, partition: int, events: Sequence[SourcedEvent], next_offset: int
    ) -> None:
        expected_offset = self.watermarks.get(partition)
        if expected_offset is not None and expected_offset >= next_offset:
            return
        owners = partition_owners(topic_id, partition)
        kept, _ = distinct(events)
        ordered = list(by_slot(kept))
        while True:
            deltas = aggregate(ordered, self.calendar, owners) if ordered else Deltas()
            answer = await self._commit(topic_id, partition, expected_offset, next_offset, deltas)
            if not isinstance(answer, Duplicates):
                break
            copies = set(answer.indexes)
            ordered = [e for i, e in enumerate(ordered) if i not in copies]
        if not isinstance(answer, Committed) or answer.damaged:
            raise self._interfered(answer)
        self.watermarks[partition] = next_offset
        self.events += len(ordered)

    async def _commit(
        self,
        topic_id: str,
        partition: int,
        expected_offset: int | None,
        next_offset: int,
        deltas: Deltas,
    ) -> Committed | Duplicates | Refused:
        answer = await self._pace.call(
            0 if topic_id == BUILD_LOG else deltas.events,
            self._counters.commit,
            self.generation,
            topic_id=topic_id,
            partition=partition,
            expected_offset=expected_offset,
            next_offset=next_offset,
            deltas=deltas,
        )
        if isinstance(answer, Refused) and await self._is_done(topic_id, partition, next_offset):
            return Committed()
        return answer

    async def _is_done(self, topic_id: str, partition: int, next_offset: int) -> bool:
        """Return whether the generation is still ours, and at `next_offset`."""
        stored = await self._pace.call(
            0, self._counters.build_watermark, self.generation, topic_id, partition
        )
        return stored == next_offset

    async def roll(self, today: int) -> None:
        """Move the window day to `today`, if midnight passed while the generation was built."""
        while self.generation.day < today or (self.generation.rolled or 0) < self.generation.day:
            answer = await self._pace.call(
                0, self._counters.roll, self.generation, today, now_ms=0, records_max=ROLL_RECORDS
            )
            if not isinstance(answer, Rolled):
                raise self._interfered(answer)
            self.generation = self.generation._replace(
                day=answer.day,
                rolled=answer.day if answer.finished else self.generation.rolled,
            )

    async def doubt(self) -> None:
        """Keep the generation from being complete: history has events that it lacks."""
        if not await self._pace.call(0, self._counters.doubt, self.generation):
            raise self._interfered(None)

    async def drop(self) -> None:
        """Delete the generation."""
        await self._counters.drop(self.generation)

    def _interfered(self, answer: Any) -> RebuildError:
        return RebuildError(
            f"tenant {self.tenant}: the new generation {self.generation.number} was dropped or "
            f"changed by somebody else ({answer}); the live counters are unchanged; run the "
            "rebuild again"
        )
