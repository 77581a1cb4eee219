"""Disk space that history uses."""

from __future__ import annotations

from typing import Final

from store.postgres.pool import Pool, transaction
from store.postgres.sql import load

_HISTORY_BYTES: Final = load("history_bytes")


async def history_bytes(pool: Pool, *, timeout_s: float = 5.0) -> int:
    """Return the size of history on disk, in bytes. Raises StoreUnavailable."""
    async with transaction(pool, read_only=True, timeout_s=timeout_s) as connection:
        row = await (await connection.execute(_HISTORY_BYTES)).fetchone()
    assert row is not None
    return int(row[0])
