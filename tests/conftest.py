"""Servers and what a test needs of them. Unit tests ask for none of these and start nothing."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psycopg
import pytest
import redis
import structlog
from psycopg.conninfo import make_conninfo

from cli.embedded.server import StackError
from store.postgres.migrate import migrate
from store.settings import Settings
from tests.support.services import base, real, wheels
from tests.support.services.base import Services, revive

PARTITIONS = 4
_FOLDERS = ("unit", "integration", "e2e")
_TEMPLATE = "migrated_template"
_numbers = itertools.count(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--services",
        choices=("auto", "wheels", "docker", "real"),
        default="auto",
        help="servers to test on; auto: docker where an engine answers, else wheels",
    )


def pytest_configure(config: pytest.Config) -> None:
    # The settings of whoever runs the tests are not the tests': `up` writes a file of them that its
    # users source.
    for name in Settings.model_fields:
        os.environ.pop(name.upper(), None)
    # Plain tracebacks: the pretty ones take a good part of a second each, in which all that a test
    # waits for stands still.
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.dev.ConsoleRenderer(
                colors=False, exception_formatter=structlog.dev.plain_traceback
            ),
        ]
    )
    for folder in _FOLDERS:
        config.addinivalue_line("markers", f"{folder}: in tests/{folder}, set by the folder")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks each test with its folder, and runs the quick folders first."""
    here = Path(__file__).parent

    def folder(item: pytest.Item) -> str:
        return item.path.relative_to(here).parts[0] if here in item.path.parents else ""

    for item in items:
        if folder(item) in _FOLDERS:
            item.add_marker(folder(item))
    items.sort(key=lambda item: _FOLDERS.index(folder(item)) if folder(item) in _FOLDERS else 9)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def services(pytestconfig: pytest.Config) -> Iterator[Services]:
    """The servers, started. A test that stops or pauses one need not mend it: the fixtures below
    do, before the next test."""
    kind = pytestconfig.getoption("--services")
    try:
        with start_services(kind) as started:
            yield started
    except StackError as error:
        pytest.exit(f"--services={kind}: {error}", returncode=3)


@contextmanager
def start_services(kind: str, *, durable: bool = False) -> Iterator[Services]:
    """Servers of one kind, stopped and forgotten at the end. `durable`: whether PostgreSQL waits
    for the disk, where it is a process of ours. Raises StackError."""
    # Not pytest's own temporary folder: PostgreSQL runs as another user there, when we are root.
    folder = Path(tempfile.mkdtemp(prefix="interaction-summary-"))
    folder.chmod(0o755)
    chosen: Services | None = None
    try:
        chosen = _choose(kind, folder, durable)
        for server in chosen[1:]:
            server.start()
        yield chosen
    finally:
        for server in reversed(chosen[1:] if chosen else ()):
            server.stop()
            if hasattr(server, "remove"):
                server.remove()
        shutil.rmtree(folder, ignore_errors=True)


def _choose(kind: str, folder: Path, durable: bool) -> Services:
    if kind == "real":
        return real.services(folder, durable=durable)
    if kind != "wheels":
        from tests.support.services import containers  # slow to import, and needed only here

        if containers.engine_answers():
            return containers.services()
        if kind == "docker":
            raise StackError("no Docker engine answers on this machine")
    return wheels.services(folder, durable=durable)


@pytest.fixture
def kafka(services: Services) -> str:
    """Bootstrap servers."""
    revive(services.kafka)
    return services.kafka.bootstrap


@pytest.fixture
def redis_url(services: Services) -> str:
    """An empty Redis."""
    revive(services.redis)
    with redis.Redis.from_url(services.redis.url) as client:
        client.flushall()
    return services.redis.url


@pytest.fixture(scope="session")
def _template(services: Services) -> str:
    revive(services.postgres)
    _postgres(services, f"CREATE DATABASE {_TEMPLATE}")
    asyncio.run(migrate(make_conninfo(services.postgres.url, dbname=_TEMPLATE)))
    return _TEMPLATE


@pytest.fixture
def database_url(services: Services, _template: str) -> Iterator[str]:
    """A database of this test's own, with its tables and nothing in them."""
    revive(services.postgres)
    name = f"test_{next(_numbers)}"
    _postgres(services, f"CREATE DATABASE {name} TEMPLATE {_template}")
    head, _, _ = services.postgres.url.rpartition("/")
    yield f"{head}/{name}"
    revive(services.postgres)
    _postgres(services, f"DROP DATABASE {name} WITH (FORCE)")


def _postgres(services: Services, statement: str) -> None:
    with psycopg.connect(services.postgres.url, autocommit=True) as connection:
        connection.execute(statement.encode())


class Topics(NamedTuple):
    """Two topics that exist, of this test's own."""

    interactions: str
    dlq: str
    partitions: int = PARTITIONS


@pytest.fixture
def topics(kafka: str) -> Topics:
    return make_topics(kafka)


def make_topics(kafka: str) -> Topics:
    unique = uuid.uuid4().hex[:12]
    names = Topics(f"interactions-{unique}", f"interactions-{unique}.dlq")
    base.create_topics(kafka, {names.interactions: PARTITIONS, names.dlq: 1})
    return names


@pytest.fixture
def settings(kafka: str, redis_url: str, database_url: str, topics: Topics) -> Settings:
    """Settings of this test's own servers, topics, group and key prefix."""
    return make_settings(kafka, redis_url, database_url, topics)


def make_settings(kafka: str, redis_url: str, database_url: str, topics: Topics) -> Settings:
    unique = topics.interactions.rpartition("-")[2]
    return Settings(
        kafka_bootstrap_servers=kafka,
        interactions_topic=topics.interactions,
        dead_letter_topic=topics.dlq,
        topic_partitions=topics.partitions,
        consumer_group=f"group-{unique}",
        redis_url=redis_url,
        redis_prefix=f"is-{unique}",
        database_url=database_url,
        auth_mode="open",
    )
