"""Names of all keys.

The keys of a shard share one hash tag, `{tenant/index}`, so that each script is legal on a cluster.
A tenant has one shard, 0, unless a rebuild has given it more. Where a method takes a tenant, the
name of a shard is right, too: see `store.shards`.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from store.counters import Limited
from store.offsets import Gap
from store.records import Grouping
from store.shards import place_of

#: Code of a grouping in keys, scripts and the members of due sets.
GROUPING_CODES: Final[dict[Grouping, str]] = {
    "action": "a",
    "treatment": "t",
    "channel": "c",
    "customer": "u",
}

#: Days of one block of tiles of a record: lua/layout.lua.
BLOCK_DAYS: Final = 4

#: Code of what has a limit, in `over:` of a generation's meta and in answers of commits and folds.
LIMITED_CODES: Final[dict[Limited, str]] = {
    "action": "a",
    "treatment": "t",
    "channel": "c",
    "customer": "u",
    "customer_offers": "o",
}

#: The group under which all groups beyond the limit of a grouping are counted.
OTHER: Final = "__other__"


class Keys(NamedTuple):
    """Names of the keys below one prefix."""

    prefix: str

    def _base(self, tenant: str) -> str:
        slot, inside = place_of(tenant)
        return f"{self.prefix}:{{{slot}}}:{inside}"

    def active(self, tenant: str) -> str:
        """Return the key of the active generation's number; scripts derive all other keys."""
        return self._base(tenant) + "active"

    def retired(self, tenant: str) -> str:
        """Return the key of what was `active` of a shard whose generation is not active any more.

        Only shards other than shard 0, whose `active` says which generation that is, have it.
        """
        return self._base(tenant) + "retired"

    def last(self, tenant: str) -> str:
        """Return the key of the highest generation number that the tenant ever had."""
        return self._base(tenant) + "last"

    def removed(self, tenant: str) -> str:
        """Return the key of what a tenant had counted when it was removed.

        Hash: `<topic id>:<partition>` -> offset; `at_s` -> time of the removal in seconds. It
        exists until the tenant has counters again.
        """
        return self._base(tenant) + "removed"

    def catalog(self, tenant: str) -> str:
        """Return the key of the catalog version that an import announced last."""
        return self._base(tenant) + "catalog"

    def rules(self, tenant: str) -> str:
        """Return the key of a copy of the tenant's `CountingRules`, as MessagePack."""
        return self._base(tenant) + "rules"

    def meta(self, tenant: str, generation: int) -> str:
        """Return the key of a generation's hash.

        Fields: day, rolled, timezone, types, events, previous, replaced_ms, abandoned_ms (when a
        build was first seen without a lease), w:*, f:*, and d:*, o:*, n:* (see lua/slots.lua),
        over:<grouping code> (interactions counted as OTHER), over:o (times that an offer of a
        customer was not remembered), pending (events whose actions, treatments and channels are in
        the list `pending`), unranked, ranking, ranked_to (ranks of customers, see lua/rank.lua);
        stamp_u, stamp (another one after each change of what answers about customers, and about
        other groupings, show: see ADR 0026);
        building while it is built, token afterwards; shards (their number, at
        shard 0 of several). It is complete while it has none of: t:<source> (watermark to reach),
        gap:<source>:<first offset> (end of a gap), unproven (it started empty), evicted (time in ms
        at which Redis was seen to have evicted keys), damaged (why a script failed half-way),
        outdated (it has no field `format`, and events were counted: its identities leave out the
        customer), unsettled (the generation that was active before, while its shards may have
        counted more: see lua/settle.lua; given_up has the sources of which nobody has what is
        missing).
        """
        return f"{self._base(tenant)}{generation}:meta"

    def dropped(self, tenant: str, generation: int) -> str:
        """Return the key of the meta of a generation that is being deleted."""
        return f"{self._base(tenant)}{generation}:dropped"

    def rank(self, tenant: str, generation: int, grouping: Grouping, period: str) -> str:
        """Return the key of the sorted set of a grouping's groups in `period`."""
        return f"{self._base(tenant)}{generation}:r:{GROUPING_CODES[grouping]}:{period}"

    def offers(self, tenant: str, generation: int) -> str:
        """Return the key of the hash offer id -> the offer's number in customers' records."""
        return f"{self._base(tenant)}{generation}:offers"

    @property
    def ranks_asked(self) -> str:
        """Sorted set: `<tenant>:<period code>` -> time in ms of a question about customers."""
        return f"{self.prefix}:ranks_asked"

    @property
    def ranks_wanted(self) -> str:
        """Set of `<tenant>:<period code>` whose ranks of customers workers are to build."""
        return f"{self.prefix}:ranks_wanted"

    @property
    def audits(self) -> str:
        """Hash: tenant -> result of the tenant's last audit, as JSON."""
        return f"{self.prefix}:audits"

    @property
    def audit_turn(self) -> str:
        """Exists while no worker may start another periodic audit."""
        return f"{self.prefix}:audit_turn"

    def lease(self, tenant: str) -> str:
        """Return the key of the lease of a rebuild of the tenant."""
        return self._base(tenant) + "rebuild"

    @property
    def rebuilds(self) -> str:
        """Hash: tenant -> result of its last rebuild, as JSON."""
        return f"{self.prefix}:rebuilds"

    @property
    def rebuilding(self) -> str:
        """Hash: tenant -> progress of a rebuild that runs, as JSON."""
        return f"{self.prefix}:rebuilding"

    @property
    def tenants(self) -> str:
        """Set of the tenants that have a generation."""
        return f"{self.prefix}:tenants"

    @property
    def progress(self) -> str:
        """Hash: `<topic id>:<partition>` -> `next offset,end offset,time in ms`.

        If events were counted recently, `,p50,p99,max` follow: ms from arrival to count. Workers
        write it.
        """
        return f"{self.prefix}:progress"

    @property
    def rates(self) -> str:
        """Hash: `<topic id>:<partition>` -> offsets per second that are counted.

        Apart from `progress`, since readers of older versions refuse more values there.
        """
        return f"{self.prefix}:rates"

    @property
    def floors(self) -> str:
        """Hash: `<topic id>:<partition>` -> `offset,end offset,instance`; see `Floor`."""
        return f"{self.prefix}:floors"

    @property
    def arrivals(self) -> str:
        """Hash: `<topic id>:<partition>` -> arrival watermark in ms; 0 = unknown."""
        return f"{self.prefix}:arrivals"

    @property
    def owners(self) -> str:
        """Hash: `<topic id>:<partition>` -> the worker that claimed the partition last."""
        return f"{self.prefix}:owners"

    @property
    def activations(self) -> str:
        """Sorted set: tenant -> time in ms, by the clock of Redis, of its last swap or rollback."""
        return f"{self.prefix}:activations"

    @property
    def evictions(self) -> str:
        """Hash: run id of a server -> `evicted keys,maxmemory-policy` that are dealt with."""
        return f"{self.prefix}:evictions"

    @property
    def incidents(self) -> str:
        """Hash of incidents of the topic.

        `lost:<topic id>:<partition>:<first offset>` -> number of offsets that retention deleted;
        `<kind>:<topic id>` -> time in ms at which the topic was recreated or truncated (`cut`).
        """
        return f"{self.prefix}:incidents"


def watermark_field(kind: str, topic_id: str, partition: int) -> str:
    """Return a field of meta. Kind `w`: next offset to count; `f`: offset counting began at."""
    return f"{kind}:{topic_id}:{partition}"


def gap_field(gap: Gap) -> str:
    """Return the field of meta that has the end of a gap of these counters."""
    return f"gap:{gap.topic_id}:{gap.partition}:{gap.first_offset}"
