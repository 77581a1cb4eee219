"""Counters of requests for rate limits, kept in Redis by the library `limits`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from limits.aio.storage import RedisClusterStorage, RedisStorage
from redis.asyncio.connection import SSLConnection, parse_url

from store.redis.client import make_client
from store.settings import Settings


def make_rate_counts(
    settings: Settings, *, timeout_s: float
) -> tuple[RedisStorage, Callable[[], Awaitable[object]]]:
    """Return the counters, not connected yet, and the call that closes their connections."""
    prefix = f"{settings.redis_prefix}:rate"
    if settings.redis_cluster:
        # The library makes the client of a cluster itself, from a URL of its own form.
        options: dict[str, Any] = dict(parse_url(settings.redis_url))
        node = f"{options.pop('host', 'localhost')}:{options.pop('port', 6379)}"
        options.pop("db", None)  # a cluster has one database
        if options.pop("connection_class", None) is SSLConnection:
            options["ssl"] = True
        # As in a client made from the URL: what the URL says holds.
        options = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s, **options}
        cluster = RedisClusterStorage(
            f"async+redis+cluster://{node}",
            implementation="redispy",
            key_prefix=prefix,
            **options,
        )
        return cluster, cluster.bridge.storage.aclose  # type: ignore[attr-defined]
    client: Any = make_client(settings, timeout_s=timeout_s, retries=0)
    storage = RedisStorage(
        "async+redis://",
        implementation="redispy",
        key_prefix=prefix,
        connection_pool=client.connection_pool,
    )
    return storage, client.aclose
