"""Floors in Redis: what workers report for the creation of new tenants."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from store.counters import Floor
from store.redis.client import redis_errors
from store.redis.keys import Keys


async def report_floors(
    client: Any, keys: Keys, topic_id: str, floors: Mapping[int, Floor]
) -> None:
    """Store partition -> floor, replacing the previous ones. Raises StoreUnavailable."""
    fields = {
        f"{topic_id}:{partition}": f"{floor.offset},"
        f"{'' if floor.end_offset is None else floor.end_offset},{floor.instance}"
        for partition, floor in floors.items()
    }
    if fields:
        async with redis_errors():
            await client.hset(keys.floors, mapping=fields)


async def read_floors(client: Any, keys: Keys, topic_id: str) -> dict[int, Floor]:
    """Return partition -> floor, as reported last. Raises StoreUnavailable."""
    async with redis_errors():
        fields: dict[bytes, bytes] = await client.hgetall(keys.floors)
    found = {}
    for name, value in fields.items():
        of, _, partition = name.decode().rpartition(":")
        if of == topic_id:
            offset, end, instance = value.decode().split(",", 2)
            found[int(partition)] = Floor(int(offset), int(end) if end else None, instance)
    return found
