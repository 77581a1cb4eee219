"""Ranges of offsets that a store lacks: retention deleted them, or a rebuild cannot get them."""

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

    @property
    def source(self) -> tuple[str, int]:
        """Topic id and partition."""
        return self.topic_id, self.partition

    def __str__(self) -> str:
        return (
            f"offsets {self.first_offset:,} to {self.next_offset - 1:,} of partition "
            f"{self.partition} ({self.topic_id})"
        )


def offsets_in(gaps: Iterable[Gap]) -> int:
    """Return the number of offsets in `gaps`; an offset that several gaps contain counts once."""
    total = 0
    source, end = None, 0
    for gap in sorted(gaps):
        if gap.source != source:
            source, end = gap.source, 0
        total += max(0, gap.next_offset - max(gap.first_offset, end))
        end = max(end, gap.next_offset)
    return total


def outside(gap: Gap, filled: range) -> list[Gap]:
    """Return the parts of `gap` that are not in `filled`, a range of offsets of its partition."""
    before = gap._replace(next_offset=min(gap.next_offset, filled.start))
    behind = gap._replace(first_offset=max(gap.first_offset, filled.stop))
    return [part for part in (before, behind) if part.first_offset < part.next_offset]


def without(gaps: Iterable[Gap], known: Iterable[Gap]) -> list[Gap]:
    """Return the parts of `gaps` that are in none of `known`."""
    left = list(gaps)
    for each in known:
        filled = range(each.first_offset, each.next_offset)
        left = [
            part
            for gap in left
            for part in (outside(gap, filled) if gap.source == each.source else [gap])
        ]
    return left


def describe(gaps: Sequence[Gap]) -> str:
    """Return the number of offsets and the first gaps, for an error message."""
    shown = "; ".join(map(str, gaps[:3])) + ("; …" if len(gaps) > 3 else "")
    return f"{offsets_in(gaps):,} offsets ({shown})"


def after(gaps: Iterable[Gap], offset: int) -> Sequence[Gap]:
    """Return what `gaps` contain from `offset` on."""
    return [
        gap._replace(first_offset=max(gap.first_offset, offset))
        for gap in gaps
        if gap.next_offset > offset
    ]
