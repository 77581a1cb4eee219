"""Connections to Redis or Valkey, standalone or cluster, and calls of Lua scripts."""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from importlib import resources
from pathlib import Path
from typing import Any

from redis.asyncio import ConnectionPool, Redis, RedisCluster
from redis.asyncio.cluster import ClusterPipeline
from redis.asyncio.connection import AbstractConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import (
    AuthenticationError,
    NoPermissionError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
)

from store.cancellation import cancellable
from store.driver_errors import AMBIGUOUS, is_raised_in
from store.records import AccessRefused, StoreUnavailable
from store.settings import Settings

Client = Redis | RedisCluster


def make_client(settings: Settings, *, timeout_s: float, retries: int) -> Client:
    """Return a client that answers bytes.

    Raises ValueError, which never shows the password, for a URL that cannot be used.

    Readers use a short `timeout_s` and no retries, so that the fallback starts at once. Writers
    may retry, as every script that changes something compares before it sets.
    """
    _check_url(settings.redis_url)
    retry = Retry(ExponentialBackoff(cap=1.0, base=0.05), retries)
    if settings.redis_cluster:
        return _Cluster.from_url(
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


def _check_url(url: str) -> None:
    """Raise ValueError for a URL that redis-py refuses late, or with an error that quotes it."""
    try:
        options = parse_url(url)
    except ValueError:
        raise ValueError(
            "REDIS_URL is not valid: it must be redis:// or rediss://USER:PASSWORD@HOST:PORT/0, "
            "with special characters in USER and PASSWORD percent-encoded"
        ) from None
    tls = sorted(name for name in options if name.startswith("ssl_"))
    if tls and not url.startswith("rediss://"):
        raise ValueError(f"REDIS_URL has {tls[0]}, but does not use TLS: begin it with rediss://")
    for name in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"):
        file = options.get(name)
        if file is not None and not Path(str(file)).is_file():
            raise ValueError(f"REDIS_URL: {name}={file}: there is no such file")


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


class _ClusterPipeline(ClusterPipeline):
    """Pipeline after whose failure the client asks again which node has which slots.

    The driver does so after a failed command. After a failed pipeline it does so only when it sends
    the pipeline again, so without retries it would call a primary that is gone for ever.
    """

    async def execute(self, *args: Any, **options: Any) -> list[Any]:
        try:
            return await super().execute(*args, **options)
        except RedisCluster.ERRORS_ALLOW_RETRY:
            await self.cluster_client.aclose()
            raise


class _Cluster(RedisCluster):
    """Client of a cluster."""

    def pipeline(self, transaction: Any = None, shard_hint: Any = None) -> ClusterPipeline:
        return _ClusterPipeline(self, transaction)  # type: ignore[abstract]


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
    text = f"Redis: {type(error).__name__}: {error}"
    if isinstance(error, AuthenticationError):
        return AccessRefused(f"{text.rstrip('.')}; check user and password in REDIS_URL")
    if isinstance(error, NoPermissionError):
        return AccessRefused(f"{text.rstrip('.')}; check the ACL of the user in REDIS_URL")
    if isinstance(error.__cause__, ssl.SSLError) or isinstance(error.__context__, ssl.SSLError):
        return AccessRefused(f"{text.rstrip('.')}; check rediss:// and ssl_ca_certs in REDIS_URL")
    return StoreUnavailable(text)


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
