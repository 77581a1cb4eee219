"""The broker and the topic that all systems read."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from kafka.admin import KafkaAdminClient

from bench.peers.log import Record
from store.settings import Settings
from streams.kafka.sender import Sender
from tests.support.services.base import create_topics
from tests.support.services.real import RealKafka

PARTITIONS = 4


class BenchKafka(RealKafka):
    """Apache Kafka with its own default for the start of a group: 3 s.

    Tests set it to 0, so that they start at once. Then the first of two workers would count alone
    until the second has joined.
    """

    def _properties(self) -> str:
        return super()._properties() + "group.initial.rebalance.delay.ms=3000\n"


def fill(settings: Settings, records: Iterable[Record]) -> None:
    """Create the topics of the project, and produce the log in its order."""
    names = (settings.interactions_topic, settings.dead_letter_topic)
    create_topics(settings.kafka_bootstrap_servers, dict.fromkeys(names, PARTITIONS))
    asyncio.run(_produce(settings, records))


async def _produce(settings: Settings, records: Iterable[Record]) -> None:
    async with Sender(settings, settings.interactions_topic) as sender:
        for record in records:
            await sender.send(record.key.encode(), record.value.encode())


def delete_others(settings: Settings) -> None:
    """Delete the topics that a system has made."""
    admin = KafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap_servers)
    try:
        kept = {settings.interactions_topic, settings.dead_letter_topic}
        made = [name for name in admin.list_topics() if name not in kept and name[0] != "_"]
        if made:
            admin.delete_topics(made)
    finally:
        admin.close()
