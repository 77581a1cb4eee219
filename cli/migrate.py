"""The command `migrate`: creates topics and tables."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from cli.console import load_settings, print_result, run_async

if TYPE_CHECKING:
    from store.settings import Settings

#: The topic must accept events over EVENT_BYTES_MAX, so that they become dead letters, and a dead
#: letter is the whole event plus headers. Kafka's default limit of 1 MiB would refuse both.
EVENT_TOPIC_BYTES_MAX: Final = 8 * 1_048_576
DEAD_LETTER_HEADERS_BYTES: Final = 1_048_576
#: 90 days: dead letters are kept until somebody has looked at them.
DEAD_LETTER_RETENTION_MS: Final = 90 * 86_400_000


def migrate() -> None:
    """Create missing topics and create or upgrade tables. Existing topics are not changed."""
    for line in run_async(migrate_all(load_settings())):
        print_result(line)


async def migrate_all(settings: Settings) -> list[str]:
    """Create or upgrade topics and tables; return one line about each, and each weak setting.

    Raises StoreUnavailable, and RuntimeError for a database that this program must not change.
    """
    from store.postgres.migrate import migrate as migrate_tables
    from streams.kafka.connection import raise_if_refused
    from streams.kafka.topic_settings import read_weaknesses

    # At once: the client below tries for 10 s, whatever the reason.
    await raise_if_refused(settings)
    lines = await asyncio.to_thread(migrate_topics, settings)
    lines += [f"weak setting: {sentence}" for sentence in await read_weaknesses(settings)]
    applied = await migrate_tables(settings.database_url)
    lines += [f"tables: {name} applied" for name in applied]
    return lines if applied else [*lines, "tables: up to date"]


def migrate_topics(settings: Settings) -> list[str]:
    """Create missing topics and leave existing ones unchanged; return one line about each.

    Raises StoreUnavailable.
    """
    from streams.kafka.admin import open_admin
    from streams.kafka.errors import kafka_errors

    with kafka_errors(), open_admin(settings, "interaction-summary-migrate") as admin:
        return [_topic(admin, settings, name) for name in _options(settings)]


def _topic(admin: Any, settings: Settings, name: str) -> str:
    from kafka.errors import TopicAlreadyExistsError

    (found,) = admin.describe_topics([name])
    if not found["error_code"]:
        return f"topic {name}: exists, {len(found['partitions'])} partitions"
    options = _options(settings)[name]
    try:
        admin.create_topics({name: options}, timeout_ms=10_000, wait_for_metadata=True)
    except TopicAlreadyExistsError:
        return f"topic {name}: exists"  # created by a concurrent migration
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
                # Duplicates are searched by arrival time, so the record's timestamp must come from
                # the broker's clock, not from a producer's.
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
