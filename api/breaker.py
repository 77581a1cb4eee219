"""Circuit breaker: consecutive failures stop the calls to a store for a while.

After that time a single call, the probe, decides whether calls are allowed again. Pure: the time,
in seconds of any monotonic clock, is an argument.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

State = Literal["closed", "open", "half_open"]


class Permit(NamedTuple):
    """Permission for one call; returned with `Breaker.leave`."""

    epoch: int


class Breaker:
    """Circuit breaker with the states closed, open and half-open.

    Closed: all calls are permitted. Open: none is. Half-open: one probe is running, and its result
    decides the next state.

    Every change of state starts a new epoch. Results of calls from an earlier epoch are ignored: a
    call that started long ago says nothing about the current state of the store.
    """

    def __init__(self, *, failures_max: int, open_s: float) -> None:
        """Open after `failures_max` consecutive failures, for `open_s` seconds."""
        self._failures_max = failures_max
        self._open_s = open_s
        self._state: State = "closed"
        self._epoch = 0
        self._failures = 0
        self._probe_at_s = 0.0

    @property
    def state(self) -> State:
        return self._state

    def enter(self, now_s: float) -> Permit | None:
        """Return a permit for one call, or None if no call is allowed. Each must be returned."""
        if self._state == "closed":
            return Permit(self._epoch)
        if self._state == "open" and now_s >= self._probe_at_s:
            self._become("half_open")
            return Permit(self._epoch)
        return None

    def leave(
        self, permit: Permit, result: Literal["ok", "failed", "unknown"], now_s: float
    ) -> None:
        """Return `permit`. `unknown`: the call was cancelled for a reason outside the store."""
        if permit.epoch != self._epoch:
            return
        if self._state == "half_open":
            self._end_probe(result, now_s)
        elif result == "ok":
            self._failures = 0
        elif result == "failed":
            self._failures += 1
            if self._failures >= self._failures_max:
                self._open(now_s + self._open_s)

    def _end_probe(self, result: Literal["ok", "failed", "unknown"], now_s: float) -> None:
        if result == "ok":
            self._failures = 0
            self._become("closed")
        else:
            # A cancelled probe has no result: the next call may be a probe immediately.
            self._open(now_s + self._open_s if result == "failed" else now_s)

    def _open(self, probe_at_s: float) -> None:
        self._probe_at_s = probe_at_s
        self._become("open")

    def _become(self, state: State) -> None:
        self._state = state
        self._epoch += 1
