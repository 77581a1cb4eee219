"""Contents of deltas, as a test compares them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from store.counters import Deltas


def counts_of(deltas: Iterable[Deltas]) -> Counter[Any]:
    """Return (grouping, id, day, outcome type) -> events; check the order of the days."""
    found: Counter[Any] = Counter()
    for each in deltas:
        for grouping, flat, step in (
            ("action", each.actions, 2),
            ("treatment", each.treatments, 2),
            ("channel", each.channels, 2),
            ("customer", each.customers, 3),
        ):
            for i in range(0, len(flat), step):
                triples = flat[i + 1]
                assert triples[::3] == sorted(triples[::3]), "in order of day"
                for j in range(0, len(triples), 3):
                    day, index, n = triples[j : j + 3]
                    found[grouping, flat[i], day, each.types[index]] += n
    return found
