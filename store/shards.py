"""Shards of a tenant: which customer is in which one, and their names. Pure.

A tenant's generation has 1 to SHARDS_MAX shards, each in a slot of its own of a Redis Cluster. For
the counter store a shard is a tenant: it has a name. Shard 0 has the tenant's; the others are
`tenant/index@generation`, so those of two generations have nothing in common, and one script at
shard 0 activates all shards of a generation at once. Reasons: ADR 0023.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Final, NamedTuple

from store.records import SourcedEvent

SHARDS_MAX: Final = 64
#: Bytes of the hash that decide; `store/postgres/sql/of_shard.sql` takes the same.
_HASH_BYTES: Final = 3


class Shard(NamedTuple):
    """Which part of the customers: number `shard`, from 0, of `shards`."""

    shard: int
    shards: int


#: All customers.
WHOLE: Final = Shard(0, 1)


class Layout(NamedTuple):
    """The shards of one generation of a tenant."""

    tenant: str
    generation: int
    shards: int = 1

    def name(self, index: int) -> str:
        """Return the name of a shard."""
        return f"{self.tenant}/{index}@{self.generation}" if index else self.tenant

    @property
    def names(self) -> list[str]:
        """The names of all shards; that of shard 0, which has the tenant's, is the first one."""
        return [self.name(index) for index in range(self.shards)]

    @property
    def others(self) -> list[str]:
        """The names of all shards but shard 0."""
        return self.names[1:]

    def name_of(self, customer: str) -> str:
        """Return the name of the shard that has a customer."""
        return self.name(shard_of(customer, self.shards))


def shard_of(customer: str, shards: int) -> int:
    """Return the index of the shard that has a customer, the same in all processes and versions."""
    if shards == 1:
        return 0
    digest = sha256(customer.encode()).digest()
    return int.from_bytes(digest[:_HASH_BYTES], "big") % shards


def tenant_of(name: str) -> str:
    """Return the tenant of a shard's name."""
    return name.partition("/")[0]


def is_shard(name: str) -> bool:
    """Return whether a name is that of a shard other than shard 0."""
    return "/" in name


def place_of(name: str) -> tuple[str, str]:
    """Return the hash tag of a shard's keys, and what they have after it.

    `acme` -> `acme/0` and nothing; `acme/3@17` -> `acme/3` and `17:`.
    """
    slot, _, generation = name.partition("@")
    return (slot, f"{generation}:") if generation else (f"{name}/0", "")


def tenants_of(names: Iterable[str]) -> set[str]:
    """Return the tenants of shards."""
    return {tenant_of(name) for name in names}


def generation_of(name: str) -> int:
    """Return the number of the tenant's generation that a shard other than shard 0 belongs to."""
    return int(name.partition("@")[2])


def lowest_of_tenants(offsets: Mapping[str, int]) -> dict[str, int]:
    """Return the lowest of the offsets of each tenant, given those of shards."""
    lowest: dict[str, int] = {}
    for name, offset in offsets.items():
        tenant = tenant_of(name)
        lowest[tenant] = min(offset, lowest.get(tenant, offset))
    return lowest


def by_shard(
    layout: Layout, events: Sequence[SourcedEvent]
) -> Mapping[str, Sequence[SourcedEvent]]:
    """Return name -> events of one tenant, in order, of the shards that have any."""
    if layout.shards == 1:
        return {layout.tenant: events} if events else {}
    found: dict[str, list[SourcedEvent]] = {}
    for each in events:
        found.setdefault(layout.name_of(each.event.customer), []).append(each)
    return found
