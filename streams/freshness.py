"""Time from an event's arrival in Kafka to its count, when readers see it.

For the metric, and of the last commits for `status`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

from store import metrics
from store.counters import Visible

#: What `recent` summarizes: so many commits of a partition, none older than this.
RECENT_COMMITS: Final = 32
RECENT_MS: Final = 60_000


class Freshness:
    """Records how long each event waited between Kafka and its commit.

    Arrival is the record's timestamp in Kafka, never the event's own time: a late event is fresh
    when it is counted right after it arrived.
    """

    def __init__(self) -> None:
        self._since_ms = 0
        self._recent: dict[int, deque[tuple[int, list[int]]]] = {}

    def begin(self, at_ms: int) -> None:
        """Start a read session at `at_ms`.

        Events that arrived before are catch-up: they waited for a worker, or were counted once
        before, which says nothing about how fast this worker is.
        """
        self._since_ms = at_ms
        self._recent.clear()

    def note(self, partition: int, arrived_ms: Iterable[int], at_ms: int) -> None:
        """Record that events of these arrival times were counted at `at_ms`.

        Clocks may differ: an arrival in the future is a wait of 0 ms.
        """
        arrived_ms = list(arrived_ms)
        live = [max(0, at_ms - arrived) for arrived in arrived_ms if arrived >= self._since_ms]
        if live:
            metrics.VISIBLE_LIVE.observe_all([waited_ms / 1e3 for waited_ms in live])
        if len(live) < len(arrived_ms):
            metrics.VISIBLE_CATCH_UP.observe_all(
                [max(0, at_ms - a) / 1e3 for a in arrived_ms if a < self._since_ms]
            )
        if live:
            recent = self._recent.setdefault(partition, deque(maxlen=RECENT_COMMITS))
            recent.append((at_ms, live))

    def recent(self, partition: int, at_ms: int) -> Visible | None:
        """Return the waits of the last live events; None if there was none within a minute."""
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
