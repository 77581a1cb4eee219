"""Memory that Redis uses."""

from __future__ import annotations

from typing import Any

from store.redis.client import Client, redis_errors


async def memory_bytes(client: Client) -> int:
    """Return the memory that Redis uses, in bytes, of all nodes together.

    Raises StoreUnavailable.
    """
    async with redis_errors():
        info: Any = await client.info("memory")
    # A cluster answers with one report per node.
    nodes = [info] if "used_memory" in info else info.values()
    return sum(node["used_memory"] for node in nodes)
