"""Settings of topics: each weak one is named with what it costs."""

from __future__ import annotations

import pytest

from store.settings import Settings
from streams.kafka.topic_settings import TopicSettings, weaknesses

SETTINGS = Settings()
GOOD = {
    "cleanup.policy": "delete",
    "max.message.bytes": "9437184",
    "message.timestamp.type": "LogAppendTime",
    "min.insync.replicas": "2",
}


def judged(
    events: dict[str, str] | None = None,
    dead_letters: dict[str, str] | None = None,
    replicas: int = 3,
) -> list[str]:
    return weaknesses(
        TopicSettings(4, replicas, GOOD | (events or {})),
        TopicSettings(4, replicas, GOOD | (dead_letters or {})),
        SETTINGS,
    )


def test_good_and_unknown_settings_are_not_named() -> None:
    assert judged() == []
    assert weaknesses(TopicSettings(4, 3, {}), TopicSettings(1, 3, {}), SETTINGS) == []


@pytest.mark.parametrize(
    ("events", "dead_letters", "named"),
    [
        ({"cleanup.policy": "compact"}, {}, "topic interactions: cleanup.policy=compact: "),
        ({}, {"cleanup.policy": "compact,delete"}, "topic interactions.dlq: cleanup.policy="),
        ({"min.insync.replicas": "1"}, {}, "topic interactions: min.insync.replicas=1: "),
        ({"message.timestamp.type": "CreateTime"}, {}, "message.timestamp.type=CreateTime: "),
        ({"max.message.bytes": "1048588"}, {"max.message.bytes": "1048588"}, ""),
        ({"max.message.bytes": "1048576"}, {}, "topic interactions: max.message.bytes=1048576: "),
        ({}, {"max.message.bytes": "1048576"}, "interactions.dlq: max.message.bytes=1048576: "),
    ],
)
def test_a_weak_setting_is_named(
    events: dict[str, str], dead_letters: dict[str, str], named: str
) -> None:
    found = judged(events, dead_letters)
    assert len(found) == bool(named)
    assert all(named in sentence for sentence in found)


def test_fewer_partitions_than_configured_are_named_for_the_events_only() -> None:
    few, enough = TopicSettings(3, 3, {}), TopicSettings(5, 3, {})
    assert weaknesses(enough, few, SETTINGS) == []
    (sentence,) = weaknesses(few, enough, SETTINGS)
    assert sentence.startswith("topic interactions: 3 partitions, fewer than TOPIC_PARTITIONS (4)")


def test_one_replica_is_named_for_each_topic() -> None:
    assert [sentence.split(":")[0] for sentence in judged(replicas=1)] == [
        "topic interactions",
        "topic interactions.dlq",
    ]
