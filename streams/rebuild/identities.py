"""Identities of a rebuild: the copies in the source, and the tables that Redis keeps. Pure.

An identity is 8 bytes (`streams.aggregate.identity_of`); with its owner, it is an entry of 12
(`store.identity_owners`). A slot is a day of arrival. In Redis a slot is one hash of buckets, which
`commit.lua` searches and extends; `buckets_of` makes the same hash for a whole slot at once: 5
million identities in seconds, not one by one in commits.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final

from store.identity_owners import ENTRY_BYTES, NO_OWNER

#: Identities of one bucket on average: LOAD of slots.lua.
BUCKET_LOAD: Final = 12
#: Bits of the hash that choose a bucket in memory: 65,536 buckets, of 9 identities for each
#: 600,000 of a slot.
_MEMORY_BITS: Final = 16
_MEMORY_MASK: Final = (1 << _MEMORY_BITS) - 1


class SeenIdentities:
    """Identities of the records read so far, in packed buckets: 15 bytes each, not 100 as in a set.

    A copy is recognised as by the counters: within `slots_back` slots before and after its own.
    """

    def __init__(self, slots_back: int) -> None:
        self._slots_back = slots_back
        self._slots: dict[int, list[bytearray | None]] = {}
        self._slot: int | None = None  # of the last identity
        self._own: list[bytearray | None] = []  # buckets of that slot
        self._near: list[list[bytearray | None]] = []  # and of the slots around it

    def add(self, identity: bytes, slot: int, owner: bytes = NO_OWNER) -> bool:
        """Add the identity with its owner; return False if the identity is there already."""
        if slot != self._slot:
            self._enter(slot)
        index = identity[0] | identity[1] << 8
        own = self._own[index]
        if own is None:
            own = self._own[index] = bytearray()
        elif find_entry(own, identity, ENTRY_BYTES) >= 0:
            return False
        for buckets in self._near:
            bucket = buckets[index]
            if bucket is not None and find_entry(bucket, identity, ENTRY_BYTES) >= 0:
                return False
        own += identity + owner
        return True

    def _enter(self, slot: int) -> None:
        if slot not in self._slots:
            self._slots[slot] = [None] * (_MEMORY_MASK + 1)
        self._slot, self._own = slot, self._slots[slot]
        around = range(slot - self._slots_back, slot + self._slots_back + 1)
        self._near = [self._slots[near] for near in around if near != slot and near in self._slots]

    def forget_before(self, slot: int, keep: Collection[int] = ()) -> None:
        """Forget the slots before `slot`, except those in `keep`.

        No copy of their identities is recognised any more.
        """
        for old in [s for s in self._slots if s < slot and s not in keep]:
            del self._slots[old]
        self._slot = None

    def slots(self, oldest_slot: int, also: Collection[int] = ()) -> Iterator[tuple[int, bytes]]:
        """Yield each slot from `oldest_slot` on, or in `also`, with its concatenated entries."""
        for slot in sorted(s for s in self._slots if s >= oldest_slot or s in also):
            yield slot, b"".join(bucket for bucket in self._slots[slot] if bucket)


def find_entry(bucket: bytearray, key: bytes, entry_bytes: int) -> int:
    """Return where the entry that begins with `key` begins, or -1; all entries have one length."""
    at = bucket.find(key)
    while at >= 0 and at % entry_bytes:
        at = bucket.find(key, at + 1)
    return at


def buckets_of(packed: bytes) -> list[bytes]:
    """Return the buckets of a slot that holds the concatenated entries `packed`.

    The index of a bucket is its field in Redis. Linear hashing, as in `slots.lua`.
    """
    n = len(packed) // ENTRY_BYTES
    count = max(1, -(-n // BUCKET_LOAD))
    half = 1 << (count.bit_length() - 1)
    mask = 2 * half - 1
    lists: list[list[bytes]] = [[] for _ in range(count)]
    from_bytes = int.from_bytes
    for at in range(0, len(packed), ENTRY_BYTES):
        entry = packed[at : at + ENTRY_BYTES]
        index = from_bytes(entry[:4], "little") & mask
        lists[index if index < count else index - half].append(entry)
    return [b"".join(members) for members in lists]
