"""Arithmetic of an audit: expected counts from history, cells that differ, corrections. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple, TypeVar

from store.audit import Correction, GroupState, HistoryRow, OfferSeen, Watermarks
from store.windows import PERIODS, TILE_DAYS, Period, date_of, window_of

K = TypeVar("K", str, tuple[int, str])

#: Columns of cells that are not counts of an outcome type. No outcome type has such a key.
TOTAL: Final = "(rank)"
UNIQUE: Final = "(uniqueActions)"
RECORD: Final = "(record)"


class Cell(NamedTuple):
    """One number that the two stores do not agree about."""

    period: str
    """A period, or the date of a day of whose counts the windows are made."""
    column: str
    """An outcome type, TOTAL by which the group is ranked, UNIQUE, or RECORD."""
    counters: int | None
    """None = the record cannot be read."""
    history: int


class Expected(NamedTuple):
    """What the counters of one group should have."""

    counts: Mapping[tuple[int, str], int]
    """(day, outcome type) -> count; days before the tile days as the day before these."""
    offers: Mapping[OfferSeen, int]


def expected(rows: Iterable[HistoryRow], watermarks: Watermarks, today: int) -> Expected:
    """Return the counts of a group that was read at `watermarks`, on the window day `today`."""
    counts: Counter[tuple[int, str]] = Counter()
    offers: dict[OfferSeen, int] = {}
    for row in rows:
        if row.source is not None and row.offset >= watermarks.get(row.source, 0):
            continue
        counts[row.day, row.outcome] += row.n
        if row.offer is not None:
            seen = OfferSeen(row.offer, row.day if row.day > today else 0)
            offers[seen] = max(row.day, offers.get(seen, row.day))
    return Expected(counts, offers)


def compare(
    found: GroupState | None,
    wanted: Expected,
    today: int,
    *,
    recent: bool = False,
    unranked: Collection[Period] = (),
) -> list[Cell]:
    """Return the cells of one group that differ; `found` None = its record cannot be read.

    With `recent`, `wanted` has the tile days only, and alltime is not compared. `unranked`: periods
    in which the group need not be ranked.
    """
    if found is None:
        return [Cell("alltime", RECORD, None, sum(wanted.counts.values()))]
    periods = PERIODS[:-1] if recent else PERIODS
    cells: list[Cell] = []
    for period in periods:
        should = _sums(wanted.counts, period, today)
        has: Mapping[str, int] = found.windows.get(period, {})
        if period == "daily":
            has = _sums(found.tiles, period, today)
        cells += _differing(period, has, should)
        total = sum(should.values())
        ranked = total if period in unranked else found.ranks.get(period, 0)
        rank = Cell(period, TOTAL, ranked, total)
        unique = _unique_cell(found, wanted, period, today)
        cells += (cell for cell in (rank, unique) if cell.counters != cell.history)
    cells += _differing_days(found, wanted, today, is_ranked="daily" not in unranked)
    has_offers = found.offers
    if recent:
        has_offers = {seen: day for seen, day in has_offers.items() if day > today - TILE_DAYS}
    if not any(cell.column == UNIQUE for cell in cells) and _differing_offers(
        has_offers, wanted.offers, today
    ):
        # No period shows it yet: the wrong day of an offer will be wrong in a window some day.
        n = _unique(wanted.offers, "alltime", today)
        cells.append(Cell("days of offers", UNIQUE, n, n))
    return cells


def _unique_cell(found: GroupState, wanted: Expected, period: Period, today: int) -> Cell:
    """Return the number of distinct offers: the one that the record keeps, if that one differs."""
    should, counted = (_unique(each.offers, period, today) for each in (wanted, found))
    kept = found.uniques.get(period, counted)
    return Cell(period, UNIQUE, counted if kept == should else kept, should)


def _differing_days(
    found: GroupState, wanted: Expected, today: int, *, is_ranked: bool
) -> Iterator[Cell]:
    """Compare the days that windows will be made of, except today: it is the period `daily`."""
    tiles = {key: n for key, n in wanted.counts.items() if key[0] > today - TILE_DAYS}
    for day in sorted({day for day, _ in (*tiles, *found.tiles)} - {today}):
        should = _of_day(tiles, day)
        yield from _differing(date_of(day).isoformat(), _of_day(found.tiles, day), should)
    tomorrow = today + 1
    total = sum(_of_day(tiles, tomorrow).values())
    if is_ranked and found.ranks.get(tomorrow, 0) != total:
        yield Cell(date_of(tomorrow).isoformat(), TOTAL, found.ranks.get(tomorrow, 0), total)


def _differing(period: str, has: Mapping[str, int], should: Mapping[str, int]) -> Iterator[Cell]:
    for key in sorted(has.keys() | should.keys()):
        if has.get(key, 0) != should.get(key, 0):
            yield Cell(period, key, has.get(key, 0), should.get(key, 0))


def _sums(counts: Mapping[tuple[int, str], int], period: Period, today: int) -> dict[str, int]:
    window = window_of(period, today)
    sums: dict[str, int] = {}
    for (day, key), n in counts.items():
        if day in window:
            sums[key] = sums.get(key, 0) + n
    return sums


def _of_day(counts: Mapping[tuple[int, str], int], day: int) -> dict[str, int]:
    return {key: n for (of, key), n in counts.items() if of == day}


def _unique(offers: Mapping[OfferSeen, int], period: Period, today: int) -> int:
    window = window_of(period, today)
    return len({seen.offer for seen, day in offers.items() if day in window})


def _differing_offers(
    found: Mapping[OfferSeen, int], wanted: Mapping[OfferSeen, int], today: int
) -> dict[OfferSeen, tuple[int | None, int | None]]:
    """Return last day found and last day wanted of the offers where they differ.

    Days before the tile days are all the same: they are in no window, and a rebuild does not keep
    them apart.
    """
    oldest = today - TILE_DAYS

    def differ(has: int | None, should: int | None) -> bool:
        if has is None or should is None:
            return has is not should
        return max(has, oldest) != max(should, oldest)

    return {
        seen: (found.get(seen), wanted.get(seen))
        for seen in sorted(found.keys() | wanted.keys())
        if differ(found.get(seen), wanted.get(seen))
    }


def correction(id_: str, found: GroupState | None, wanted: Expected, today: int) -> Correction:
    """Return the differences that make `found` equal to `wanted`.

    Of a record that cannot be read they are the whole counts.
    """
    alltime = _sums(wanted.counts, "alltime", today)
    tiles = {key: n for key, n in wanted.counts.items() if key[0] > today - TILE_DAYS}
    if found is None:
        offers = _differing_offers({}, wanted.offers, today)
        return Correction(id_, alltime, dict(sorted(tiles.items())), offers)
    return Correction(
        id_,
        _minus(alltime, found.windows.get("alltime", {})),
        _minus(tiles, found.tiles),
        _differing_offers(found.offers, wanted.offers, today),
    )


def _minus(should: Mapping[K, int], has: Mapping[K, int]) -> dict[K, int]:
    return {
        key: should.get(key, 0) - has.get(key, 0)
        for key in sorted(should.keys() | has.keys())
        if should.get(key, 0) != has.get(key, 0)
    }


def same_differences(one: Sequence[Cell], other: Sequence[Cell]) -> bool:
    """Return whether two comparisons of a group, at two moments, found the same to be wrong.

    The counts may have grown meanwhile; the differences stay if the counters are really wrong.
    """
    return _differences(one) == _differences(other)


def _differences(cells: Iterable[Cell]) -> set[tuple[str, str, int | None]]:
    return {
        (c.period, c.column, None if c.counters is None else c.counters - c.history) for c in cells
    }
