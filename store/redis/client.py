"""Connections to Redis or Valkey, standalone or cluster, and calls of Lua scripts."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from importlib import resources
from typing import Any

from redis.asyncio import ConnectionPool, Redis, RedisCluster
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import NoScriptError, ReadOnlyError, RedisError

from store.cancellation import cancellable
from store.driver_errors import AMBIGUOUS, is_raised_in
from store.records import StoreUnavailable
from store.settings import Settings

Client = Redis | RedisCluster


def make_client(settings: Settings, *, timeout_s: float, retries: int) -> Client:
    """Return a client that answers bytes.

    Readers use a short `timeout_s` and no retries, so that the fallback starts at once. Writers
    may retry, as every script that changes something compares before it sets.
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
    pool.connection_class = type(plain.__name__, (_ReconnectOnReadOnly, plain), {})
    return Redis.from_pool(pool)


@asynccontextmanager
async def open_client(
    settings: Settings, *, timeout_s: float, retries: int
) -> AsyncIterator[Client]:
    """Yield a client made by `make_client`, and close it at the end."""
    client = make_client(settings, timeout_s=timeout_s, retries=retries)
    try:
        yield client
    finally:
        await client.aclose()


class _ReconnectOnReadOnly(AbstractConnection):
    """Connection that is replaced once its server answers that it is read-only.

    The former primary is then a replica, and the next connection finds the new primary. Each
    connection is closed on its own release: closing the whole pool would interrupt other commands.
    """

    async def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return await super().read_response(*args, **options)
        except ReadOnlyError:
            self.mark_for_reconnect()  # type: ignore[no-untyped-call]
            raise


@asynccontextmanager
async def redis_errors() -> AsyncIterator[None]:
    """Raise StoreUnavailable for every error of the driver inside the block."""
    try:
        async with cancellable():
            yield
    except (RedisError, OSError) as error:
        raise _unavailable(error) from error
    except AMBIGUOUS as error:
        if not is_raised_in(error, "redis"):
            raise
        raise _unavailable(error) from error


def _unavailable(error: Exception) -> StoreUnavailable:
    return StoreUnavailable(f"Redis: {type(error).__name__}: {error}")


class Script:
    """Lua script of this package, called by its hash, and sent in full only if Redis lacks it."""

    def __init__(self, name: str, *, read_only: bool = False, include: Sequence[str] = ()) -> None:
        """Prepare the script. `include` names further files that are put before it."""
        lua = resources.files("store.redis.lua")
        flags = " flags=no-writes" if read_only else ""
        parts = ["layout", *([] if read_only else ["common"]), *include, name]
        # With a shebang, Redis refuses the whole script when memory is full, not a part of it.
        text = "\n".join((lua / f"{part}.lua").read_text() for part in parts)
        self._text = f"#!lua{flags}\n{text}"
        self.sha = hashlib.sha1(self._text.encode(), usedforsecurity=False).hexdigest()

    async def __call__(self, client: Client, key: str, *args: str | int | bytes) -> list[Any]:
        """Run the script with the one key that routes it. Raises StoreUnavailable."""
        async with redis_errors():
            try:
                return await _answer(client.evalsha(self.sha, 1, key, *args))
            except NoScriptError:
                return await _answer(client.eval(self._text, 1, key, *args))


async def _answer(call: Any) -> list[Any]:
    answer = await call if isinstance(call, Awaitable) else call
    assert isinstance(answer, list)
    return answer
