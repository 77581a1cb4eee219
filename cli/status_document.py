"""Document that `status --json` prints.

The JSON names are the field names in camel case, except where `field(name=…)` gives another. They
are public: scripts read them. Times are RFC 3339 in UTC.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from msgspec import Struct, field


class VisibleStatus(Struct, rename="camel"):
    """Time from arrival in Kafka until counted, of the last events, in ms, by percentile."""

    p50_ms: int
    p99_ms: int
    max_ms: int


class PartitionStatus(Struct, rename="camel"):
    """Progress of one partition.

    An offset is the next one to write, to count or to store. None = unknown, because Kafka or the
    store did not answer.
    """

    partition: int
    end: int | None
    counted: int | None
    lag: int | None
    """end - counted; 0 = all counted."""
    stored: int | None
    history_lag: int | None
    """end - stored; 0 = all in history."""
    waiting_ms: int | None
    """Time since the arrival of the oldest event that is not counted; 0 = all counted."""
    visible: VisibleStatus | None
    """None = no event arrived and was counted in the last minute."""
    owner: str | None = None
    """`<host>:<process id>` of the worker that counts the partition. Empty = a worker of an older
    version, which does not say. None = no worker has reported in the last seconds."""
    offsets_per_s: float | None = None
    """Rate of counting in the last 10 s. None = unknown, or no worker."""
    reported_at: str | None = None
    """Time of the last report of a worker, also of one that has ended. None = there was none."""


class GapStatus(Struct, rename="camel"):
    """Offsets of one partition that a store lacks, because retention deleted them."""

    topic_id: str = field(name="log")
    partition: int
    first: int
    end: int
    """The first offset after the gap."""


class ShortfallStatus(Struct, rename="camel"):
    """Partition in which a generation has yet to reach what the one before had counted."""

    topic_id: str = field(name="log")
    partition: int
    counted: int
    """Next offset to count."""
    target: int


class MissingStatus(Struct, frozen=True, rename="camel"):
    """What keeps counters from being complete, so that history answers. All empty: nothing."""

    behind: Sequence[ShortfallStatus] = ()
    """What a worker has yet to count after a swap or a rollback."""
    gaps: Sequence[GapStatus] = ()
    """Offsets that retention deleted before these counters saw them. History has them."""
    unproven: bool = False
    """The counters started empty, and do not hold all of history yet."""
    evicted: bool = False
    """Redis has evicted keys while these counters were there, perhaps theirs."""
    damaged: str = ""
    """Why a script that changed these counters failed half-way."""
    outdated: bool = False
    """An older version made them, and workers rebuild them."""
    unsettled: bool = False
    """A rebuild or rollback with several shards ended before it had compared the counters with
    what the shards before had counted. A worker does that."""


class GenerationStatus(Struct, rename="camel"):
    """One generation of a tenant."""

    number: int
    state: Literal["active", "replaced", "building", "abandoned"]
    """"building": a rebuild fills it. "abandoned": a rebuild that has ended left it, and a worker
    deletes it."""
    complete: bool
    events: int | None
    """Events that it has counted. None = made by a version that did not count them."""
    replaced_at: str | None = None
    kept_until: str | None = None
    """When a worker deletes it. Until then `rebuild --rollback` can return to the newest one."""
    shards: int = 1


class RebuildStatus(Struct, rename="camel"):
    """Result of the last rebuild of a tenant."""

    result: Literal["done", "failed"]
    at: str
    """Time of its end."""
    source: str
    """topic | history | auto"""
    seconds: float
    generation: int | None = None
    events: int | None = None
    reason: str | None = None
    """Why it failed."""


class RunningRebuildStatus(Struct, rename="camel"):
    """Progress of a rebuild that runs."""

    tenant: str
    """`*`: several tenants together."""
    phase: str
    done: int
    """Events of this phase."""
    total: int | None
    events_per_s: float
    lag: int | None
    """Offsets of the topic that are not in the new generation yet."""
    eta_s: float | None
    """Remaining time of this phase. None = unknown."""


class AuditStatus(Struct, rename="camel"):
    """Outcome of the last audit of a tenant."""

    result: Literal["clean", "drift", "repaired", "skipped"]
    at: str
    groups: int
    """Groups that were compared."""
    cells: int
    """Counts that differ, after a repair if there was one."""
    source: Literal["command", "worker"]
    sample: int | None
    """Groups asked for per grouping. None = all."""
    generation: int | None
    reason: str
    """Why nothing was compared, or not all of it."""


class TenantStatus(Struct, rename="camel"):
    """Active generation of a tenant's counters."""

    tenant: str
    generation: int
    complete: bool
    """Whether the counters hold all that history holds; otherwise history answers."""
    timezone: str
    """Time zone of the counters: the tenant's zone when the generation began."""
    catalog_timezone: str | None
    """Time zone of the tenant now. If it differs, history answers until the counters are rebuilt.
    None = unknown, because Postgres did not answer."""
    day: str
    """Window day: the day that the windows end with."""
    rolled: str
    """Day up to which the windows are rolled; before `day` during a roll."""
    windows: Mapping[str, Mapping[str, str | None]]
    """Period -> {start, end}; both are None for alltime."""
    groups: Mapping[str, int]
    """Grouping -> number of ids ever seen."""
    over: Mapping[str, int]
    """Grouping -> overflow: interactions of ids beyond the limit, which are counted as one group.
    For such a grouping history answers. `customer_offers` -> times that an offer of a customer was
    not remembered; history then answers for customers."""
    customer_ranks: Sequence[str] = ()
    """Periods in which customers are ranked. For the others history answers about many customers,
    until a rank is built, which a question begins."""
    events: int | None = None
    """Events that the counters hold. None = made by a version that did not count them."""
    missing: MissingStatus = MissingStatus()
    generations: Sequence[GenerationStatus] = ()
    """The active generation and the newest others, in order of number."""
    shards: int = 1
    """Number of shards. With several, `groups` of actions, treatments and channels are those of the
    shard that has most."""
    last_rebuild: RebuildStatus | None = None
    """None = none, or by an older version."""
    last_audit: AuditStatus | None = None


