"""How Redis is set and how full it is, from INFO: managed servers may forbid CONFIG.

A value that a server does not report is None, and never a reason to refuse counters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from redis.asyncio import RedisCluster

from store.redis.client import Client, redis_errors

_SECTIONS: Final = ("server", "memory", "stats", "persistence")


class NodeHealth(NamedTuple):
    """One server; of a cluster, one primary."""

    run_id: str
    """Another one after each start."""
    used_bytes: int | None
    max_bytes: int | None
    """`maxmemory`; 0 = unlimited."""
    policy: str | None
    """`maxmemory-policy`: what Redis does at the limit."""
    evicted_keys: int | None
    """Keys evicted since the start of the server, or since CONFIG RESETSTAT."""
    unsaved_s: int | None
    """Age of the newest snapshot, with changes since then and no append-only file; else 0."""

    @property
    def evicts_counters(self) -> bool:
        """Whether counters may be evicted. They have no TTL, so `volatile-*` spares them."""
        return bool(self.max_bytes) and (self.policy or "").startswith("allkeys-")


class RedisHealth(NamedTuple):
    """All servers of Redis."""

    nodes: Sequence[NodeHealth]

    @property
    def evicts_counters(self) -> bool:
        """Whether any node may evict counters."""
        return any(node.evicts_counters for node in self.nodes)

    @property
    def policy(self) -> str | None:
        """The `maxmemory-policy` that endangers counters most; None = unknown."""
        policies = {node.policy for node in self.nodes if node.policy is not None}
        return min(
            policies,
            key=lambda p: (not p.startswith("allkeys-"), p == "noeviction", p),
            default=None,
        )

    @property
    def used_bytes(self) -> int | None:
        """Memory in use, summed over the nodes."""
        return _sum(node.used_bytes for node in self.nodes)

    @property
    def max_bytes(self) -> int | None:
        """`maxmemory`, summed over the nodes; None = unlimited or unknown."""
        limits = [node.max_bytes for node in self.nodes]
        return _sum(limits) if all(limits) else None

    @property
    def used_ratio(self) -> float | None:
        """Share of `maxmemory` that the fullest node uses; None = unlimited or unknown."""
        ratios = [n.used_bytes / n.max_bytes for n in self.nodes if n.used_bytes and n.max_bytes]
        return max(ratios, default=None)

    @property
    def evicted_keys(self) -> int | None:
        """Keys evicted since the start of each node, summed."""
        return _sum(node.evicted_keys for node in self.nodes)

    @property
    def unsaved_s(self) -> int | None:
        """The largest `NodeHealth.unsaved_s` of any node; None = unknown of all."""
        return max((n.unsaved_s for n in self.nodes if n.unsaved_s is not None), default=None)


async def health_of(client: Client) -> RedisHealth:
    """Return the health of every primary. Raises StoreUnavailable."""
    async with redis_errors():
        if isinstance(client, RedisCluster):
            infos: Any = await client.info(*_SECTIONS, target_nodes=RedisCluster.PRIMARIES)
            return RedisHealth([node_health(info) for info in infos.values()])
        return RedisHealth([node_health(await client.info(*_SECTIONS))])


def node_health(info: Mapping[str, Any]) -> NodeHealth:
    """Return the health that one server's INFO shows. Pure."""
    return NodeHealth(
        run_id=str(info.get("run_id", "")),
        used_bytes=info.get("used_memory"),
        max_bytes=info.get("maxmemory"),
        policy=info.get("maxmemory_policy"),
        evicted_keys=info.get("evicted_keys"),
        unsaved_s=_unsaved_s(info),
    )


def _unsaved_s(info: Mapping[str, Any]) -> int | None:
    if info.get("aof_enabled") == 1:
        return 0
    names = ("aof_enabled", "rdb_changes_since_last_save", "rdb_last_save_time", "server_time_usec")
    if any(name not in info for name in names):
        return None
    if not info["rdb_changes_since_last_save"]:
        return 0
    # Before the first snapshot, the time of the last one is that of the start.
    return max(0, int(info["server_time_usec"]) // 1_000_000 - int(info["rdb_last_save_time"]))


def _sum(values: Iterable[int | None]) -> int | None:
    known = list(values)
    return None if None in known else sum(value for value in known if value is not None)
