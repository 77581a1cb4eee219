"""Progress of a rebuild: phase, events, rate, lag and remaining time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

from msgspec import Struct

Phase = Literal[
    "counters", "history", "topic", "identities", "catching up", "verifying", "done", "failed"
]
#: Weight of the last interval in the rate.
_RATE_WEIGHT: Final = 0.3


class Progress(Struct, frozen=True, rename="camel"):
    """State of the rebuild of one tenant, or of several that are rebuilt together."""

    tenant: str
    phase: Phase
    done: int
    """Events that are read and summed, in this phase."""
    total: int | None
    """Events of this phase; None = not known."""
    events_per_s: float
    lag: int | None
    """Offsets of the topic that are not in the new generation yet; None = not known."""
    eta_s: float | None
    """Remaining time of this phase; None = not known."""
    at_ms: int


#: Called with each change, at most a few times a second.
Report = Callable[[Progress], None]


class ProgressMeter:
    """Makes Progress of what the phases report."""

    def __init__(self, tenant: str, report: Report, now_ms: Callable[[], int]) -> None:
        self._tenant = tenant
        self._report = report
        self._now_ms = now_ms
        self._phase: Phase = "history"
        self._began_ms = 0
        self._last_ms = 0
        self._last_done = 0
        self._rate = 0.0

    def begin(self, phase: Phase, total: int | None) -> None:
        """Start a phase of `total` events."""
        now_ms = self._now_ms()
        self._phase, self._total = phase, total
        self._began_ms = self._last_ms = now_ms
        self._last_done, self._rate = 0, 0.0
        self.update(0)

    def update(self, done: int, *, lag: int | None = None) -> None:
        """Report `done` events of the phase."""
        now_ms = self._now_ms()
        passed_s = (now_ms - self._last_ms) / 1e3
        if passed_s > 0:
            rate = (done - self._last_done) / passed_s
            first = self._last_ms == self._began_ms
            self._rate = rate if first else self._rate + _RATE_WEIGHT * (rate - self._rate)
            self._last_ms, self._last_done = now_ms, done
        left = None if self._total is None else max(0, self._total - done)
        self._report(
            Progress(
                tenant=self._tenant,
                phase=self._phase,
                done=done,
                total=self._total,
                events_per_s=round(self._rate, 1),
                lag=lag,
                eta_s=round(left / self._rate, 1) if left is not None and self._rate > 0 else None,
                at_ms=now_ms,
            )
        )
