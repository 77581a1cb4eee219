"""Fixtures for servers and for what a test needs on them.

Each pytest process has servers of its own: with `-n 3` there are three of each kind, on ports of
separate ranges, in separate folders. Databases, topics, groups and key prefixes are therefore
separate for each process, and within a process for each test. The servers start at the first test
that asks for one, so a process that runs only unit tests starts none. They end with the process,
even if it is killed.
"""

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
from typing import Any, NamedTuple

import psycopg
import pytest
import redis
import structlog
from psycopg.conninfo import make_conninfo

from cli.embedded import postgres_home, server
from cli.embedded.server import StackError
from store.postgres.migrate import migrate
from store.settings import Settings
from tests.support.services import base, real, wheels
from tests.support.services.base import Services, revive

PARTITIONS = 4
_FOLDERS = ("unit", "integration", "e2e")
_TEMPLATE = "migrated_template"
_database_numbers = itertools.count(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--services`."""
    parser.addoption(
        "--services",
        choices=("auto", "wheels", "docker", "real"),
        default="auto",
        help="servers to test on; auto: docker if an engine answers, else wheels",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Separate the tests from the environment and from the other pytest processes."""
    # `up` writes a file of settings that its users source. The tests must not use those settings.
    for name in Settings.model_fields:
        os.environ.pop(name.upper(), None)
    # Plain tracebacks: the pretty ones take a good part of a second each, and they block the event
    # loop of the test for that time.
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
    if (worker := _xdist_worker(config)) is not None:
        server.PORTS = _port_range(*worker)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(config: pytest.Config) -> None:
    """Prepare what all processes share, before they start: none of it may be made twice at once."""
    kind = config.getoption("--services")
    try:
        if (user := postgres_home.system_user()) is not None:
            postgres_home.wheel_programs(user)
        if kind == "real":
            real.kafka_jars()
    except StackError as error:
        pytest.exit(f"--services={kind}: {error}", returncode=3)


def _xdist_worker(config: pytest.Config) -> tuple[int, int] | None:
    """Return the index of this process and the number of processes; None without pytest-xdist."""
    given: dict[str, Any] | None = getattr(config, "workerinput", None)
    if given is None:
        return None
    return int(given["workerid"].removeprefix("gw")), int(given["workercount"])


def _port_range(index: int, count: int) -> range:
    """Return the ports of one process.

    While a test keeps a server down, its port is free: another process must not take it.
    """
    size = len(server.PORTS) // count
    return server.PORTS[index * size : (index + 1) * size]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark each test with its folder, and choose the order of the folders.

    In one process the quick folders run first. In several processes the slow ones do: a long test
    that starts last would keep one process busy while the others have nothing left to do.
    """
    here = Path(__file__).parent

    def folder(item: pytest.Item) -> str:
        return item.path.relative_to(here).parts[0] if here in item.path.parents else ""

    for item in items:
        if folder(item) in _FOLDERS:
            item.add_marker(folder(item))
    order = _FOLDERS if _xdist_worker(config) is None else tuple(reversed(_FOLDERS))
    items.sort(key=lambda item: order.index(folder(item)) if folder(item) in order else len(order))


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run asynchronous tests on asyncio only."""
    return "asyncio"


@pytest.fixture(scope="session")
def services(pytestconfig: pytest.Config) -> Iterator[Services]:
    """Return the running servers of this process.

    A test that stops or pauses a server need not restore it: the fixtures below do so before the
    next test.
    """
    kind = pytestconfig.getoption("--services")
    try:
        with start_services(kind) as started:
            yield started
    except StackError as error:
        pytest.exit(f"--services={kind}: {error}", returncode=3)


@contextmanager
def start_services(kind: str, *, durable: bool = False) -> Iterator[Services]:
    """Start servers of one kind, and stop them and delete their data at the end.

    `durable`: whether PostgreSQL waits for the disk; has no effect on containers. Raises
    StackError.
    """
    # Not pytest's own temporary folder: when we are root, PostgreSQL runs as another user, who has
    # no access to it.
    folder = Path(tempfile.mkdtemp(prefix="interaction-summary-"))
    folder.chmod(0o755)
    chosen: Services | None = None
    try:
        chosen = _choose(kind, folder, durable)
        for service in chosen[1:]:
            service.start()
        yield chosen
    finally:
        for service in reversed(chosen[1:] if chosen else ()):
            service.stop()
            if hasattr(service, "remove"):
                service.remove()
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
    """Return the bootstrap servers of a running Kafka."""
    revive(services.kafka)
    return services.kafka.bootstrap


@pytest.fixture
def redis_url(services: Services) -> str:
    """Return the URL of a running, empty Redis."""
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
    """Return the URL of a database for this test only, with all tables, which are empty."""
    revive(services.postgres)
    name = f"test_{next(_database_numbers)}"
    _postgres(services, f"CREATE DATABASE {name} TEMPLATE {_template}")
    head, _, _ = services.postgres.url.rpartition("/")
    yield f"{head}/{name}"
    revive(services.postgres)
    _postgres(services, f"DROP DATABASE {name} WITH (FORCE)")


def _postgres(services: Services, statement: str) -> None:
    with psycopg.connect(services.postgres.url, autocommit=True) as connection:
        connection.execute(statement.encode())


class Topics(NamedTuple):
    """Names of two topics that exist, for one test only."""

    interactions: str
    dlq: str
    partitions: int = PARTITIONS


@pytest.fixture
def topics(kafka: str) -> Topics:
    """Return two new topics."""
    return make_topics(kafka)


def make_topics(kafka: str) -> Topics:
    """Create a topic of interactions and one of dead letters, under names that are unique."""
    unique = uuid.uuid4().hex[:12]
    names = Topics(f"interactions-{unique}", f"interactions-{unique}.dlq")
    base.create_topics(kafka, {names.interactions: PARTITIONS, names.dlq: 1})
    return names


@pytest.fixture
def settings(kafka: str, redis_url: str, database_url: str, topics: Topics) -> Settings:
    """Return settings with a database, topics, a consumer group and a key prefix of this test."""
    return make_settings(kafka, redis_url, database_url, topics)


def make_settings(kafka: str, redis_url: str, database_url: str, topics: Topics) -> Settings:
    """Return settings whose consumer group and key prefix are unique, as the topics are."""
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
