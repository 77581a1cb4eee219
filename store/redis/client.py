"""Connections to Redis or Valkey, alone or as a cluster."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from importlib import resources
from typing import Any

from redis.asyncio import ConnectionPool, Redis, RedisCluster
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import NoScriptError, ReadOnlyError, RedisError

from store.cancellation import cancellable
from store.records import StoreUnavailable
from store.settings import Settings

Client = Redis | RedisCluster


def make_client(settings: Settings, *, timeout_s: float, retries: int) -> Client:
    """A client that answers bytes. Readers want a short `timeout_s` and no retries, so that the
    fallback starts at once; writers may retry, as every script that changes something is fenced.
    """
    retry = Retry(ExponentialBackoff(cap=1.0, base=0.05), retries)
    if settings.redis_cluster:
        return RedisCluster.from_url(
            settings.redis_url,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=retry,
            decode_responses=False,
        )
    pool = ConnectionPool.from_url(
        settings.redis_url,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=retry,
        decode_responses=False,
    )
    plain = pool.connection_class  # TCP, TLS or a Unix socket, as the URL says
    pool.connection_class = type(plain.__name__, (_LeavesReplica, plain), {})
    return Redis.from_pool(pool)


class _LeavesReplica(AbstractConnection):
    """A connection that is not used again once its server says that it only reads: what was the
    primary is a replica now, and the next connection shall look who is it. Each connection leaves
    by itself, on its release, as closing the whole pool would cut off others in mid-command."""

    async def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return await super().read_response(*args, **options)
        except ReadOnlyError:
            self.mark_for_reconnect()  # type: ignore[no-untyped-call]
            raise


@asynccontextmanager
async def redis_errors() -> AsyncIterator[None]:
    """Turns what the driver raises when Redis cannot be used into StoreUnavailable."""
    try:
        with cancellable():
            yield
    except (RedisError, OSError) as error:
        raise StoreUnavailable(f"Redis: {type(error).__name__}: {error}") from error


async def memory_bytes(client: Client) -> int:
    """Return the bytes of memory that Redis uses, summed over the nodes of a cluster.

    Raises StoreUnavailable.
    """
    async with redis_errors():
        info: Any = await client.info("memory")
    # A cluster answers with one entry per node.
    nodes = [info] if "used_memory" in info else info.values()
    return sum(node["used_memory"] for node in nodes)


class Script:
    """A Lua script of this package, sent by its hash and in full only where Redis lacks it."""

    def __init__(self, name: str, *, read_only: bool = False) -> None:
        lua = resources.files("store.redis.lua")
        flags = " flags=no-writes" if read_only else ""
        parts = ["layout", name] if read_only else ["layout", "common", name]
        # The shebang makes Redis refuse the whole script, not its middle, when memory is full.
        text = "\n".join((lua / f"{part}.lua").read_text() for part in parts)
        self._text = f"#!lua{flags}\n{text}"
        self.sha = hashlib.sha1(self._text.encode(), usedforsecurity=False).hexdigest()

    async def __call__(self, client: Client, key: str, *args: str | int | bytes) -> list[Any]:
        """Runs the script with the one key that routes it; raises StoreUnavailable."""
        async with redis_errors():
            try:
                return await _answer(client.evalsha(self.sha, 1, key, *args))
            except NoScriptError:
                return await _answer(client.eval(self._text, 1, key, *args))


async def _answer(call: Any) -> list[Any]:
    answer = await call if isinstance(call, Awaitable) else call
    assert isinstance(answer, list)
    return answer
