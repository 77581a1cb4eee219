"""Which worker reads a partition now, as claimed by the workers when they are assigned it.

Kafka's group knows it too, but a worker that was frozen or disconnected learns it only some time
after it is back. Before a step that must not be done twice, and that no compare-and-set protects,
these claims answer at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from store.redis.client import Client, redis_errors
from store.redis.keys import Keys


class PartitionOwners:
    """Claims of partitions by workers. Both methods raise StoreUnavailable."""

    def __init__(self, client: Client, prefix: str) -> None:
        self._client: Any = client
        self._key = Keys(prefix).owners

    async def claim(self, topic_id: str, partitions: Iterable[int], owner: str) -> None:
        """Record `owner` as the only reader of these partitions of the topic."""
        claims = {f"{topic_id}:{partition}": owner for partition in partitions}
        if claims:
            async with redis_errors():
                await self._client.hset(self._key, mapping=claims)

    async def owner(self, topic_id: str, partition: int) -> str | None:
        """Return the worker that claimed the partition last, or None if Redis has no claim."""
        async with redis_errors():
            owner = await self._client.hget(self._key, f"{topic_id}:{partition}")
        return None if owner is None else str(owner.decode())
