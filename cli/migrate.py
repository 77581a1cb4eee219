"""`migrate`: topics and tables."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from cli.console import describe_error, load_settings, print_result, run_async

if TYPE_CHECKING:
    from store.settings import Settings

#: An event over EVENT_BYTES_MAX must still get to us, to be dead-lettered, and a dead letter has
#: headers beside the whole event. Kafka's own default, 1 MiB, would refuse both.
EVENT_TOPIC_BYTES_MAX: Final = 8 * 1_048_576
DEAD_LETTER_HEADERS_BYTES: Final = 1_048_576
#: Dead letters wait for people.
DEAD_LETTER_RETENTION_MS: Final = 90 * 86_400_000


def migrate() -> None:
    """Creates or upgrades topics and tables. Does nothing where all is there already."""
    for line in run_async(migrate_all(load_settings())):
        print_result(line)


async def migrate_all(settings: Settings) -> list[str]:
    """Topics and tables; returns a line on each. Raises StoreUnavailable, and RuntimeError for a
    database that this program must not touch."""
    from store.postgres.migrate import migrate as migrate_tables

    lines = await asyncio.to_thread(migrate_topics, settings)
    applied = await migrate_tables(settings.database_url)
    lines += [f"tables: {name} applied" for name in applied]
    return lines if applied else [*lines, "tables: up to date"]


def migrate_topics(settings: Settings) -> list[str]:
    """Creates the topics that are missing; what is there is left as it is. Returns a line on each.
    Raises StoreUnavailable."""
    from kafka.admin import KafkaAdminClient
    from kafka.errors import KafkaError

    from store.records import StoreUnavailable

    try:
        admin = KafkaAdminClient(
            bootstrap_servers=settings.brokers,
            client_id="interaction-summary-migrate",
            request_timeout_ms=10_000,
            bootstrap_timeout_ms=10_000,
        )
        try:
            return [_topic(admin, settings, name) for name in _options(settings)]
        finally:
            admin.close()
    except (KafkaError, OSError) as error:
        raise StoreUnavailable(f"Kafka: {describe_error(error)}") from error


def _topic(admin: Any, settings: Settings, name: str) -> str:
    from kafka.errors import TopicAlreadyExistsError

    (found,) = admin.describe_topics([name])
    if not found["error_code"]:
        return f"topic {name}: there, {len(found['partitions'])} partitions"
    options = _options(settings)[name]
    try:
        admin.create_topics({name: options}, timeout_ms=10_000, wait_for_metadata=True)
    except TopicAlreadyExistsError:
        return f"topic {name}: there"  # another migration was quicker
    return f"topic {name}: created, {options['num_partitions']} partitions"


def _options(settings: Settings) -> dict[str, dict[str, Any]]:
    size = {
        "num_partitions": settings.topic_partitions,
        "replication_factor": settings.topic_replication,
    }
    event_bytes_max = max(EVENT_TOPIC_BYTES_MAX, 2 * settings.event_bytes_max)
    return {
        settings.interactions_topic: {
            **size,
            "configs": {
                "max.message.bytes": str(event_bytes_max),
                # Duplicates are looked for around a record's arrival: the broker's clock says when
                # that was, and no producer's.
                "message.timestamp.type": "LogAppendTime",
            },
        },
        settings.dead_letter_topic: {
            **size,
            "configs": {
                "max.message.bytes": str(event_bytes_max + DEAD_LETTER_HEADERS_BYTES),
                "retention.ms": str(DEAD_LETTER_RETENTION_MS),
            },
        },
    }
