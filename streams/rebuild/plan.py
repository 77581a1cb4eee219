"""Plan of a rebuild: what comes from history, what from the topic, what neither has. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from store.counters import Position, Source
from store.offsets import Gap

From = Literal["topic", "history", "auto"]


class TopicView(NamedTuple):
    """What the topic holds."""

    topic_id: str
    earliest: Mapping[int, int]
    """Partition -> earliest offset; all partitions."""


class HistoryView(NamedTuple):
    """What history holds, of all tenants."""

    positions: Mapping[Source, int]
    """History has the offsets below, except its gaps."""
    gaps: Sequence[Gap] = ()


class Plan(NamedTuple):
    """Where each event of the new generation comes from."""

    watermarks: Sequence[Position]
    """Watermarks of the new generation at its creation: the rows of history are below them, and
    the topic is read from them on."""
    topic_starts: Mapping[int, int]
    """Partition -> the same, of the topic as it is now; empty if the topic is not known."""
    whole_history: bool
    """Whether all rows of history are taken. Otherwise only those that the topic does not hold."""
    uses_history: bool
    lost: Sequence[Gap]
    """Offsets that the active generation has reached, or that history stored, and that the new one
    cannot get from its source."""


def make_plan(
    source: From,
    topic: TopicView | None,
    history: HistoryView,
    reach: Mapping[Source, int],
) -> Plan:
    """Return the plan of one tenant's rebuild.

    `topic` is None if Kafka does not answer, which only the source `history` can do without.
    `reach`: what the active generation has counted, or has yet to count; empty if there is none.
    """
    positions = history.positions
    current = topic.topic_id if topic else None
    starts: dict[Source, int] = {}
    lost: list[Gap] = []
    for key in sorted({*positions, *reach, *_sources(topic)}):
        stored = positions.get(key, 0) if source != "topic" else 0
        held = topic.earliest.get(key[1]) if topic and key[0] == current else None
        if held is None:  # another topic id, or Kafka does not answer
            starts[key] = stored
            end = max(reach.get(key, 0), positions.get(key, 0))
            if end > stored and topic:
                lost.append(Gap(*key, stored, end))
            continue
        starts[key] = max(held, stored) if source == "history" else held
        end = min(starts[key], max(reach.get(key, 0), positions.get(key, 0)))
        if end > stored:
            lost.append(Gap(*key, stored, end))
    if source != "topic":
        for gap in history.gaps:
            reached = min(starts.get(gap.source, 0), reach.get(gap.source, 0))
            if (end := min(gap.next_offset, reached)) > gap.first_offset:
                lost.append(gap._replace(next_offset=end))
    return Plan(
        watermarks=[Position(*key, offset) for key, offset in starts.items()],
        topic_starts={p: starts[current, p] for p in topic.earliest} if topic and current else {},
        whole_history=source == "history",
        uses_history=source != "topic",
        lost=sorted(lost),
    )


def _sources(topic: TopicView | None) -> Iterable[Source]:
    return ((topic.topic_id, partition) for partition in topic.earliest) if topic else ()
