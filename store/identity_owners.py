"""Owners of identities: which record an identity was counted for. Pure.

The owner of an identity is the place of the record that was counted: topic id, partition, offset.
The counters keep a hash of it beside the identity, so that history can store the same one of two
contents that share an identity.
"""

from __future__ import annotations

import hashlib
import struct
from functools import lru_cache
from typing import Final, NamedTuple

OWNER_BYTES: Final = 4
ID_BYTES: Final = 8
#: An identity and its owner, as the counters store them: see `store/redis/lua/slots.lua`.
ENTRY_BYTES: Final = ID_BYTES + OWNER_BYTES
_MASK: Final = 0xFFFFFFFF
_ID_AND_OFFSET: Final = struct.Struct(f">{ID_BYTES}sI")


class PartitionOwners(NamedTuple):
    """Hash of the places in one partition: `multiplier * offset + addend`, 32 bits.

    The multiplier is odd, so places of one partition share no hash within 2**32 offsets. Places in
    two partitions share one with a probability of 2**-32.
    """

    multiplier: int
    addend: int
    first_offset: int = 0
    """Places below have the hash 0. History has passed them, and may lack their records."""

    def of(self, offset: int) -> bytes:
        """Return the hash of one place."""
        if offset < self.first_offset:
            return bytes(OWNER_BYTES)
        return (self.multiplier * offset + self.addend & _MASK).to_bytes(OWNER_BYTES, "big")


#: Every place has the hash 0: the owner is not known.
UNKNOWN: Final = PartitionOwners(0, 0)
NO_OWNER: Final = UNKNOWN.of(0)


@lru_cache(maxsize=4_096)
def partition_owners(topic_id: str, partition: int) -> PartitionOwners:
    """Return the hash of the places in a partition of one topic id."""
    digest = hashlib.blake2b(f"{topic_id}:{partition}".encode(), digest_size=8).digest()
    number = int.from_bytes(digest)
    return PartitionOwners(number >> 32 | 1, number & _MASK)


def entries_of(packed: bytes, owners: PartitionOwners) -> bytes:
    """Return the entries of identities, each followed by the low 32 bits of its record's offset."""
    parts = (
        part
        for identity, offset in _ID_AND_OFFSET.iter_unpack(packed)
        for part in (identity, owners.of(offset))
    )
    return b"".join(parts)
