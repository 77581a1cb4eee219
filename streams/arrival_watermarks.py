"""Arrival-time watermarks: every record that arrived before one has been counted.

Pure: the time is an argument. Identities are remembered by arrival time, for the dedup horizon.
Behind a backlog of days the clock does not tell what may still be read: a copy that arrived an hour
after its original is read an hour of records after it, however late that is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping

#: Distance between two remembered ends of a partition, and how many are kept: a day. After that
#: the newest one waits to be reached.
STEP_MS = 60_000
ENDS_MAX = 1_440


class ArrivalWatermarks:
    """Arrival-time watermarks of the partitions that a worker reads."""

    def __init__(self) -> None:
        self._watermarks_ms: dict[int, int] = {}
        self._ends: dict[int, deque[tuple[int, int]]] = {}
        self._suspended = False

    def begin(self, partitions: Iterable[int]) -> None:
        """Start a read session, perhaps before the last position: no watermark is known."""
        self._watermarks_ms = dict.fromkeys(partitions, 0)
        self._ends.clear()
        self._suspended = False

    def suspend(self) -> None:
        """Treat every watermark as not known until the next session: a rewind is on its way.

        Records below the current positions will be read again, so these positions do not tell which
        arrivals have been counted.
        """
        self._suspended = True

    def update(
        self, now_ms: int, positions: Mapping[int, int], ends: Mapping[int, int | None]
    ) -> Mapping[int, int]:
        """Return the watermark of each partition, in ms; 0 = not known.

        `positions`: partition -> offset below which everything is counted. `ends`: partition -> its
        end offset; None = not known.
        """
        if self._suspended:
            return dict.fromkeys(positions, 0)
        for partition, position in positions.items():
            end = ends.get(partition)
            pending = self._ends.setdefault(partition, deque())
            if end is not None and position >= end:
                pending.clear()
                self._watermarks_ms[partition] = now_ms
            elif end is not None:
                if not pending or (now_ms - pending[-1][0] >= STEP_MS and len(pending) < ENDS_MAX):
                    pending.append((now_ms, end))
                while pending and pending[0][1] <= position:
                    self._watermarks_ms[partition] = pending.popleft()[0]
        return dict(self._watermarks_ms)
