"""Alarm for too many dead letters among the last events. Pure: no clock, no I/O."""

from __future__ import annotations

from collections import deque


class RatioAlarm:
    """Alarm on the ratio of bad events in a sliding window of the last `window_events` events.

    It switches on when more than `ratio` of them and at least `bad_min` of them are bad. It
    switches off when at most half of `ratio` are bad: the distance keeps it from flickering.

    Events are added in groups, and leave the window in the same groups.
    """

    def __init__(self, *, ratio: float, window_events: int, bad_min: int) -> None:
        self._ratio = ratio
        self._window_events = window_events
        self._bad_min = bad_min
        self._groups: deque[tuple[int, int]] = deque()
        self.events = 0
        """Events in the window."""
        self.bad = 0
        """Bad events in the window."""
        self.is_on = False

    def note(self, events: int, bad: int) -> bool:
        """Add `events` events, `bad` of them bad; return whether this switches the alarm."""
        if not events:
            return False
        self._groups.append((events, bad))
        self.events += events
        self.bad += bad
        while self.events - self._groups[0][0] >= self._window_events:
            events, bad = self._groups.popleft()
            self.events -= events
            self.bad -= bad
        if self.is_on:
            switched = self.bad <= self.events * self._ratio / 2
        else:
            switched = self.bad >= self._bad_min and self.bad > self.events * self._ratio
        self.is_on ^= switched
        return switched
