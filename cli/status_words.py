"""Numbers, times and lists of `status` as text for people."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from cli.status_document import RunningRebuildStatus


def number(n: float | None) -> str:
    """Return a number with separators; `?` = unknown."""
    return "?" if n is None else f"{n:,.0f}"


def size(n: int | None) -> str:
    """Return bytes in MiB or GiB; `?` = unknown."""
    if n is None:
        return "?"
    return f"{n / 2**20:,.1f} MiB" if n < 2**30 else f"{n / 2**30:,.1f} GiB"


def duration(seconds: float) -> str:
    """Return a duration in one unit."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    for below, divisor, unit in ((120, 1, "s"), (7_200, 60, "min"), (172_800, 3_600, "h")):
        if seconds < below:
            return f"{seconds / divisor:.0f} {unit}"
    return f"{seconds / 86_400:,.0f} days"


def ago(now: str, at: str) -> str:
    """Return the time from `at` until `now`."""
    passed = datetime.fromisoformat(now) - datetime.fromisoformat(at)
    return f"{duration(max(0.0, passed.total_seconds()))} ago"


def listed(names: Sequence[str], *, shown_max: int = 3) -> str:
    """Return the first names, and how many there are beyond: `a, b, c and 7 more`."""
    if len(names) <= shown_max + 1:
        return ", ".join(names)
    return f"{', '.join(names[:shown_max])} and {len(names) - shown_max:,} more"


def joined(parts: Sequence[str], *, shown_max: int = 4) -> str:
    """Return parts of a sentence: `a, b and c`, and how many there are beyond `shown_max`."""
    if len(parts) > shown_max:
        parts = [*parts[:shown_max], f"{len(parts) - shown_max:,} more"]
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def progress_of(rebuild: RunningRebuildStatus) -> str:
    """Return the progress of a running rebuild: phase, events, rate, lag and remaining time."""
    parts = [rebuild.phase]
    if rebuild.total:
        percent = f"{min(100, rebuild.done * 100 // rebuild.total)}%"
        parts.append(f"{percent} ({rebuild.done:,} of {rebuild.total:,} events)")
    elif rebuild.done:
        parts.append(f"{rebuild.done:,} events")
    if rebuild.events_per_s:
        parts.append(f"{rebuild.events_per_s:,.0f}/s")
    if rebuild.lag is not None:
        parts.append(f"lag {rebuild.lag:,}")
    if rebuild.eta_s is not None:
        parts.append(f"{duration(rebuild.eta_s)} left")
    return ", ".join(parts)
