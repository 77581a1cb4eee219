"""Settings of the two topics on which promises depend, and what a weak one costs."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import KafkaError

from store.logs import get_logger
from store.records import StoreUnavailable
from store.settings import Settings
from streams.kafka.admin import open_admin
from streams.kafka.errors import kafka_errors

logger = get_logger("topics")

_NAMES: Final = (
    "cleanup.policy",
    "max.message.bytes",
    "message.timestamp.type",
    "min.insync.replicas",
)


class TopicSettings(NamedTuple):
    """Partitions, replicas and settings of one topic."""

    partitions: int
    replicas: int
    """Of the partition that has the fewest."""
    configs: Mapping[str, str]
    """Settings by name, of those in _NAMES. One that the broker does not report is missing."""


def weaknesses(events: TopicSettings, dead_letters: TopicSettings, settings: Settings) -> list[str]:
    """Return one sentence about each weak setting: what it is and what it costs. Pure.

    The number of partitions of the dead-letter topic does not matter.
    """
    found = []
    for name, topic in (
        (settings.interactions_topic, events),
        (settings.dead_letter_topic, dead_letters),
    ):
        if "compact" in topic.configs.get("cleanup.policy", ""):
            found.append(
                f"topic {name}: cleanup.policy={topic.configs['cleanup.policy']}: compaction "
                "deletes events with the same key before they are read or replayed; set delete"
            )
        if topic.replicas == 1:
            found.append(
                f"topic {name}: one replica: events are lost with the disk of one broker, and "
                "none is taken while that broker is away"
            )
        elif int(topic.configs.get("min.insync.replicas", 2)) == 1:
            found.append(
                f"topic {name}: min.insync.replicas=1: an acknowledged event may be on one broker "
                "only, and is lost with it; set 2"
            )
    if events.configs.get("message.timestamp.type") == "CreateTime":
        found.append(
            f"topic {settings.interactions_topic}: message.timestamp.type=CreateTime: copies are "
            "searched by the time that producers set, so one with a wrong clock may have copies "
            "counted twice; set LogAppendTime"
        )
    if events.partitions < settings.topic_partitions:
        found.append(
            f"topic {settings.interactions_topic}: {events.partitions} partitions, fewer than "
            f"TOPIC_PARTITIONS ({settings.topic_partitions}): so many workers count at most, and "
            "others wait; add partitions, or lower TOPIC_PARTITIONS"
        )
    size = int(events.configs.get("max.message.bytes", 2**31))
    if size <= settings.event_bytes_max:
        found.append(
            f"topic {settings.interactions_topic}: max.message.bytes={size}: Kafka refuses larger "
            f"events, though EVENT_BYTES_MAX ({settings.event_bytes_max}) allows them: they are "
            "neither counted nor dead letters; raise it"
        )
    size = int(dead_letters.configs.get("max.message.bytes", 2**31))
    if size <= settings.event_bytes_max:
        found.append(
            f"topic {settings.dead_letter_topic}: max.message.bytes={size}: an event of up to "
            f"EVENT_BYTES_MAX ({settings.event_bytes_max}) that is rejected is kept only in part"
        )
    return found


async def read_weaknesses(settings: Settings) -> list[str]:
    """Return the weaknesses of the two topics; none where the broker tells no settings.

    Raises StoreUnavailable.
    """
    with kafka_errors(AssertionError):
        return await asyncio.to_thread(_read_weaknesses, settings)


async def log_weaknesses(settings: Settings) -> None:
    """Log the weaknesses of the topics, once."""
    try:
        found = await read_weaknesses(settings)
    except (StoreUnavailable, LookupError, TypeError, ValueError) as error:  # nothing depends on it
        logger.info("settings of the topics not read", error=str(error))
        return
    for sentence in found:
        logger.warning("weak setting of a topic", setting=sentence)


def _read_weaknesses(settings: Settings) -> list[str]:
    names = (settings.interactions_topic, settings.dead_letter_topic)
    with open_admin(settings, "interaction-summary-topics") as admin:
        described = {each["name"]: each for each in admin.describe_topics(list(names))}
        try:
            answer = admin.describe_configs(
                [
                    ConfigResource(ConfigResourceType.TOPIC, name, dict.fromkeys(_NAMES, ""))
                    for name in names
                ],
                config_filter="all",
            )
        except (KafkaError, AssertionError, LookupError):
            return []  # some compatible brokers have no such request
    configs = answer.get("topic", {})
    events, dead_letters = (_settings_of(described[n], configs.get(n, {})) for n in names)
    return weaknesses(events, dead_letters, settings)


def _settings_of(described: Mapping[str, Any], configs: Mapping[str, Any]) -> TopicSettings:
    partitions = described["partitions"]
    values = {name: each["value"] for name, each in configs.items() if name in _NAMES}
    return TopicSettings(
        len(partitions),
        min((len(each["replica_nodes"]) for each in partitions), default=0),
        {name: value for name, value in values.items() if value is not None},
    )
