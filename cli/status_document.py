"""Document that `status --json` prints.

The JSON names are the field names in camel case, except where `field(name=…)` gives another. They
are public: scripts read them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
    For such a grouping history answers."""


class Sizes(Struct, rename="camel"):
    """Memory and disk that the stores use, in bytes. None = unknown."""

    redis_bytes: int | None
    history_bytes: int | None


class LogChangeStatus(Struct, rename="camel"):
    """Incident in which the topic's offsets lost their meaning."""

    kind: str
    """"recreated": the topic was deleted and created again. "cut": the log was truncated, so that
    it ended before the watermark."""
    topic_id: str = field(name="log")
    at: str
    """RFC 3339, UTC."""


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
