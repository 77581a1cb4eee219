"""Spans of the worker: one per commit batch and one per history transaction, never per event.

Imported only where TRACES_ENABLED is set. See `store.tracing` for what spans may contain.

`faust.contrib.opentelemetry` does not fit: it makes a span per message of the stream, which is a
fetched batch here, and ends it when the agent takes the next one. The agent only puts the batch
into a queue, so that span would measure nothing. Spans of producers are not linked: each of the
hundreds of records in a batch may have another one, and finding them costs a look at the headers
of every record.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from opentelemetry import trace
from opentelemetry.trace import SpanKind, Tracer

from store.offsets import Gap
from store.postgres.history import HistoryRefused, HistoryWriter
from store.postgres.pool import Pool
from store.postgres.quarantine import QuarantinedRecord
from store.records import SourcedEvent
from store.tracing import PACKAGE, Traces, span
from streams.commit_batch import CommitBatch
from streams.pipeline import Pipeline


def start_traces() -> Traces:
    """Start the export of this process's traces. Raises TracesRefused."""
    traces = Traces("interaction-summary-worker")
    trace.set_tracer_provider(traces.provider)
    return traces


def tracer() -> Tracer:
    """Return the tracer of this process; its spans go nowhere before `start_traces`."""
    return trace.get_tracer(PACKAGE)


class TracedPipeline(Pipeline):
    """Pipeline with a span per commit batch: dead letters, counters and the place in the buffer.

    Its time includes retries of a store, and the wait while the buffer of history is full.
    """

    def __init__(self, tracer: Tracer, topic: str, **parts: Any) -> None:
        """`parts`: the arguments of `Pipeline`."""
        super().__init__(**parts)
        self._tracer = tracer
        self._topic = topic

    async def _commit(
        self,
        partition: int,
        records: Sequence[Any],
        batch: CommitBatch,
        gaps: Sequence[Gap],
        acknowledge: Callable[[], None],
        *,
        more: bool,
    ) -> None:
        attributes = {
            **_partition_attributes(self._topic, partition),
            "messaging.batch.message_count": len(records),
            "messaging.kafka.offset": records[0].offset,
            "interaction_summary.events": sum(len(events) for events in batch.events.values()),
            "interaction_summary.tenants": len(batch.events),
            "interaction_summary.rejected": len(batch.rejected),
        }
        with span(self._tracer, "commit batch", SpanKind.CONSUMER, attributes):
            await super()._commit(partition, records, batch, gaps, acknowledge, more=more)


class TracedHistoryWriter(HistoryWriter):
    """History writer with a span per transaction; a retry is another one."""

    def __init__(self, pool: Pool, tracer: Tracer) -> None:
        super().__init__(pool)
        self._tracer = tracer

    async def write(
        self,
        *,
        topic: str,
        topic_id: str,
        partition: int,
        expected_offset: int | None,
        next_offset: int,
        events: Sequence[SourcedEvent],
        gaps: Sequence[Gap] = (),
        quarantined: Sequence[QuarantinedRecord] = (),
    ) -> int | HistoryRefused:
        """Store the events, as `HistoryWriter.write` does."""
        attributes = {
            **_partition_attributes(topic, partition),
            "db.system.name": "postgresql",
            "interaction_summary.events": len(events),
            "interaction_summary.tenants": len({each.event.tenant for each in events}),
        }
        with span(self._tracer, "history transaction", SpanKind.CLIENT, attributes) as current:
            answer = await super().write(
                topic=topic,
                topic_id=topic_id,
                partition=partition,
                expected_offset=expected_offset,
                next_offset=next_offset,
                events=events,
                gaps=gaps,
                quarantined=quarantined,
            )
            if isinstance(answer, int):
                current.set_attribute("interaction_summary.stored", answer)
            return answer


def _partition_attributes(topic: str, partition: int) -> dict[str, str | int]:
    return {
        "messaging.system": "kafka",
        "messaging.destination.name": topic,
        "messaging.destination.partition.id": str(partition),
    }
