"""Watermarks of a generation in Redis: fields of its meta hash."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from store.counters import Generation
from store.redis.client import Client, redis_errors
from store.redis.keys import Keys, watermark_field


class RedisWatermarks:
    """Reader of watermarks. Every method raises StoreUnavailable."""

    def __init__(self, client: Client, prefix: str) -> None:
        self._client: Any = client  # the driver's types allow answers of both str and bytes
        self._keys = Keys(prefix)

    async def watermarks(self, generation: Generation, topic_id: str) -> Mapping[int, int]:
        """Return partition -> next offset to count."""
        return await self._watermarks(generation, "w", topic_id)

    async def first_watermarks(self, generation: Generation, topic_id: str) -> Mapping[int, int]:
        """Return partition -> the watermark that the generation was created with."""
        return await self._watermarks(generation, "f", topic_id)

    async def all_watermarks(self, generation: Generation) -> Mapping[tuple[str, int], int]:
        """Return (topic id, partition) -> next offset, of every topic id ever counted."""
        found = {}
        for field, value in (await self._meta(generation)).items():
            kind, _, rest = field.decode().partition(":")
            if kind == "w" and not rest.startswith("rebuild:"):
                topic_id, _, partition = rest.rpartition(":")
                found[topic_id, int(partition)] = int(value)
        return found

    async def _watermarks(
        self, generation: Generation, kind: str, topic_id: str
    ) -> Mapping[int, int]:
        meta = await self._meta(generation)
        start = watermark_field(kind, topic_id, 0)[:-1].encode()
        return {int(k[len(start) :]): int(v) for k, v in meta.items() if k.startswith(start)}

    async def _meta(self, generation: Generation) -> Mapping[bytes, bytes]:
        async with redis_errors():
            meta: dict[bytes, bytes] = await self._client.hgetall(
                self._keys.meta(generation.tenant, generation.number)
            )
        return meta
