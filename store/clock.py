"""The system clock, for the code that wires parts; all other code takes the time as input."""

from __future__ import annotations

import time


def system_clock_ms() -> int:
    """Return the milliseconds since the Unix epoch."""
    return time.time_ns() // 1_000_000
