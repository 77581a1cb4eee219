"""Notices that a partition stands still though events wait in it. Pure: the time is an argument."""

from __future__ import annotations

from collections.abc import Mapping


class Watchdog:
    """Looks at each partition on its own: one that is stuck must not hide behind others."""

    def __init__(self, stall_s: float) -> None:
        """`stall_s`: how long a partition with events that wait may stand still."""
        self._stall_s = stall_s
        self._seen: dict[int, tuple[int, float]] = {}

    def stalled(
        self, now_s: float, positions: Mapping[int, int], ends: Mapping[int, int | None]
    ) -> list[int]:
        """The partitions that have stood still for too long. `positions`: partition -> the offset
        up to which it is counted; `ends`: partition -> its end, None = unknown."""
        seen: dict[int, tuple[int, float]] = {}
        for partition, position in positions.items():
            before, since_s = self._seen.get(partition, (position, now_s))
            waits = (ends.get(partition) or 0) > position
            seen[partition] = (position, since_s if waits and before == position else now_s)
        self._seen = seen
        return [p for p, (_, since_s) in seen.items() if now_s - since_s > self._stall_s]
