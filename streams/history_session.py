"""Read session of history: writes batches of events, and knows history's watermarks."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence

from store import metrics
from store.offsets import Gap, after, offsets_in
from store.postgres.history import HistoryRefused, HistoryWriter
from store.postgres.quarantine import QuarantinedRecord
from store.records import SourcedEvent
from streams.commit_batch import split_evenly
from streams.dead_letters.quarantine import report, row_of_event
from streams.isolation import Isolation
from streams.retry import retry
from streams.tenant_state import RewindRequired


def no_acknowledgement() -> None:
    """Do nothing: only the last part of a fetched batch acknowledges it."""


@dataclasses.dataclass
class HistoryBatch:
    """Events of one commit batch, counted but not yet in history."""

    events: Sequence[SourcedEvent]
    next_offset: int
    acknowledge: Callable[[], None]
    """Called when the batch is in history."""
    size: int = 0
    """Bytes of the records that the events came in."""
    gaps: Sequence[Gap] = ()
    """Offsets before the events that retention took."""

    def split(self, events_max: int) -> list[HistoryBatch]:
        """Return the batch in even parts of at most `events_max` events; the last acknowledges."""
        parts = list(split_evenly(self.events, events_max))
        if len(parts) < 2:
            return [self]
        size = self.size // len(parts)
        batches = [
            HistoryBatch(part, part[-1].offset + 1, no_acknowledgement, size) for part in parts
        ]
        batches[0].gaps = self.gaps
        batches[-1].next_offset, batches[-1].acknowledge = self.next_offset, self.acknowledge
        return batches


class HistorySession:
    """Writer of the partitions of one read session."""

    def __init__(
        self,
        writer: HistoryWriter,
        isolation: Isolation,
        *,
        topic: str,
        topic_id: str,
        positions: Mapping[int, int | None],
        gaps: Sequence[Gap],
    ) -> None:
        """Create a session; see `HistorySink.start_session`."""
        self._writer = writer
        self._isolation = isolation
        self._topic = topic
        self._topic_id = topic_id
        self._gaps = gaps
        self.positions = dict(positions)
        """Partition -> history's watermark; None where it has none."""
        self.ended = False
        """Set when another session starts; nothing is written or acknowledged any more."""

    async def write(self, partition: int, batches: Sequence[HistoryBatch]) -> None:
        """Write the batches and acknowledge them; quarantine events that cannot be stored."""
        events = [event for batch in batches for event in batch.events]
        lost = [
            *(gap for gap in self._gaps if gap.partition == partition),
            *(gap for batch in batches for gap in batch.gaps),
        ]

        def end_of(part: Sequence[SourcedEvent]) -> int:
            is_last = not part or part[-1] is events[-1]
            return batches[-1].next_offset if is_last else part[-1].offset + 1

        async def write(part: Sequence[SourcedEvent]) -> None:
            await self._write_events(partition, part, lost, end_of(part))

        async def quarantine(event: SourcedEvent, error: Exception) -> None:
            self._isolation.note_failure(error, partition=partition, offset=event.offset)
            row = row_of_event(
                event, error, topic=self._topic, topic_id=self._topic_id, partition=partition
            )
            await self._write_events(partition, [], lost, end_of([event]), row)

        await self._isolation.run(events, write, quarantine)
        if not self.ended:
            for batch in batches:
                with contextlib.suppress(Exception):  # an acknowledgement is only a hint
                    batch.acknowledge()

    async def _write_events(
        self,
        partition: int,
        events: Sequence[SourcedEvent],
        lost: Sequence[Gap],
        next_offset: int,
        quarantined: QuarantinedRecord | None = None,
    ) -> None:
        """Move the watermark to `next_offset`, with the events, or with one that is quarantined.

        History lacks the quarantined one, which the counters have: that is a gap.
        """
        rows = [] if quarantined is None else [quarantined]
        unstored = [Gap(r.topic_id, partition, r.offset, r.next_offset) for r in rows]
        while not self.ended:
            expected_offset = self.positions[partition]
            if expected_offset is not None and expected_offset >= next_offset:
                break
            if expected_offset is not None:
                events = [event for event in events if event.offset >= expected_offset]
            gaps = after(lost, expected_offset or 0)
            answer = await retry(
                "history",
                self._writer.write,
                topic=self._topic,
                topic_id=self._topic_id,
                partition=partition,
                expected_offset=expected_offset,
                next_offset=next_offset,
                events=events,
                gaps=[*gaps, *unstored],
                quarantined=rows,
            )
            if isinstance(answer, HistoryRefused):
                stored_offset = answer.watermark
                if stored_offset is None or (
                    expected_offset is not None and stored_offset < expected_offset
                ):
                    raise RewindRequired(
                        f"history is at offset {stored_offset} of partition {partition}, "
                        f"not at {expected_offset}"
                    )
                if not self.ended:
                    self.positions[partition] = stored_offset
                continue
            metrics.STORED.inc(answer)
            metrics.LOST_OFFSETS.labels("history").inc(offsets_in(gaps))
            for row in rows:
                report(row)
            if not self.ended:
                self.positions[partition] = next_offset
            break
