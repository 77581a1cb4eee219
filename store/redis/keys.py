"""The names of all keys. A tenant's keys share one hash tag, `{tenant/shard}`, so that each script
is legal on a cluster; the shard is there for tenants too big for one slot and is 0 so far."""

from __future__ import annotations

from typing import Final, NamedTuple

from store.records import Grouping

#: The letter of a grouping in keys, scripts and the members of due sets.
GROUPING_CODES: Final[dict[Grouping, str]] = {
    "action": "a",
    "treatment": "t",
    "channel": "c",
    "customer": "u",
}


#: The group that counts for all those beyond the limit of a grouping.
OTHER: Final = "__other__"


class Keys(NamedTuple):
    prefix: str

    def _base(self, tenant: str) -> str:
        return f"{self.prefix}:{{{tenant}/0}}:"

    def active(self, tenant: str) -> str:
        """The number of the active generation. Scripts make all other keys from this one."""
        return self._base(tenant) + "active"

    def last(self, tenant: str) -> str:
        """The highest number that a generation of the tenant was given."""
        return self._base(tenant) + "last"

    def catalog(self, tenant: str) -> str:
        """The version of the tenant's catalog that an import announced last."""
        return self._base(tenant) + "catalog"

    def meta(self, tenant: str, generation: int) -> str:
        """A generation's hash: day, rolled, timezone, complete, types, building, w:*, f:*, d:*,
        over:<grouping letter> (interactions counted as OTHER)."""
        return f"{self._base(tenant)}{generation}:meta"

    def rank(self, tenant: str, generation: int, grouping: Grouping, period: str) -> str:
        return f"{self._base(tenant)}{generation}:r:{GROUPING_CODES[grouping]}:{period}"

    @property
    def tenants(self) -> str:
        """A set of the tenants that have a generation."""
        return f"{self.prefix}:tenants"

    @property
    def progress(self) -> str:
        """A hash: `<log>:<partition>` -> `next offset,end offset,time in ms`, and where events were
        counted lately `,p50,p99,max` of their ms from arrival to count; kept by workers."""
        return f"{self.prefix}:progress"

    @property
    def arrivals(self) -> str:
        """A hash: `<log>:<partition>` -> all that arrived before this time, in ms, is counted; 0 =
        that is not known."""
        return f"{self.prefix}:arrivals"

    @property
    def owners(self) -> str:
        """A hash: `<log>:<partition>` -> the worker that was given the partition last."""
        return f"{self.prefix}:owners"

    @property
    def incidents(self) -> str:
        """A hash of what happened to the log: `lost:<log>:<partition>:<first>` -> offsets that
        retention took; `<kind>:<log>` -> time in ms of a log that was recreated or cut."""
        return f"{self.prefix}:incidents"


def mark_field(kind: str, topic_id: str, partition: int) -> str:
    """A field of meta. Kind `w`: the next offset to count; `f`: where counting began."""
    return f"{kind}:{topic_id}:{partition}"
