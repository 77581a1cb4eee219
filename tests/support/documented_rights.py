"""The rights that docs/operations.md gives the program's users, read from there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import redis
from kafka.admin import (
    ACL,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    KafkaAdminClient,
    ResourcePattern,
    ResourceType,
)

from store.settings import Settings

PAGE = Path(__file__).parents[2] / "docs/operations.md"
#: What the page calls the user.
USER = "summary"


def _block(name: str) -> str:
    (found,) = re.findall(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", PAGE.read_text(), re.DOTALL)
    return str(found)


def documented_redis_commands() -> set[str]:
    """Return the names of the commands that every Redis user needs, in lower case."""
    return set(re.findall(r"\+(\S+)", _block("redis-acl")))


def create_redis_user(
    admin: redis.Redis, user: str, password: str, prefix: str, *, cluster: bool = False
) -> None:
    """Create the user with the rules of the page for the admin's server; empty ACL LOG."""
    words = _block("redis-acl").replace("```", "").split()
    assert words[:3] == ["ACL", "SETUSER", USER], words
    assert ">PASSWORD" in words and "~is:*" in words, words
    more = _block("redis-acl-cluster").replace("```", "").split() if cluster else []
    replaced = {">PASSWORD": f">{password}", "~is:*": f"~{prefix}:*"}
    server: Any = admin
    info = server.info("server")
    if tuple(map(int, info["redis_version"].split(".")[:2])) >= (7, 2):
        (word,) = re.findall(r"Since Redis 7.2, and in Valkey, add `(.+?)`", PAGE.read_text())
        more.append(word)
    rules = [replaced.get(word, word) for word in [*words[3:], *more]]
    server.execute_command("ACL", "SETUSER", user, *rules)
    server.execute_command("ACL", "LOG", "RESET")


def denials(admin: redis.Redis, user: str) -> list[Any]:
    """Return what Redis refused the user: command or key."""
    logged: Any = admin.acl_log()
    return [entry["object"] for entry in logged if entry["username"] == user]


def postgres_grants(role: str) -> list[str]:
    """Return the statements that give `role` its rights."""
    sql = _block("postgres-grants").replace("```sql", "").replace("```", "")
    statements = [each.strip() for each in sql.split(";") if each.strip()]
    assert all(each.endswith(f" TO {USER}") for each in statements), statements
    return [each.removesuffix(USER) + role for each in statements]


def grant_kafka(admin: KafkaAdminClient, principal: str, settings: Settings) -> None:
    """Give the principal what the table of the page has for the names in `settings`."""
    rules = []
    for line in _block("kafka-acls").splitlines()[2:]:
        resource, operations, _ = (cell.strip() for cell in line.strip("|").split("|"))
        pattern = _pattern(resource, settings)
        for operation in operations.split(", "):
            name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", operation).upper()
            rules.append(_rule(principal, ACLOperation[name], pattern))
    assert len(rules) >= 8, rules
    _create(admin, rules)


def grant_kafka_create(admin: KafkaAdminClient, principal: str, settings: Settings) -> None:
    """Give the principal what `migrate` needs besides."""
    topics = (settings.interactions_topic, settings.dead_letter_topic)
    _create(
        admin,
        [
            _rule(principal, ACLOperation.CREATE, ResourcePattern(ResourceType.TOPIC, topic))
            for topic in topics
        ],
    )


def _pattern(resource: str, settings: Settings) -> Any:
    (setting,) = re.findall(r"`([A-Z_]+)`", resource)
    name = getattr(settings, setting.lower())
    kinds = {"topic": ResourceType.TOPIC, "group": ResourceType.GROUP}
    if (kind := kinds.get(resource.split()[0])) is not None:
        return ResourcePattern(kind, name)
    assert resource.startswith("transactional ids with the prefix"), resource
    return ResourcePattern(ResourceType.TRANSACTIONAL_ID, name, ACLResourcePatternType.PREFIXED)


def _rule(principal: str, operation: Any, pattern: Any) -> Any:
    return ACL(principal, "*", operation, ACLPermissionType.ALLOW, pattern)


def _create(admin: KafkaAdminClient, rules: list[Any]) -> None:
    done = admin.create_acls(rules)
    assert not done["failed"], done
