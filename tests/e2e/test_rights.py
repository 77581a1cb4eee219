"""Users of Redis and PostgreSQL with exactly the rights that docs/operations.md gives them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from psycopg.conninfo import make_conninfo

from store.redis.rate_counts import make_rate_counts
from store.settings import Settings
from tests.support.all_commands import run_all_commands
from tests.support.documented_rights import create_redis_user, denials, postgres_grants
from tests.support.program import Program
from tests.support.redis_cluster import redis_cluster
from tests.support.services.base import Services

PASSWORD = "p"


@pytest.mark.long
def test_every_command_works_with_the_documented_rights_on_a_cluster(
    services: Services, settings: Settings, tmp_path: Path
) -> None:
    """On one Redis, test_tls.py shows it."""
    name = settings.redis_prefix.replace("-", "_")
    with ExitStack() as stack:
        urls = [node.url for node in stack.enter_context(redis_cluster(tmp_path))]
        admins = [stack.enter_context(redis_user(url, name, settings.redis_prefix)) for url in urls]
        owner_url, url = stack.enter_context(postgres_roles(services.postgres.url, name))
        address = urls[0].removeprefix("redis://")
        changes: dict[str, Any] = {
            "redis_url": f"redis://{name}:{PASSWORD}@{address}",
            "redis_cluster": True,
            "database_url": url,
        }
        owner = Program(settings.model_copy(update={"database_url": owner_url}), tmp_path)
        program = Program(settings.model_copy(update=changes), tmp_path)
        try:
            run_all_commands(owner, program)
            asyncio.run(count_requests(program.settings))
        finally:
            program.close()
        assert [denials(admin, name) for admin in admins] == [[] for _ in urls]
        for log in tmp_path.glob("*.log"):
            assert "permission" not in log.read_text(), log


async def count_requests(settings: Settings) -> None:
    """Count requests as the rate limits of the API do, on all nodes."""
    counts, close = make_rate_counts(settings, timeout_s=5)
    names = [f"key-{i}" for i in range(10)]
    try:
        assert [await counts.incr(name, 60) for name in names] == [1] * 10
    finally:
        await close()


@contextmanager
def redis_user(url: str, name: str, prefix: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(url) as admin:
        create_redis_user(admin, name, PASSWORD, prefix, cluster=True)
        try:
            yield admin
        finally:
            admin.execute_command("ACL", "DELUSER", name)


@contextmanager
def postgres_roles(url: str, name: str) -> Iterator[tuple[str, str]]:
    """Create an owner with a database, and a role with the documented grants; yield their URLs."""
    owner = f"{name}_owner"
    with psycopg.connect(url, autocommit=True) as admin:
        for role in (owner, name):
            admin.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'".encode())
        admin.execute(f"CREATE DATABASE {name} OWNER {owner}".encode())
        try:
            owner_url = make_conninfo(url, dbname=name, user=owner, password=PASSWORD)
            with psycopg.connect(owner_url, autocommit=True) as own:
                for statement in postgres_grants(name):
                    own.execute(statement.encode())
            yield owner_url, make_conninfo(url, dbname=name, user=name, password=PASSWORD)
        finally:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
            for role in (name, owner):
                admin.execute(f"DROP ROLE {role}".encode())
