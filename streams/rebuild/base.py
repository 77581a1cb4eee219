"""Counts that a rebuild since a day takes over from the active generation. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from store.audit import GroupState
from store.records import Grouping
from streams.rebuild.identities import find_entry

#: Bytes of a key in memory, and of the ordinal that is stored with it.
_KEY_BYTES: Final = 12
_ORDINAL_BYTES: Final = 4
_ENTRY_BYTES: Final = _KEY_BYTES + _ORDINAL_BYTES
_BUCKETS: Final = 1 << 16


class Base(NamedTuple):
    """Counts of one group before a day."""

    counts: Mapping[tuple[int, str], int]
    """(day, outcome type) -> number of events; no zeros."""
    offers: Mapping[str, int]
    """Customers only: the last day of each offer whose last day is before."""
    open_offers: Sequence[str]
    """Offers whose last day is later, so that the last one before is not known."""


def base_of(group: GroupState, since_day: int, older_day: int) -> Base:
    """Return the counts of the days before `since_day`.

    `older_day` stands for the days that have no tile any more. Raises ValueError if the counts
    contradict each other: the tiles have more events of a type than all time.
    """
    counts: dict[tuple[int, str], int] = {}
    older = dict(group.windows.get("alltime", {}))
    for (day, outcome), n in group.tiles.items():
        older[outcome] = older.get(outcome, 0) - n
        if day < since_day:
            counts[day, outcome] = n
    for outcome, n in older.items():
        if n < 0:
            raise ValueError(f"the days of {outcome} have {-n} events more than all time")
        if n:
            counts[older_day, outcome] = counts.get((older_day, outcome), 0) + n
    offers: dict[str, int] = {}
    later = set()
    for (offer, _), day in group.offers.items():
        if day < since_day:
            offers[offer] = max(day, offers.get(offer, day))
        else:
            later.add(offer)
    return Base(counts, offers, sorted(later - offers.keys()))


class CopiedGroups:
    """Groups that are copied, each with the watermarks at which it was read: 17 bytes a group."""

    def __init__(self) -> None:
        self._buckets: list[bytearray | None] = [None] * _BUCKETS
        self._watermarks: list[Mapping[int, int]] = []

    def add(self, grouping: Grouping, ids: Sequence[str], watermarks: Mapping[int, int]) -> None:
        """Note that `ids`, all new, were read when the counters had reached `watermarks`."""
        if not self._watermarks or self._watermarks[-1] != watermarks:
            self._watermarks.append(dict(watermarks))
        ordinal = (len(self._watermarks) - 1).to_bytes(_ORDINAL_BYTES, "little")
        for id_ in ids:
            key = _key(grouping, id_)
            index = _bucket(key)
            bucket = self._buckets[index]
            if bucket is None:
                bucket = self._buckets[index] = bytearray()
            bucket += key + ordinal

    def watermarks_of(self, grouping: Grouping, id_: str) -> Mapping[int, int] | None:
        """Return partition -> watermark at which the group was read; None = it is not copied."""
        key = _key(grouping, id_)
        bucket = self._buckets[_bucket(key)]
        at = -1 if bucket is None else find_entry(bucket, key, _ENTRY_BYTES)
        if bucket is None or at < 0:
            return None
        ordinal = int.from_bytes(bucket[at + _KEY_BYTES : at + _ENTRY_BYTES], "little")
        return self._watermarks[ordinal]


class OpenOffers:
    """Customers' offers whose last day before a day is asked for: 13 bytes each."""

    def __init__(self) -> None:
        self._buckets: dict[int, bytearray] = {}

    def __bool__(self) -> bool:
        return bool(self._buckets)

    def add(self, customer: str, offer: str) -> None:
        """Add an offer of a customer."""
        key = _key(customer, offer)
        self._buckets.setdefault(_bucket(key), bytearray()).extend(key)

    def __contains__(self, pair: tuple[str, str]) -> bool:
        key = _key(*pair)
        bucket = self._buckets.get(_bucket(key))
        return bucket is not None and find_entry(bucket, key, _KEY_BYTES) >= 0


def _key(first: str, second: str) -> bytes:
    """Return a hash that two of 10 million keys share with a probability of 10**-15."""
    return hashlib.blake2b(f"{first}\0{second}".encode(), digest_size=_KEY_BYTES).digest()


def _bucket(key: bytes) -> int:
    return key[0] | key[1] << 8
