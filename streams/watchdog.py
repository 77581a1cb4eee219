"""Watchdog of partitions that stand still while records wait, or may wait.

Pure: the time is an argument.
"""

from __future__ import annotations

from collections.abc import Mapping


class Watchdog:
    """Notices stalled partitions.

    It looks at each partition separately: a stalled one must not hide behind others.
    """

    def __init__(self, stall_s: float) -> None:
        """Create a watchdog.

        A partition with lag, or whose end is not known, may stand still for `stall_s`.
        """
        self._stall_s = stall_s
        self._seen: dict[int, tuple[int, float]] = {}

    def stalled(
        self, now_s: float, positions: Mapping[int, int], ends: Mapping[int, int | None]
    ) -> list[int]:
        """Return the partitions that have stood still for too long.

        `positions`: partition -> offset below which it is counted. `ends`: partition -> its end
        offset; None = not known.
        """
        seen: dict[int, tuple[int, float]] = {}
        for partition, position in positions.items():
            before, since_s = self._seen.get(partition, (position, now_s))
            end = ends.get(partition)
            may_wait = end is None or end > position
            seen[partition] = (position, since_s if may_wait and before == position else now_s)
        self._seen = seen
        return [p for p, (_, since_s) in seen.items() if now_s - since_s > self._stall_s]
