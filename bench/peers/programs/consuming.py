"""The event and the consumer of the peers that read Kafka by confluent-kafka."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any

import msgspec
from confluent_kafka import Consumer, Message, TopicPartition

from bench.peers.programs.reports import Arguments, report


class Event(msgspec.Struct, gc=False):
    """The fields of an event that are counted."""

    customerId: str
    offerId: str
    outcomeTypeKey: str
    timestamp: str
    interactionId: str
    creativeId: str
    channelId: str
    tenantId: str = "default"


decode = msgspec.json.Decoder(Event).decode


class Days(dict[str, int]):
    """Date as text -> days since 1970-01-01, computed once for each date."""

    def __missing__(self, date: str) -> int:
        day = self[date] = (dt.date.fromisoformat(date) - dt.date(1970, 1, 1)).days
        return day


def consumer(options: Arguments) -> Consumer:
    """Return a consumer of all partitions, at their start."""
    settings: dict[str, Any] = {
        "bootstrap.servers": options.bootstrap,
        "group.id": "peer",
        "enable.auto.commit": False,
        "auto.offset.reset": "earliest",
        "fetch.wait.max.ms": 20,
        "isolation.level": "read_committed",
        "queued.max.messages.kbytes": 65_536,
    }
    client = Consumer(settings)
    partitions = client.list_topics(options.topic, 30).topics[options.topic].partitions
    client.assign([TopicPartition(options.topic, partition, 0) for partition in partitions])
    return client


def batches(client: Consumer, events: int, size: int) -> Iterator[list[Message]]:
    """Yield lists of up to `size` records until `events` have come. It reports the first one."""
    received = 0
    while received < events:
        records = client.consume(size, 0.05)
        if not records:
            continue
        if not received:
            report("FIRST")
        received += len(records)
        yield records
