"""API keys in PostgreSQL, as the command line makes them and a reader loads them."""

from __future__ import annotations

import json
from subprocess import CompletedProcess
from typing import Any

import psycopg
import pytest

from store.api_keys import ApiKey, hash_key, is_key, pepper_id
from store.postgres.api_keys import (
    KEYS_MAX,
    TooManyKeys,
    create_key,
    list_keys,
    load_active_keys,
    rehash_key,
    revoke_key,
)
from store.postgres.pool import Pool, open_pool, transaction
from store.postgres.removal import remove_catalog
from store.settings import Settings
from tests.support.command_line import failed, run

pytestmark = pytest.mark.anyio
PEPPER = "p" * 64
NEWER = "n" * 64


async def active(pool: Pool) -> dict[str, ApiKey]:
    loaded = await load_active_keys(pool, known_version=-1)
    assert loaded is not None
    return {key.tenant: key for key in loaded.keys}


async def version(pool: Pool) -> int:
    loaded = await load_active_keys(pool, known_version=-1)
    assert loaded is not None
    return loaded.version


async def test_every_change_of_a_key_is_a_new_version(database_url: str) -> None:
    async with open_pool(Settings(database_url=database_url), max_size=2) as pool:
        versions = [await version(pool)]
        listed, key = await create_key(pool, "acme", "viewer", name="web", pepper=PEPPER)
        versions.append(await version(pool))
        assert is_key(key)
        assert (await active(pool))["acme"] == ApiKey(
            listed.id, "acme", "viewer", hash_key(key, PEPPER), None
        )
        await rehash_key(pool, (await active(pool))["acme"], key, NEWER)
        versions.append(await version(pool))
        assert (await active(pool))["acme"].key_hash == hash_key(key, NEWER)
        assert (await list_keys(pool))[0].pepper_id == pepper_id(NEWER)

        assert await revoke_key(pool, listed.id, "other") is None
        assert await revoke_key(pool, "not-an-id") is None
        assert "acme" in await active(pool)
        revoked = await revoke_key(pool, listed.id, "acme")
        versions.append(await version(pool))
        assert revoked is not None
        assert revoked.revoked_at is not None
        assert await active(pool) == {}
        assert (await revoke_key(pool, listed.id)) == revoked  # again: as it was

        await create_key(pool, "gone", "admin", name="", pepper=PEPPER)
        before = await version(pool)
        await remove_catalog(pool, "gone")
        assert await active(pool) == {}
        versions += [before, await version(pool)]
        assert len(versions) == len(set(versions))
        assert min(versions) >= 0  # -1 stands for none
        assert await load_active_keys(pool, versions[-1]) is None


async def test_a_change_after_a_failover_is_no_version_of_the_lost_changes(
    database_url: str,
) -> None:
    """An asynchronous standby becomes the primary before it has the last change."""
    async with open_pool(Settings(database_url=database_url), max_size=1) as pool:
        await create_key(pool, "acme", "viewer", name="", pepper=PEPPER)
        key = (await active(pool))["acme"]
        async with transaction(pool) as connection:
            cursor = await connection.execute("SELECT version FROM api_keys_version")
            (replicated,) = await cursor.fetchone() or (0,)
        await create_key(pool, "lost", "viewer", name="", pepper=PEPPER)
        known = await version(pool)
        async with transaction(pool) as connection:
            await connection.execute("DELETE FROM api_keys WHERE tenant_id = 'lost'")
            await connection.execute("UPDATE api_keys_version SET version = %s", (replicated,))
        await revoke_key(pool, key.id)
        loaded = await load_active_keys(pool, known)
        assert loaded is not None
        assert loaded.keys == ()


async def test_a_tenant_has_a_bounded_number_of_keys(database_url: str) -> None:
    async with open_pool(Settings(database_url=database_url), max_size=1) as pool:
        async with pool.connection() as connection:
            await connection.execute(
                "INSERT INTO api_keys (tenant_id, role, key_hash, prefix) SELECT 'acme', 'viewer',"
                " decode(md5(i::text), 'hex'), 'krn_' FROM generate_series(1, %s) AS i",
                (KEYS_MAX,),
            )
        with pytest.raises(TooManyKeys, match="revoke some"):
            await create_key(pool, "acme", "viewer", name="", pepper=PEPPER)
        await create_key(pool, "other", "viewer", name="", pepper=PEPPER)


def test_the_commands_create_list_and_revoke(database_url: str) -> None:
    def keys(*arguments: str, pepper: str = PEPPER) -> CompletedProcess[str]:
        return run("keys", *arguments, DATABASE_URL=database_url, API_KEY_PEPPER=pepper)

    def listed(pepper: str = PEPPER) -> list[dict[str, Any]]:
        done = keys("list", "--json", pepper=pepper)
        assert done.returncode == 0, done.stderr
        found: list[dict[str, Any]] = json.loads(done.stdout)["keys"]
        return found

    done = keys("create", "--tenant", "acme", "--role", "editor", "--name", "ci")
    assert done.returncode == 0, done.stderr
    key = done.stdout.strip()
    assert is_key(key)
    assert key not in done.stderr
    (shown,) = listed()
    assert shown["prefix"] == key[:8]
    assert (shown["tenant"], shown["role"], shown["name"]) == ("acme", "editor", "ci")
    assert (shown["revokedAt"], shown["pepper"]) == (None, "current")
    assert listed(NEWER)[0]["pepper"] == "other"
    with psycopg.connect(database_url) as connection:
        stored = connection.execute("SELECT api_keys::text FROM api_keys").fetchall()
    assert key[8:] not in str(stored)

    done = keys("revoke", shown["id"])
    assert (done.returncode, done.stdout) == (0, f"key {shown['id']} of tenant acme: revoked\n")
    assert listed()[0]["revokedAt"]
    assert "1 keys" in keys("list").stdout
    error = failed("keys", "revoke", key, DATABASE_URL=database_url)
    assert f"{key[:8]}…" in error
    assert key not in error
    error = failed("keys", "revoke", "7", DATABASE_URL=database_url)
    assert "there is no key '7'" in error
