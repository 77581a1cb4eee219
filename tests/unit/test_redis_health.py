"""What INFO says of a Redis that may lose counters."""

from __future__ import annotations

import pytest

from store.redis.evictions import Seen, may_lack_counters
from store.redis.health import NodeHealth, RedisHealth, node_health


def node(
    policy: str | None, evicted_keys: int | None = 0, max_bytes: int | None = 100
) -> NodeHealth:
    return NodeHealth("r", 50, max_bytes, policy, evicted_keys, 0)


@pytest.mark.parametrize(
    ("policy", "max_bytes", "evicts"),
    [
        ("allkeys-lru", 100, True),
        ("allkeys-lfu", 100, True),
        ("allkeys-random", 0, False),
        ("allkeys-lru", None, False),
        ("volatile-lru", 100, False),
        ("noeviction", 100, False),
        (None, 100, False),
    ],
)
def test_only_allkeys_with_a_limit_evicts_counters(
    policy: str | None, max_bytes: int | None, evicts: bool
) -> None:
    assert node(policy, max_bytes=max_bytes).evicts_counters is evicts


@pytest.mark.parametrize(
    ("now", "seen", "lacks"),
    [
        pytest.param(node("noeviction"), None, False, id="new server"),
        pytest.param(node("noeviction", 3), None, True, id="new record, evicted before"),
        pytest.param(node("volatile-lru", 3), None, False, id="new record, keys with a TTL"),
        pytest.param(node("allkeys-lru"), None, True, id="restarted while it evicts"),
        pytest.param(node("allkeys-lru", 3), Seen(3, "allkeys-lru"), False, id="no more"),
        pytest.param(node("allkeys-lru", 4), Seen(3, "allkeys-lru"), True, id="more"),
        pytest.param(node("noeviction", 4), Seen(3, "allkeys-lru"), True, id="more, then mended"),
        pytest.param(node("noeviction", 4), Seen(3, "noeviction"), True, id="changed in between"),
        pytest.param(node("volatile-ttl", 4), Seen(3, "volatile-ttl"), False, id="more with a TTL"),
        pytest.param(
            node("allkeys-lru", 4), Seen(3, "volatile-lru"), True, id="changed to allkeys"
        ),
        pytest.param(node("noeviction", 2), Seen(3, "noeviction"), True, id="reset, then more"),
        pytest.param(node("noeviction", 0), Seen(3, "noeviction"), False, id="reset"),
        pytest.param(node("allkeys-lru", None), None, False, id="unknown"),
    ],
)
def test_growth_of_evicted_keys_makes_counters_doubtful(
    now: NodeHealth, seen: Seen | None, lacks: bool
) -> None:
    assert may_lack_counters(now, seen) is lacks


def test_the_worst_node_of_a_cluster_decides() -> None:
    nodes = [node("noeviction", 1), node("volatile-lru", 2), node("allkeys-lru", 4)]
    nodes[0] = nodes[0]._replace(used_bytes=99, unsaved_s=None)
    health = RedisHealth(nodes)
    assert health.evicts_counters
    assert health.policy == "allkeys-lru"
    assert health.used_ratio == 0.99
    assert (health.used_bytes, health.max_bytes, health.evicted_keys) == (199, 300, 7)
    assert health.unsaved_s == 0


def test_what_a_server_does_not_report_is_unknown() -> None:
    found = node_health({"run_id": "r", "used_memory": 5})
    assert found == NodeHealth("r", 5, None, None, None, None)
    health = RedisHealth([found])
    assert (health.policy, health.max_bytes, health.used_ratio) == (None, None, None)
    assert (health.evicted_keys, health.unsaved_s) == (None, None)
    assert not health.evicts_counters


@pytest.mark.parametrize(
    ("aof", "changes", "unsaved_s"), [(1, 5, 0), (0, 0, 0), (0, 5, 900)], ids=["aof", "rdb", "none"]
)
def test_what_a_restart_would_lose(aof: int, changes: int, unsaved_s: int) -> None:
    info = {
        "aof_enabled": aof,
        "rdb_changes_since_last_save": changes,
        "rdb_last_save_time": 100,
        "server_time_usec": 1_000_000_000,
    }
    assert node_health(info).unsaved_s == unsaved_s
