"""Topic id (KIP-516) and number of partitions of a topic.

A topic that is deleted and created again has the same name, offsets that start again, and another
id.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaConnectionError

from store.records import StoreUnavailable
from store.settings import Settings
from streams.kafka.admin import open_admin
from streams.kafka.connection import aiokafka_options, check_access
from streams.kafka.errors import kafka_errors


class TopicDescription(NamedTuple):
    """Identity and size of a topic."""

    topic_id: str
    partitions: int


async def describe_topic(settings: Settings, topic: str) -> TopicDescription:
    """Return the description of a topic.

    Raises StoreUnavailable, also if the topic does not exist.
    """
    with kafka_errors(AssertionError):
        return await asyncio.to_thread(_describe_topic, settings, topic)


async def check_brokers(settings: Settings, *, timeout_s: float) -> None:
    """Raise StoreUnavailable at once if no broker answers, while `describe_topic` keeps trying.

    Raises AccessRefused if that is because of TLS or authentication.
    """
    client = AIOKafkaClient(**aiokafka_options(settings))
    try:
        with kafka_errors(timeout_s=timeout_s):
            async with asyncio.timeout(timeout_s):
                try:
                    await client.bootstrap()
                except KafkaConnectionError:
                    await check_access(settings)
                    raise
    finally:
        await client.close()


def _describe_topic(settings: Settings, topic: str) -> TopicDescription:
    with open_admin(settings, "interaction-summary-topic-id") as admin:
        (found,) = admin.describe_topics([topic])
    if found["error_code"] != 0 or not found["partitions"]:
        raise StoreUnavailable(f"Kafka: topic {topic!r} does not exist (run `migrate` first)")
    return TopicDescription(str(found["topic_id"]), len(found["partitions"]))
