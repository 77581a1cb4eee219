"""Records of a topic, read back by tests."""

from __future__ import annotations

from typing import Any

from store.settings import Settings
from streams.kafka.topic_id import describe_topic
from streams.kafka.topic_reader import open_topic


async def read_records(settings: Settings, topic: str) -> dict[int, list[Any]]:
    """Return partition -> all committed records that it holds (aiokafka's ConsumerRecord)."""
    found = await describe_topic(settings, topic)
    async with open_topic(settings, topic) as reader:
        return {
            partition: [
                record async for record in reader.read(partition, 0, await reader.end(partition))
            ]
            for partition in range(found.partitions)
        }


async def read_ends(settings: Settings, topic: str) -> dict[int, int]:
    """Return partition -> the offset that its next record will have."""
    found = await describe_topic(settings, topic)
    async with open_topic(settings, topic) as reader:
        return {partition: await reader.end(partition) for partition in range(found.partitions)}
