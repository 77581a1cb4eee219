"""Cells: the counts that each system must give, under one name each, and their comparison.

    action|weekly|off_001|click     clicks of an action in the weekly window
    unique|monthly|C-0000001        distinct actions of a customer in the monthly window
    groups|channel|daily            number of channels with an event in the daily window

Standard library only: the programs of the peers import this module in environments of their own.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Set
from typing import NamedTuple

#: Period -> number of days of its window. The last day is today.
PERIODS = {"daily": 1, "weekly": 7, "monthly": 31, "alltime": 1_000_000}
GROUPINGS = ("action", "treatment", "channel", "customer")

Cells = Mapping[str, int]


class Tile(NamedTuple):
    """Events of one group on one day with one outcome type."""

    grouping: str
    group: str
    day: int
    """Days since 1970-01-01, UTC."""
    outcome: str
    events: int


def windows_of(day: int, today: int) -> Iterator[str]:
    """Yield the periods whose window has `day` in it."""
    return (period for period, days in PERIODS.items() if day > today - days)


def from_tiles(tiles: Iterable[Tile], today: int, sample: Set[str]) -> dict[str, int]:
    """Return the cells of outcome types and of numbers of groups.

    Only customers of `sample` have cells of their own; all are in the number of groups.
    """
    cells: Counter[str] = Counter()
    groups: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for grouping, group, day, outcome, events in tiles:
        for period in windows_of(day, today):
            groups[grouping, period].add(group)
            if grouping != "customer" or group in sample:
                cells[f"{grouping}|{period}|{group}|{outcome}"] += events
    numbers = {f"groups|{name}|{period}": len(ids) for (name, period), ids in groups.items()}
    return dict(cells) | numbers


def distinct_actions(last_days: Iterable[tuple[str, int]], today: int) -> dict[str, int]:
    """Return the cells of distinct actions.

    `last_days` has one pair for each action of a customer: the customer, and the last day.
    """
    cells: Counter[str] = Counter()
    for customer, day in last_days:
        for period in windows_of(day, today):
            cells[f"unique|{period}|{customer}"] += 1
    return dict(cells)


class Comparison(NamedTuple):
    """Result of comparing a system's cells with the oracle."""

    right: int
    wrong: int
    """Cells with another value, or without one, and cells that should not exist."""
    examples: tuple[str, ...]


def compare(expected: Cells, answered: Cells) -> Comparison:
    """Compare a system's cells with the oracle. A cell that is absent has the value 0."""
    names = sorted(expected.keys() | answered.keys())
    wrong = [name for name in names if expected.get(name, 0) != answered.get(name, 0)]
    missed = sum(name in expected for name in wrong)
    examples = tuple(
        f"{name}: {answered.get(name, 0)} in place of {expected.get(name, 0)}" for name in wrong[:3]
    )
    return Comparison(len(expected) - missed, len(wrong), examples)
