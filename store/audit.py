"""What an audit compares: the counts of a group, as the counters and as history have them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import msgspec

from store.counters import Source
from store.windows import Period

Watermarks = Mapping[Source, int]


class OfferSeen(NamedTuple):
    """One of the two places where a customer's record has the last day of an offer."""

    offer: str
    ahead: int = 0
    """The day, if it is after the window day; 0 = the last day up to the window day."""


class GroupState(NamedTuple):
    """All counts that the counters have of one group."""

    windows: Mapping[Period, Mapping[str, int]]
    """Outcome type -> count, of weekly, monthly and alltime."""
    tiles: Mapping[tuple[int, str], int]
    """(day, outcome type) -> count, of the tile days and the days after them."""
    ranks: Mapping[Period | int, int]
    """Total by which the group is ranked, of each period and of the day after the window day."""
    offers: Mapping[OfferSeen, int]
    """Customers only: the last day of each offer."""
    uniques: Mapping[Period, int] = {}
    """Customers only: the numbers of distinct offers that the record keeps, of some periods."""


NO_GROUP = GroupState({}, {}, {}, {})


class HistoryRow(NamedTuple):
    """Events of one group, day and outcome type: many, or one with its source."""

    id: str
    offer: str | None
    """Only set for customers."""
    day: int
    """Of all events before the tile days, the day before these."""
    outcome: str
    source: Source | None
    """None = below all watermarks of the audit, so that the counters must have it."""
    offset: int
    n: int


class Correction(NamedTuple):
    """Differences of one group: what history has minus what the counters have."""

    id: str
    alltime: Mapping[str, int]
    tiles: Mapping[tuple[int, str], int]
    offers: Mapping[OfferSeen, tuple[int | None, int | None]]
    """Last day found and last day wanted; None = there is none."""


class AuditNote(msgspec.Struct, frozen=True, omit_defaults=True):
    """Outcome of a tenant's last audit, for `status` and for the next periodic audit."""

    at_ms: int
    """Time of its end."""
    result: Literal["clean", "drift", "repaired", "skipped"]
    groups: int
    """Groups that were compared."""
    cells: int
    """Cells that differ, after a repair if there was one."""
    source: Literal["command", "worker"]
    duration_s: float
    generation: int | None = None
    sample: int | None = None
    """Groups asked for per grouping; None = all."""
    reason: str = ""
    """Why nothing was compared, or not all of it."""
