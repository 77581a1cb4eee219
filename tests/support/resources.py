"""Topics and settings for one test only."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import NamedTuple

from store.settings import Settings
from tests.support.services import base

PARTITIONS = 4


class Topics(NamedTuple):
    """Names of two topics that exist, for one test only."""

    interactions: str
    dlq: str
    partitions: int = PARTITIONS


def make_topics(kafka: str, configs: Mapping[str, str] | None = None) -> Topics:
    """Create a topic of interactions and one of dead letters, under names that are unique.

    `configs` are settings of both, by Kafka's names.
    """
    unique = uuid.uuid4().hex[:12]
    names = Topics(f"interactions-{unique}", f"interactions-{unique}.dlq")
    base.create_topics(kafka, {names.interactions: PARTITIONS, names.dlq: 1}, configs)
    return names


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