class Sizes(Struct, rename="camel"):
    """Memory and disk that the stores use, in bytes. None = unknown."""

    redis_bytes: int | None
    history_bytes: int | None
    redis_max_bytes: int | None = None
    """`maxmemory` of Redis, summed over the nodes of a cluster. None = unlimited or unknown."""
    redis_policy: str | None = None
    """`maxmemory-policy` of Redis; of a cluster, the worst. None = unknown."""
    redis_used_ratio: float | None = None
    """Share of `maxmemory` that the fullest node uses. None = unlimited or unknown."""
    redis_evicts_counters: bool | None = None
    """Whether Redis may evict counters: history answers. None = unknown."""
    redis_evicted_keys: int | None = None
    """Keys that Redis has evicted since it started. None = unknown."""
    redis_unsaved_s: int | None = None
    """Age in seconds of what Redis would lose in a restart: of its newest snapshot, or of its
    start. 0 = it has an append-only file, or nothing has changed since. None = unknown."""


class LogChangeStatus(Struct, rename="camel"):
    """Incident in which the topic's offsets lost their meaning."""

    kind: str
    """"recreated": the topic was deleted and created again. "cut": the log was truncated, so that
    it ended before the watermark."""
    topic_id: str = field(name="log")
    at: str
    """RFC 3339, UTC."""


class Problem(Struct, rename="camel"):
    """Something that needs attention."""

    problem: str
    remedy: str
    """What to do, with the command that does it."""
    tenants: Sequence[str] = ()
    """The tenants that have the problem. Empty = it is not one of tenants."""


class Status(Struct, rename="camel"):
    """Report of `status`."""

    topic: str
    topic_id: str | None = field(name="log")
    """Topic id (KIP-516): a topic that is created again has another one."""
    lag: int | None
    history_lag: int | None
    waiting_ms: int | None
    """Longest wait of any partition."""
    visible: VisibleStatus | None
    """Worst value of any partition, for each percentile."""
    partitions: Sequence[PartitionStatus]
    lost_offsets: int | None
    """Offsets that retention deleted before they were counted. If history has their events,
    `rebuild --from history` counts them."""
    log_changes: Sequence[LogChangeStatus]
    tenants: Sequence[TenantStatus]
    sizes: Sizes
    errors: Mapping[str, str]
    """kafka, redis or postgres -> why it did not answer. Empty = all answered."""
    at: str = ""
    """Time of the report."""
    attention: Sequence[Problem] = ()
    """What needs attention, the most urgent first. Empty = nothing."""
    rebuilds: Sequence[RunningRebuildStatus] = ()
    """Rebuilds that run."""
    failed_rebuilds: Mapping[str, RebuildStatus] = {}
    """Tenant -> its last rebuild, where that failed. Such a tenant may have no counters."""
    counter_gaps: int | None = None
    """Offsets that the counters of any tenant lack and history has, because of retention."""
    history_gaps: Sequence[GapStatus] | None = None
    """Offsets that history lacks because of retention, of every topic id."""
    history_gap_offsets: int | None = None
    """Number of offsets in `history_gaps`."""
    dead_letters: int | None = None
    """Offsets that the dead-letter topic holds: the number of dead letters, redriven ones and
    transaction markers included."""
    newest_dead_letter_at: str | None = None
    """Arrival of the newest dead letter. None = there is none, or unknown."""
    quarantined: int | None = None
    """Number of quarantined records. None = unknown."""
    newest_quarantined_at: str | None = None
    """When the newest of them was stored. None = there is none, or unknown."""
