"""Ranges of offsets that a store lacks because retention deleted them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Gap(NamedTuple):
    """Offsets of one partition that a store lacks."""

    topic_id: str
    partition: int
    first_offset: int
    next_offset: int
    """The first offset after the gap."""


def offsets_in(gaps: Iterable[Gap]) -> int:
    """Return the number of offsets in `gaps`; an offset that several gaps contain counts once."""
    total = 0
    source, end = None, 0
    for gap in sorted(gaps):
        if (gap.topic_id, gap.partition) != source:
            source, end = (gap.topic_id, gap.partition), 0
        total += max(0, gap.next_offset - max(gap.first_offset, end))
        end = max(end, gap.next_offset)
    return total


def outside(gap: Gap, filled: range) -> list[Gap]:
    """Return the parts of `gap` that are not in `filled`, a range of offsets of its partition."""
    before = gap._replace(next_offset=min(gap.next_offset, filled.start))
    behind = gap._replace(first_offset=max(gap.first_offset, filled.stop))
    return [part for part in (before, behind) if part.first_offset < part.next_offset]


def after(gaps: Iterable[Gap], offset: int) -> Sequence[Gap]:
    """Return what `gaps` contain from `offset` on."""
    return [
        gap._replace(first_offset=max(gap.first_offset, offset))
        for gap in gaps
        if gap.next_offset > offset
    ]
