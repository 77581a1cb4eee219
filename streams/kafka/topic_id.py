"""Which log a topic is: its topic id (KIP-516). A topic that is deleted and made again has the
same name and offsets that start again, and another id."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError

from store.records import StoreUnavailable
from store.settings import Settings


class TopicDescription(NamedTuple):
    topic_id: str
    partitions: int


async def describe_topic(settings: Settings, topic: str) -> TopicDescription:
    """The log that `topic` is now. Raises StoreUnavailable, also when the topic is not there."""
    try:
        return await asyncio.to_thread(_describe_topic, settings, topic)
    except (KafkaError, OSError, AssertionError) as error:
        raise StoreUnavailable(f"Kafka: {type(error).__name__}: {error}") from error


def _describe_topic(settings: Settings, topic: str) -> TopicDescription:
    admin = KafkaAdminClient(
        bootstrap_servers=settings.brokers,
        request_timeout_ms=10_000,
        bootstrap_timeout_ms=10_000,
        client_id="log-id",
    )
    try:
        (found,) = admin.describe_topics([topic])
    finally:
        admin.close()
    if found["error_code"] != 0 or not found["partitions"]:
        raise StoreUnavailable(f"Kafka: topic {topic!r} is not there (run `migrate` first)")
    return TopicDescription(str(found["topic_id"]), len(found["partitions"]))
