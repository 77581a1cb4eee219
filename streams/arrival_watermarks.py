"""Up to when everything that arrived has been read. Pure: the time is an argument.

Identities are remembered by arrival, for the horizon. Behind a backlog of days "now" says nothing
of what may still be read: a copy that arrived an hour after its original is read an hour of events
after it, however late that is."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping

#: Ends are kept this far apart, and so many: a day, after which the newest waits to be reached.
STEP_MS = 60_000
KEPT_MAX = 1_440


class ArrivalWatermarks:
    """Of the partitions that a worker reads."""

    def __init__(self) -> None:
        self._read: dict[int, int] = {}
        self._ends: dict[int, deque[tuple[int, int]]] = {}

    def begin(self, partitions: Iterable[int]) -> None:
        """Reading begins, perhaps before where it was: of no partition anything is known."""
        self._read = dict.fromkeys(partitions, 0)
        self._ends.clear()

    def look(
        self, now_ms: int, positions: Mapping[int, int], ends: Mapping[int, int | None]
    ) -> Mapping[int, int]:
        """Partition -> all that arrived before this has been counted; 0 = not known. `positions`:
        partition -> counted up to; `ends`: partition -> its end, None = not known."""
        for partition, position in positions.items():
            end = ends.get(partition)
            waiting = self._ends.setdefault(partition, deque())
            if end is not None and position >= end:
                waiting.clear()
                self._read[partition] = now_ms
            elif end is not None:
                if not waiting or (now_ms - waiting[-1][0] >= STEP_MS and len(waiting) < KEPT_MAX):
                    waiting.append((now_ms, end))
                while waiting and waiting[0][1] <= position:
                    self._read[partition] = waiting.popleft()[0]
        return dict(self._read)
