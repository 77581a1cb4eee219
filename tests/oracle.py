"""The plain-Python count that stores are held against: no cleverness, straight from the contract."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from store.model import Event, GroupCounts, Grouping, Page
from store.windows import Calendar, Window

_ID = {"action": "offer", "treatment": "creative", "channel": "channel", "customer": "customer"}


def groups_of(
    events: Iterable[Event], grouping: Grouping, window: Window, calendar: Calendar
) -> list[GroupCounts]:
    """All groups of the window, sorted as a response is. `events` must be distinct."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    offers: dict[str, set[str]] = defaultdict(set)
    for event in events:
        id_ = getattr(event, _ID[grouping])
        if id_ is not None and calendar.day_of(event.occurred_ms) in window:
            counts[id_][event.outcome] += 1
            offers[id_].add(event.offer)
    groups = [
        GroupCounts(id_, dict(n), len(offers[id_]) if grouping == "customer" else None)
        for id_, n in counts.items()
    ]
    return sorted(groups, key=lambda g: (-g.total, g.id))


def page_of(groups: Sequence[GroupCounts], limit: int, offset: int) -> Page:
    return Page(groups[offset : offset + limit], len(groups))
