"""Division of the events of one commit batch into parts that history takes at once."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from store.offsets import Gap
from store.records import Event, SourcedEvent
from streams.history_session import HistoryBatch

GAP = Gap("topic", 0, 0, 5)


@given(n=st.integers(0, 40), events_max=st.integers(1, 12))
def test_all_events_are_in_one_part_and_the_last_acknowledges(n: int, events_max: int) -> None:
    event = Event(b"", "t", "c", "o", None, None, "click", 0, None, None, None, None, None, None)
    # Every second offset has an event: those between were rejected.
    events = [SourcedEvent(event, 5 + 2 * i, 0) for i in range(n)]
    acknowledged: list[int] = []
    whole = HistoryBatch(events, 100, lambda: acknowledged.append(1), 1_000, [GAP])
    parts = whole.split(events_max)
    assert [e for part in parts for e in part.events] == events
    assert all(len(part.events) <= events_max for part in parts)
    assert parts[0].gaps == [GAP]
    assert not any(part.gaps for part in parts[1:])
    assert parts[-1].next_offset == 100
    for part, following in itertools.pairwise(parts):
        assert part.events[-1].offset < part.next_offset <= following.events[0].offset
        part.acknowledge()
    assert not acknowledged
    parts[-1].acknowledge()
    assert acknowledged == [1]
