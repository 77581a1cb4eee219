"""Fixtures for servers and for what a test needs on them.

Each pytest process has servers of its own: with `-n 4` there are four of each kind, on ports of
separate ranges, in separate folders. Databases, topics, groups and key prefixes are therefore
separate for each process, and within a process for each test. The servers start at the first test
that asks for one, so a process that runs only unit tests starts none. They end with the process,
even if it is killed.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
import structlog
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from psycopg.conninfo import make_conninfo

from cli.embedded import postgres_home, server
from cli.embedded.server import StackError
from store.postgres.migrate import migrate
from store.settings import Settings
from tests.support.resources import Topics, make_settings, make_topics
from tests.support.services import real
from tests.support.services.base import Services, revive
from tests.support.services.start import start_services

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
    # In the background of a shell SIGINT is ignored, and children inherit that. Ours must not.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
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
    # Both limits are wall-clock time, which says nothing while other processes use the same cores.
    hypothesis_settings.register_profile(
        "shared_cores", deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    hypothesis_settings.load_profile("shared_cores")
    for folder in _FOLDERS:
        config.addinivalue_line("markers", f"{folder}: in tests/{folder}, set by the folder")
    if (worker := _process_of(config)) is not None:
        server.PORTS = port_range(*worker)


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


def _process_of(config: pytest.Config) -> tuple[int, int] | None:
    """Return the index of this process and the number of processes; None if it is the only one."""
    given: dict[str, Any] | None = getattr(config, "workerinput", None)
    if given is None:
        return None
    return int(given["workerid"].removeprefix("gw")), int(given["workercount"])


def port_range(index: int, count: int) -> range:
    """Return the ports of one process.

    While a test keeps a server down, its port is free: another process must not take it.
    """
    size = len(server.PORTS) // count
    return server.PORTS[index * size : (index + 1) * size]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark each test with its folder, and choose the order.

    In one process the quick folders run first. In several processes the long tests do, then the
    slow folders: a long test that starts last would keep one process busy while the others have
    nothing left to do.
    """
    here = Path(__file__).parent
    is_one_of_several = _process_of(config) is not None
    order = tuple(reversed(_FOLDERS)) if is_one_of_several else _FOLDERS

    def folder(item: pytest.Item) -> str:
        return item.path.relative_to(here).parts[0] if here in item.path.parents else ""

    def place(item: pytest.Item) -> tuple[bool, int]:
        is_later = is_one_of_several and item.get_closest_marker("long") is None
        name = folder(item)
        return is_later, order.index(name) if name in order else len(order)

    for item in items:
        if folder(item) in _FOLDERS:
            item.add_marker(folder(item))
    items.sort(key=place)


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


@pytest.fixture
def topics(kafka: str) -> Topics:
    """Return two new topics."""
    return make_topics(kafka)


@pytest.fixture
def settings(kafka: str, redis_url: str, database_url: str, topics: Topics) -> Settings:
    """Return settings with a database, topics, a consumer group and a key prefix of this test."""
    return make_settings(kafka, redis_url, database_url, topics)
