"""How long events wait from their arrival in Kafka until they are counted, which is when readers
see them: for the metric, and of the last ones for `status`."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

from store import metrics
from store.counters import Visible

#: What `status` is told of: so many commits of a partition, none older than this.
RECENT_COMMITS: Final = 32
RECENT_MS: Final = 60_000


class Freshness:
    """Told of every commit. Arrival is the record's time stamp in Kafka, never the event's own
    time: a late event is fresh when it is counted right after it arrived."""

    def __init__(self) -> None:
        self._since_ms = 0
        self._recent: dict[int, deque[tuple[int, list[int]]]] = {}

    def begin(self, at_ms: int) -> None:
        """Reading begins (again). What arrived before is caught up with: it waited for a worker,
        or was counted once before, which says nothing of how fast this one is."""
        self._since_ms = at_ms
        self._recent.clear()

    def note(self, partition: int, arrived_ms: Iterable[int], at_ms: int) -> None:
        """Events of these arrivals were counted at `at_ms`. Clocks may differ: an event from the
        future waited for 0 ms."""
        live: list[int] = []
        for arrived in arrived_ms:
            waited_ms = max(0, at_ms - arrived)
            if arrived >= self._since_ms:
                live.append(waited_ms)
                metrics.VISIBLE_LIVE.observe(waited_ms / 1e3)
            else:
                metrics.VISIBLE_CATCH_UP.observe(waited_ms / 1e3)
        if live:
            recent = self._recent.setdefault(partition, deque(maxlen=RECENT_COMMITS))
            recent.append((at_ms, live))

    def recent(self, partition: int, at_ms: int) -> Visible | None:
        """Of the events that arrived and were counted last; None = none did within a minute."""
        waits_ms = sorted(
            waited_ms
            for counted_ms, waits in self._recent.get(partition, ())
            if counted_ms > at_ms - RECENT_MS
            for waited_ms in waits
        )
        if not waits_ms:
            return None
        last = len(waits_ms) - 1
        return Visible(waits_ms[last // 2], waits_ms[last * 99 // 100], waits_ms[last])
