"""Says when too many of the last events are bad. Pure: no clock, no I/O."""

from __future__ import annotations

from collections import deque


class RatioAlarm:
    """On while more than `ratio` of the last `window_events` events are bad, and at least
    `bad_min` of them; off again when it is no more than half of that, so that it does not flicker.

    Events are noted in parts, and leave the window in the same ones."""

    def __init__(self, *, ratio: float, window_events: int, bad_min: int) -> None:
        self._ratio = ratio
        self._window_events = window_events
        self._bad_min = bad_min
        self._parts: deque[tuple[int, int]] = deque()
        self.events = 0
        """Events in the window."""
        self.bad = 0
        self.is_on = False

    def note(self, events: int, bad: int) -> bool:
        """Takes `events` more, `bad` of them bad, into account. True where that switches it."""
        if not events:
            return False
        self._parts.append((events, bad))
        self.events += events
        self.bad += bad
        while self.events - self._parts[0][0] >= self._window_events:
            events, bad = self._parts.popleft()
            self.events -= events
            self.bad -= bad
        if self.is_on:
            switched = self.bad <= self.events * self._ratio / 2
        else:
            switched = self.bad >= self._bad_min and self.bad > self.events * self._ratio
        self.is_on ^= switched
        return switched
