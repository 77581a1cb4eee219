"""Who reads a partition of the log now, as the workers say themselves when they are given one.

Kafka's group knows it too, but tells a worker that was away (frozen, cut off) only some time after
it is back. Asked right before something that must not be done twice and that no fence of its own
protects, these claims tell at once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from store.redis.client import Client, redis_errors
from store.redis.keys import Keys


class PartitionOwners:
    """Both methods raise StoreUnavailable."""

    def __init__(self, client: Client, prefix: str) -> None:
        self._client: Any = client
        self._key = Keys(prefix).owners

    async def claim(self, topic_id: str, partitions: Iterable[int], owner: str) -> None:
        """From now on `owner` reads these partitions of `log`, and nobody else does."""
        mine = {f"{topic_id}:{partition}": owner for partition in partitions}
        if mine:
            async with redis_errors():
                await self._client.hset(self._key, mapping=mine)

    async def owner(self, topic_id: str, partition: int) -> str | None:
        """Who claimed the partition last; None = nobody, or Redis has lost it."""
        async with redis_errors():
            owner = await self._client.hget(self._key, f"{topic_id}:{partition}")
        return None if owner is None else str(owner.decode())
