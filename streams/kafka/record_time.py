"""Timestamps of records that are no time in ms. Producers also send s, µs and ns. Pure."""

from __future__ import annotations

from typing import Final

from store.windows import DAY_MS

#: A timestamp further ahead of the clock is not in ms.
RECORDED_AHEAD_MAX_MS: Final = 10 * 365 * DAY_MS
#: 2010-01-01, before the first release of Kafka: a smaller timestamp is in s, or is none.
_EARLIEST_MS: Final = 1_262_304_000_000


def known_ms(timestamp: int, now_ms: int) -> int | None:
    """Return the timestamp, or None if it is no time in ms, so the arrival is not known."""
    return timestamp if _EARLIEST_MS <= timestamp <= now_ms + RECORDED_AHEAD_MAX_MS else None
