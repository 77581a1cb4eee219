"""The systems that are measured."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple


class Kind(Enum):
    """How a system is run."""

    OURS = "ours"
    JAVA = "java"
    PYTHON = "python"
    STOCK = "stock"


class System(NamedTuple):
    """A system, and how it is run."""

    title: str
    kind: Kind
    program: str = ""
    """Class in Java, or module of `programs`."""
    mode: str = ""
    environment: str = ""
    """Environment of Python (`requirements/`), or folder in `java`."""
    workers: int = 1
    postgres: bool = False
    """Whether it gets a PostgreSQL. Ours has one, and Redis, always."""
    settings: Mapping[str, str] = {}
    """Our settings that differ from the defaults."""
    extra: bool = False
    """Measured only if `--only` names it."""


def _ours(title: str, workers: int = 1, *, extra: bool = True, **settings: str) -> System:
    return System(title, Kind.OURS, workers=workers, extra=extra, settings=settings)


def _kafka_streams(title: str, mode: str, *, extra: bool = False) -> System:
    return System(
        title, Kind.JAVA, "KafkaStreamsPeer", mode, environment="kafka_streams", extra=extra
    )


def _flink(title: str, mode: str) -> System:
    return System(title, Kind.JAVA, "FlinkPeer", mode, environment="flink")


def _chdb(title: str, mode: str, *, extra: bool = False) -> System:
    return System(title, Kind.PYTHON, "chdb_tables", mode, environment="clients", extra=extra)


SYSTEMS: Mapping[str, System] = {
    "ours-1": _ours("Interaction Summary, 1 worker", extra=False),
    "ours-2": _ours("Interaction Summary, 2 workers", 2, extra=False),
    "kafka-streams-eos": _kafka_streams("Kafka Streams, exactly once", "dsl-eos"),
    "kafka-streams-local-eos": _kafka_streams(
        "Kafka Streams, exactly once, no repartition", "local-eos"
    ),
    "pg-upsert": System(
        "PostgreSQL, upsert per batch",
        Kind.PYTHON,
        "postgres_upsert",
        environment="clients",
        postgres=True,
    ),
    "flink-rocksdb": _flink("Flink, RocksDB", "rocksdb"),
    "flink-heap": _flink("Flink, heap", "heap"),
    "chdb-dedup": _chdb("chdb (ClickHouse), identities in a table", "dedup"),
    "stock-faust": System("Faust, stock agent and Redis", Kind.STOCK),
    "bytewax": System("Bytewax", Kind.PYTHON, "bytewax_flow", environment="bytewax"),
    "pathway": System("Pathway", Kind.PYTHON, "pathway_flow", environment="pathway"),
    "ours-1-commit-1000": _ours(
        "Interaction Summary, commits of 1,000 events", COMMIT_BATCH_EVENTS="1000"
    ),
    "ours-1-no-dedup": _ours("Interaction Summary, copies count", DEDUP_HORIZON_H="0"),
    "kafka-streams-at-least-once": _kafka_streams(
        "Kafka Streams, at least once", "dsl", extra=True
    ),
    "kafka-streams-local-at-least-once": _kafka_streams(
        "Kafka Streams, at least once, no repartition", "local", extra=True
    ),
    "chdb-plain": _chdb("chdb (ClickHouse), copies count", "plain", extra=True),
    "chdb-raw": _chdb("chdb (ClickHouse), counted by each query", "raw", extra=True),
}
DEFAULT = tuple(name for name, system in SYSTEMS.items() if not system.extra)


def choose(only: str | None) -> list[str]:
    """Return the names of the systems to measure. Raises ValueError for an unknown one."""
    names = only.split(",") if only else list(DEFAULT)
    if unknown := [name for name in names if name not in SYSTEMS]:
        raise ValueError(f"no such system: {', '.join(unknown)}; --list names them")
    return names
