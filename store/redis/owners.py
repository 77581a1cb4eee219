"""Which worker reads a partition now, as claimed by the workers when they are assigned it.

Kafka's group knows it too, but a worker that was frozen or disconnected learns it only some time
after it is back. Before a step that must not be done twice, and that no compare-and-set protects,
these claims answer at once.
"""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Iterable
from typing import Any

from store.redis.client import Client, redis_errors
from store.redis.keys import Keys


def new_owner() -> str:
    """Return a name of this process that no other claim has: `<host>:<process id>:<random>`."""
    return f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex}"


def worker_of(owner: str) -> str:
    """Return `<host>:<process id>` of a claim; those of older versions are random only."""
    host, _, rest = owner.partition(":")
    process, colon, _ = rest.partition(":")
    return f"{host}:{process}" if colon else ""


class PartitionOwners:
    """Claims of partitions by workers. Every method raises StoreUnavailable."""

    def __init__(self, client: Client, prefix: str) -> None:
        self._client: Any = client
        self._key = Keys(prefix).owners

    async def claim(self, topic_id: str, partitions: Iterable[int], owner: str) -> None:
        """Record `owner` as the only reader of these partitions of the topic."""
        claims = {f"{topic_id}:{partition}": owner for partition in partitions}
        if claims:
            async with redis_errors():
                await self._client.hset(self._key, mapping=claims)

    async def owners(self, topic_id: str) -> dict[int, str]:
        """Return partition -> host and process of the worker that claimed it last."""
        async with redis_errors():
            claims: dict[bytes, bytes] = await self._client.hgetall(self._key)
        found = {}
        for name, owner in claims.items():
            of, _, partition = name.decode().rpartition(":")
            if of == topic_id:
                found[int(partition)] = worker_of(owner.decode())
        return found

    async def owner(self, topic_id: str, partition: int) -> str | None:
        """Return the worker that claimed the partition last, or None if Redis has no claim."""
        async with redis_errors():
            owner = await self._client.hget(self._key, f"{topic_id}:{partition}")
        return None if owner is None else str(owner.decode())
