"""API keys in PostgreSQL: created, listed, revoked, and loaded for checks."""

from __future__ import annotations

from typing import Final, NamedTuple
from uuid import UUID

from store.api_keys import SHOWN_CHARS, ApiKey, ListedKey, Role, hash_key, make_key, pepper_id
from store.postgres.pool import Pool, transaction
from store.postgres.sql import load

#: Maximum keys of a tenant that are not revoked.
KEYS_MAX: Final = 1_000

_CREATE: Final = load("create_key")
_LIST: Final = load("list_keys")
_REVOKE: Final = load("revoke_key")
_ACTIVE: Final = load("active_keys")
_REHASH: Final = load("rehash_key")


class TooManyKeys(ValueError):
    """The tenant has KEYS_MAX keys. The message says what to do."""


class ActiveKeys(NamedTuple):
    """All keys that are not revoked, as of a version. Versions have no order."""

    version: int
    keys: tuple[ApiKey, ...]


async def create_key(
    pool: Pool,
    tenant: str,
    role: Role,
    *,
    name: str,
    pepper: str,
    rate_limit_per_minute: int | None = None,
) -> tuple[ListedKey, str]:
    """Store a new key; return what is stored, and the key, which cannot be had again.

    Raises TooManyKeys and StoreUnavailable.
    """
    key = make_key()
    async with transaction(pool) as connection:
        # Serializes creations, or several at once would pass the maximum.
        await connection.execute("UPDATE api_keys_version SET version = version")
        cursor = await connection.execute(
            "SELECT count(*) FROM api_keys WHERE tenant_id = %s AND revoked_at IS NULL", (tenant,)
        )
        (count,) = await cursor.fetchone() or (0,)
        if count >= KEYS_MAX:
            raise TooManyKeys(f"tenant {tenant} has {count} API keys, the maximum; revoke some")
        cursor = await connection.execute(
            _CREATE,
            {
                "tenant": tenant,
                "role": role,
                "key_hash": hash_key(key, pepper),
                "prefix": key[:SHOWN_CHARS],
                "name": name,
                "pepper_id": pepper_id(pepper),
                "rate_limit": rate_limit_per_minute,
            },
        )
        row = await cursor.fetchone()
    assert row is not None
    return ListedKey(*row), key


async def list_keys(pool: Pool, tenant: str | None = None) -> list[ListedKey]:
    """Return the keys of one tenant, or of all, revoked ones too, oldest first.

    Raises StoreUnavailable.
    """
    async with transaction(pool, read_only=True) as connection:
        cursor = await connection.execute(_LIST, {"tenant": tenant})
        return [ListedKey(*row) for row in await cursor.fetchall()]


async def revoke_key(pool: Pool, key_id: str, tenant: str | None = None) -> ListedKey | None:
    """Revoke a key, of `tenant` if given; return it, or None if there is no such key.

    A key that is revoked already stays as it is. Raises StoreUnavailable.
    """
    try:
        parsed = UUID(key_id)
    except ValueError:
        return None
    async with transaction(pool) as connection:
        cursor = await connection.execute(_REVOKE, {"id": parsed, "tenant": tenant})
        row = await cursor.fetchone()
    return ListedKey(*row) if row else None


async def load_active_keys(pool: Pool, known_version: int) -> ActiveKeys | None:
    """Return the keys that are not revoked, or None if `known_version` is the current one.

    Raises StoreUnavailable.
    """
    async with transaction(pool, read_only=True, snapshot=True) as connection:
        cursor = await connection.execute("SELECT version FROM api_keys_version")
        (version,) = await cursor.fetchone() or (0,)
        if version == known_version:
            return None
        cursor = await connection.execute(_ACTIVE)
        return ActiveKeys(version, tuple(ApiKey(*row) for row in await cursor.fetchall()))


async def rehash_key(pool: Pool, stored: ApiKey, key: str, pepper: str) -> None:
    """Replace the hash of a key by the one with `pepper`. Raises StoreUnavailable."""
    async with transaction(pool) as connection:
        await connection.execute(
            _REHASH,
            {
                "id": UUID(stored.id),
                "old_hash": stored.key_hash,
                "key_hash": hash_key(key, pepper),
                "pepper_id": pepper_id(pepper),
            },
        )
