"""A circuit breaker: after enough failures in a row a store is left alone for a while, then tried
with a single call. Pure: the time, in seconds of any steadily growing clock, is an argument."""

from __future__ import annotations

from typing import Literal, NamedTuple

State = Literal["closed", "open", "half_open"]


class Permit(NamedTuple):
    """Leave to make one call; hand it back with `Breaker.leave`."""

    epoch: int


class Breaker:
    """Closed: calls pass. Open: none does. Half-open: one probe is out, and its result decides.

    Every change of state begins a new epoch, and results of calls from an earlier one are ignored:
    a call begun long ago says nothing about the store of now.
    """

    def __init__(self, *, failures_max: int, open_s: float) -> None:
        """`failures_max`: failures in a row that open it; `open_s`: how long it stays open."""
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
        """Leave to call, or None: do not call. Every permit must be handed back."""
        if self._state == "closed":
            return Permit(self._epoch)
        if self._state == "open" and now_s >= self._probe_at_s:
            self._become("half_open")
            return Permit(self._epoch)
        return None

    def leave(
        self, permit: Permit, result: Literal["ok", "failed", "unknown"], now_s: float
    ) -> None:
        """Hands `permit` back. `unknown`: the call was given up for a reason not the store's."""
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
            # A probe that was given up learned nothing: the next caller may probe at once.
            self._open(now_s + self._open_s if result == "failed" else now_s)

    def _open(self, probe_at_s: float) -> None:
        self._probe_at_s = probe_at_s
        self._become("open")

    def _become(self, state: State) -> None:
        self._state = state
        self._epoch += 1
