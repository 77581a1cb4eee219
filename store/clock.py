"""The machine's clock, for the places where parts are wired; everything else is told the time."""

from __future__ import annotations

import time


def system_clock_ms() -> int:
    """Milliseconds since the Unix epoch."""
    return time.time_ns() // 1_000_000
