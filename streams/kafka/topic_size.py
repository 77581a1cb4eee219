"""Number of records that a topic holds, and the arrival of the newest, without reading it all."""

from __future__ import annotations

import asyncio
from typing import Final, NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition

from store.settings import Settings
from streams.kafka.connection import start_client
from streams.kafka.errors import kafka_errors
from streams.kafka.record_time import known_ms
from streams.kafka.topic_id import describe_topic
from streams.kafka.topic_reader import ANSWER_TIMEOUT_S, make_consumer

#: The newest record is looked for in so many last offsets of each partition. More than one, since
#: transaction markers take offsets too.
LAST_OFFSETS: Final = 10
#: Fetches until the records at the ends must have arrived; the last offsets may hold none.
FETCHES_MAX: Final = 20


class TopicSize(NamedTuple):
    """How much a topic holds."""

    offsets: int
    """Records that it holds, transaction markers included."""
    newest_ms: int | None
    """Arrival of its newest record; None = there is none, it was not received in time, or its
    timestamp is no time in ms."""


async def topic_size(settings: Settings, topic: str, *, now_ms: int) -> TopicSize:
    """Return the size of a topic. Raises StoreUnavailable, also if it does not exist.

    Timestamps are judged by `now_ms`.
    """
    found = await describe_topic(settings, topic)
    tps = [TopicPartition(topic, p) for p in range(found.partitions)]
    consumer = make_consumer(
        settings,
        "interaction-summary-size",
        max_partition_fetch_bytes=1,  # at most one record batch: any answer contains the end
    )
    try:
        with kafka_errors(timeout_s=ANSWER_TIMEOUT_S):
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await start_client(consumer, settings)
                consumer.assign(tps)
                starts = {tp: int(n) for tp, n in (await consumer.beginning_offsets(tps)).items()}
                ends = await _ends(consumer, starts)
                newest_ms = await _newest_ms(consumer, starts, ends, now_ms)
    finally:
        await consumer.stop()
    return TopicSize(sum(max(0, ends[tp] - starts[tp]) for tp in tps), newest_ms)


async def _ends(
    consumer: AIOKafkaConsumer, starts: dict[TopicPartition, int]
) -> dict[TopicPartition, int]:
    """Return the end of each partition, from fetch answers: see `topic_reader`."""
    for tp, start in starts.items():
        consumer.seek(tp, start)
    while any(consumer.highwater(tp) is None for tp in starts):
        await consumer.getmany(timeout_ms=100)
    return {tp: int(consumer.highwater(tp)) for tp in starts}


async def _newest_ms(
    consumer: AIOKafkaConsumer,
    starts: dict[TopicPartition, int],
    ends: dict[TopicPartition, int],
    now_ms: int,
) -> int | None:
    unread = [tp for tp in starts if ends[tp] > starts[tp]]
    for tp in unread:
        consumer.seek(tp, max(starts[tp], ends[tp] - LAST_OFFSETS))
    newest_ms = None
    for _ in range(FETCHES_MAX):
        unread = [tp for tp in unread if await consumer.position(tp) < ends[tp]]
        if not unread:
            break
        for records in (await consumer.getmany(*unread, timeout_ms=100)).values():
            known = [known_ms(record.timestamp, now_ms) for record in records]
            newest_ms = max([newest_ms or 0, *(ms for ms in known if ms is not None)])
    return newest_ms or None
