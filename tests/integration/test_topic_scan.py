"""The reader of all partitions, on a real broker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager

import pytest
from aiokafka import AIOKafkaProducer
from kafka import TopicPartition
from kafka.admin import KafkaAdminClient

from store.records import StoreUnavailable
from store.settings import Settings
from streams.kafka import topic_scan
from streams.kafka.topic_scan import OffsetsGone, ScanBatch, TopicChanged, TopicScan, open_scan
from tests.support.resources import PARTITIONS
from tests.support.services.base import Services, create_topics
from tests.support.services.wheels import WheelBroker
from tests.support.waiting import eventually_async

#: More than one fetch of a partition, see `small_fetches`.
RECORDS = 3_000


def run(settings: Settings, check: Callable[[TopicScan], Awaitable[None]]) -> None:
    async def go() -> None:
        async with open_scan(settings, client_id="test") as scan:
            await check(scan)

    asyncio.run(go())


@pytest.fixture
def small_fetches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topic_scan, "PARTITION_FETCH_BYTES", 20_000)


async def produce(
    settings: Settings, partition: int, count: int, *, first: int = 0, at_ms: int | None = None
) -> None:
    """Send `count` records to one partition; their values are numbers from `first` on."""
    producer = AIOKafkaProducer(bootstrap_servers=settings.brokers, acks="all")
    await producer.start()
    try:
        for number in range(first, first + count):
            await producer.send(
                settings.interactions_topic,
                b"%d" % number,
                partition=partition,
                timestamp_ms=at_ms,
                headers=[("filler", b"x" * 50)],
            )
    finally:
        await producer.stop()


async def read(scan: TopicScan, until: Mapping[int, int]) -> dict[int, list[int]]:
    """Return partition -> offsets of its records; check that the batches are without a gap."""
    found: dict[int, list[int]] = {}
    async for batch in scan.batches(until):
        add(found, batch)
    return found


def add(found: dict[int, list[int]], batch: ScanBatch) -> None:
    offsets = [record.offset for record in batch.records]
    assert not offsets or offsets[-1] < batch.next_offset
    found.setdefault(batch.partition, []).extend(offsets)


def offsets(**counts: int) -> dict[int, list[int]]:
    return {int(name[1:]): list(range(count)) for name, count in counts.items()}


def test_reads_all_partitions_to_their_ends(settings: Settings, small_fetches: None) -> None:
    async def check(scan: TopicScan) -> None:
        await produce(settings, 0, RECORDS)
        await produce(settings, 1, 10)
        await produce(settings, 3, RECORDS)
        ends = await scan.ends()
        assert ends == {0: RECORDS, 1: 10, 2: 0, 3: RECORDS}
        assert await scan.earliest() == dict.fromkeys(range(PARTITIONS), 0)
        assert scan.partitions == PARTITIONS
        assert await read(scan, ends) == offsets(p0=RECORDS, p1=10, p3=RECORDS)
        assert await scan.ends() == ends

    run(settings, check)


def test_reads_partitions_in_turns(
    settings: Settings, services: Services, small_fetches: None
) -> None:
    """None is read to its end before each other has begun. A fetch need not answer for all."""
    if isinstance(services.kafka, WheelBroker):
        pytest.skip("the embedded broker answers for any of them; the real one is tested in CI")

    async def check(scan: TopicScan) -> None:
        for partition in range(PARTITIONS):
            await produce(settings, partition, RECORDS)
        order = [batch.partition async for batch in scan.batches(await scan.ends())]
        assert set(order) == set(range(PARTITIONS))
        begun = max(order.index(partition) for partition in range(PARTITIONS))
        ended = min(_last(order, partition) for partition in range(PARTITIONS))
        assert begun < ended, order

    run(settings, check)


def _last(order: list[int], partition: int) -> int:
    return len(order) - 1 - order[::-1].index(partition)


def test_reads_given_ranges_only(settings: Settings, small_fetches: None) -> None:
    async def check(scan: TopicScan) -> None:
        for partition in range(PARTITIONS):
            await produce(settings, partition, RECORDS)
        scan.seek({0: 100, 1: RECORDS, 2: 2_000})
        first = await read(scan, {0: 1_501, 1: RECORDS, 2: 2_001})
        assert first == {0: list(range(100, 1_501)), 2: [2_000]}
        # The rest is not lost, nor is a partition that was not read.
        rest = await read(scan, await scan.ends())
        assert rest == {
            0: list(range(1_501, RECORDS)),
            2: list(range(2_001, RECORDS)),
            3: list(range(RECORDS)),
        }

    run(settings, check)


def test_continues_after_the_last_batch_that_was_taken(
    settings: Settings, small_fetches: None
) -> None:
    async def check(scan: TopicScan) -> None:
        for partition in range(PARTITIONS):
            await produce(settings, partition, RECORDS)
        ends = await scan.ends()
        found: dict[int, list[int]] = {}
        for _ in range(3):
            async for batch in scan.batches(ends):
                add(found, batch)
                break
        for batch in await scan.poll(1_000):
            add(found, batch)
        async for batch in scan.batches(ends):
            add(found, batch)
        assert found == {partition: list(range(RECORDS)) for partition in range(PARTITIONS)}

    run(settings, check)


def test_poll_follows_the_head(settings: Settings) -> None:
    async def check(scan: TopicScan) -> None:
        await produce(settings, 0, 10)
        await read(scan, await scan.ends())
        assert await scan.poll(50) == []
        found: dict[int, list[int]] = {}

        async def all_seen() -> bool:
            for batch in await scan.poll(50):
                add(found, batch)
            return found == {0: [10, 11], 2: [0, 1, 2]}

        await produce(settings, 0, 2, first=10)
        await produce(settings, 2, 3)
        await eventually_async(all_seen, message="the new records")
        assert await scan.poll(50) == []
        assert (await scan.ends())[0] == 12

    run(settings, check)


def test_offsets_at_a_time(settings: Settings, services: Services) -> None:
    async def check(scan: TopicScan) -> None:
        now_ms = int(time.time() * 1000)
        for hours in (3, 2, 1):
            await produce(settings, 0, 5, at_ms=now_ms - hours * 3_600_000)
        await produce(settings, 1, 5, at_ms=now_ms - 3 * 3_600_000)
        found = await scan.offsets_at(now_ms - 2 * 3_600_000)
        if isinstance(services.kafka, WheelBroker):  # it cannot search by time
            assert found == {0: 0, 1: 0, 2: 0, 3: 0}
        else:
            assert found == {0: 5, 1: 5, 2: 0, 3: 0}

    run(settings, check)


def test_a_recreated_topic_is_noticed(settings: Settings) -> None:
    async def check(scan: TopicScan) -> None:
        await produce(settings, 0, 100)
        await read(scan, await scan.ends())
        await scan.check_topic_id()
        await asyncio.to_thread(recreate, settings)
        with pytest.raises(TopicChanged, match="was recreated"):
            await scan.check_topic_id()

    run(settings, check)


def test_a_start_after_the_end_is_noticed(settings: Settings) -> None:
    """The topic has lost its end, so what comes next would not be what is wanted."""

    async def check(scan: TopicScan) -> None:
        await produce(settings, 0, 100)
        scan.seek({0: 1_000})
        with pytest.raises(TopicChanged, match="partition 0 ends before offset 1000"):
            async with asyncio.timeout(20):
                while True:
                    await scan.poll(50)

    run(settings, check)


def test_an_end_that_is_never_reached_is_reported(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topic_scan, "ANSWER_TIMEOUT_S", 1.0)

    async def check(scan: TopicScan) -> None:
        await produce(settings, 0, 10)
        with pytest.raises(StoreUnavailable, match="partition 0 is read to offset 10"):
            await read(scan, {0: 11})

    run(settings, check)


def test_offsets_that_retention_took_are_reported(
    settings: Settings, services: Services, small_fetches: None
) -> None:
    if isinstance(services.kafka, WheelBroker):
        pytest.skip("the embedded broker deletes no records; the real one is tested in CI")

    async def check(scan: TopicScan) -> None:
        await produce(settings, 0, RECORDS)
        ends = await scan.ends()
        await asyncio.to_thread(delete_before, settings, 0, 2_000)
        scan.seek({0: 100})  # drops what the client has fetched in the background
        with pytest.raises(OffsetsGone) as raised:
            await read(scan, ends)
        assert (raised.value.partition, raised.value.wanted) == (0, 100)
        assert raised.value.earliest == 2_000
        scan.seek({0: raised.value.earliest})
        assert await read(scan, ends) == {0: list(range(2_000, RECORDS))}
        assert (await scan.earliest())[0] == 2_000
        # Everything is gone: only the position moves.
        await asyncio.to_thread(delete_before, settings, 0, RECORDS)
        scan.seek({0: 2_500})
        with pytest.raises(OffsetsGone):
            await read(scan, ends)

    run(settings, check)


def test_a_topic_that_does_not_exist(settings: Settings) -> None:
    missing = settings.model_copy(update={"interactions_topic": "missing"})

    async def check(scan: TopicScan) -> None:
        raise AssertionError

    with pytest.raises(StoreUnavailable, match="'missing' does not exist"):
        run(missing, check)


def test_transactions(settings: Settings, services: Services) -> None:
    """Aborted records are left out, markers move the position, open transactions hold the end."""
    if isinstance(services.kafka, WheelBroker):
        pytest.skip("the embedded broker has no transactions; the real one is tested in CI")

    async def check(scan: TopicScan) -> None:
        async with transactional(settings) as producer:
            for count, commit in ((5, True), (3, False)):
                await producer.begin_transaction()
                for _ in range(count):
                    await producer.send_and_wait(settings.interactions_topic, b"1", partition=0)
                await (producer.commit_transaction() if commit else producer.abort_transaction())

            async def ended() -> bool:  # the marker is written after the answer
                return (await scan.ends())[0] == 10

            await eventually_async(ended, message="the marker")
            assert await read(scan, {0: 10}) == {0: [0, 1, 2, 3, 4]}
            await producer.begin_transaction()
            await producer.send_and_wait(settings.interactions_topic, b"1", partition=0)
            assert (await scan.ends())[0] == 10
            await producer.abort_transaction()

            async def marker_read() -> bool:
                return await scan.poll(50) == [ScanBatch(0, (), 12)]

            await eventually_async(marker_read, message="a batch of markers only")

    run(settings, check)


def transactional(settings: Settings) -> AIOKafkaProducer:
    return AIOKafkaProducer(
        bootstrap_servers=settings.brokers,
        transactional_id=f"shop-{settings.interactions_topic}",
        acks="all",
    )


@contextmanager
def admin_of(settings: Settings) -> Iterator[KafkaAdminClient]:
    admin = KafkaAdminClient(bootstrap_servers=settings.brokers)
    try:
        yield admin
    finally:
        admin.close()


def delete_before(settings: Settings, partition: int, offset: int) -> None:
    with admin_of(settings) as admin:
        admin.delete_records({TopicPartition(settings.interactions_topic, partition): offset})


def recreate(settings: Settings) -> None:
    with admin_of(settings) as admin:
        admin.delete_topics([settings.interactions_topic])
    create_topics(",".join(settings.brokers), {settings.interactions_topic: PARTITIONS})
