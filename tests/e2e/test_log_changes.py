"""The log changes while the worker runs: it detects that, reports it, and counts new events."""

from __future__ import annotations

import asyncio

import pytest
from kafka import TopicPartition

from store.postgres.history import HistoryWriter
from store.records import Incomplete
from store.settings import Settings
from tests.support.services.base import Services, create_topics
from tests.support.waiting import eventually_async
from tests.support.worker_fixture import (
    WorkerFixture,
    make_events,
    now_ms,
    open_worker_fixture,
)


def test_a_recreated_topic_is_counted_from_its_start(
    services: Services, settings: Settings
) -> None:
    """Its offsets start again, below the watermarks of the deleted topic."""

    async def go() -> None:
        topic = settings.interactions_topic
        async with open_worker_fixture(settings) as fixture:
            await fixture.send(make_events(2_000))
            await fixture.wait_counted(2_000)
            await fixture.wait_stored(2_000)
            admin = fixture.admin()
            admin.delete_topics([topic])

            async def gone() -> bool:
                return topic not in set(admin.list_topics())

            await eventually_async(gone, message="topic deleted")
            admin.close()
            create_topics(settings.kafka_bootstrap_servers, {topic: settings.topic_partitions})
            await fixture.send(make_events(700))
            await fixture.wait_counted(2_700)
            await fixture.wait_stored(2_700)
            incidents = await fixture.counters.reports.incidents()
            assert [change.kind for change in incidents.log_changes] == ["recreated"]

    asyncio.run(go())


@pytest.mark.long
def test_offsets_deleted_by_retention_are_counted_as_lost(
    services: Services, settings: Settings
) -> None:
    async def go() -> None:
        topic = settings.interactions_topic
        async with open_worker_fixture(settings) as fixture:
            await fixture.send(make_events(100), partition=1)
            await fixture.wait_counted(100)
            assert fixture.worker.stop() == 0
            await fixture.send(make_events(900), partition=1)
            admin = fixture.admin()
            admin.delete_records({TopicPartition(topic, 1): 600})
            admin.close()
            fixture.worker.start()
            await fixture.wait_counted(100 + 400)
            assert (await fixture.counters.reports.incidents()).lost_offsets == 500
            assert "send their events again" in fixture.worker.log_tail(400)

    if services.kind == "wheels":
        pytest.skip("the embedded broker keeps no retention; CI tests Apache Kafka")
    asyncio.run(go())


@pytest.mark.long
def test_a_rollback_past_retention_leaves_the_answers_to_history(
    services: Services, settings: Settings
) -> None:
    """The topic no longer has what the older generation lacks; history has it."""
    if services.kind == "wheels":
        pytest.skip("the embedded broker keeps no retention; CI tests Apache Kafka")

    async def go() -> None:
        async with open_worker_fixture(settings) as fixture:
            await fixture.send(make_events(100), partition=1)
            await fixture.wait_counted(100)
            await fixture.wait_stored(100)
            await asyncio.to_thread(fixture.command, "rebuild", "--tenant", "acme")
            await fixture.send(make_events(1_000), partition=1)
            await fixture.wait_counted(1_100)
            await fixture.wait_stored(1_100)
            delete_before(fixture, 1, 1_100)
            done = await fixture.counters.rollback("acme", now_ms=now_ms())
            assert done is not None
            assert await fixture.counted() == Incomplete("not_complete")
            await fixture.send(make_events(1), partition=1)
            await fixture.wait_stored(1_101)
            await fixture.wait_logged("rebuild --from history` counts them")
            active = await fixture.counters.generation("acme")
            assert active is not None
            (gap,) = (await fixture.counters.missing(active)).gaps
            assert gap[1:] == (1, 100, 1_100)
            assert await fixture.counted() == Incomplete("not_complete")
            await asyncio.to_thread(
                fixture.command, "rebuild", "--tenant", "acme", "--from", "history"
            )
            await fixture.wait_counted(1_101)

    asyncio.run(go())


@pytest.mark.long
def test_a_gap_of_history_is_not_put_down_to_the_counters(
    services: Services, settings: Settings
) -> None:
    """PostgreSQL is restored from a backup that is older than the topic's first record."""
    if services.kind == "wheels":
        pytest.skip("the embedded broker keeps no retention; CI tests Apache Kafka")

    async def go() -> None:
        async with open_worker_fixture(settings) as fixture:
            await fixture.send(make_events(100), partition=1)
            await fixture.wait_counted(100)
            await fixture.wait_stored(100)
            assert fixture.worker.stop() == 0
            async with fixture.pool.connection() as connection:
                await connection.execute(
                    "DELETE FROM interaction_history WHERE source_offset >= 50"
                )
                await connection.execute("UPDATE history_watermarks SET next_offset = 50")
            delete_before(fixture, 1, 100)
            fixture.worker.start()
            await fixture.send(make_events(1), partition=1)
            await fixture.wait_counted(101)
            await fixture.wait_stored(51)
            await fixture.wait_logged("history lacks offsets that retention took")
            (gap,) = await HistoryWriter(fixture.pool).gaps()
            assert gap[1:] == (1, 50, 100)
            assert (await fixture.counters.reports.incidents()).lost_offsets == 0

    asyncio.run(go())


def delete_before(fixture: WorkerFixture, partition: int, offset: int) -> None:
    """Delete the partition's records before `offset`, as retention does."""
    admin = fixture.admin()
    admin.delete_records({TopicPartition(fixture.settings.interactions_topic, partition): offset})
    admin.close()


@pytest.mark.long
def test_partitions_added_while_running_are_picked_up(
    services: Services, settings: Settings
) -> None:
    async def go() -> None:
        async with open_worker_fixture(settings) as fixture:
            await fixture.send(make_events(200))
            await fixture.wait_counted(200)
            admin = fixture.admin()
            admin.create_partitions({settings.interactions_topic: 6})
            admin.close()

            async def sent() -> bool:
                try:
                    await fixture.send(make_events(300), partition=5)
                except AssertionError:  # the producer does not know the partition yet
                    return False
                return True

            await eventually_async(sent, message="partition 5 takes events")
            await fixture.wait_counted(500)
            await fixture.wait_stored(500)

    if services.kind == "wheels":
        pytest.skip("the embedded broker cannot add partitions; CI tests Apache Kafka")
    asyncio.run(go())


def test_a_truncated_log_is_detected_and_new_events_are_counted(
    services: Services, settings: Settings
) -> None:
    """The broker restarts without the partition's data, as after the loss of a disk.

    The topic id is the same, but the log ends before the watermark.
    """
    if services.kind != "real":
        pytest.skip("reaches into the files of Apache Kafka")

    async def go() -> None:
        async with open_worker_fixture(settings) as fixture:
            await fixture.send(make_events(800), partition=2)
            await fixture.wait_counted(800)
            await fixture.wait_stored(800)
            services.kafka.stop()
            folder = services.kafka.data_folder / f"{settings.interactions_topic}-2"  # type: ignore[attr-defined]
            for file in folder.iterdir():
                if file.suffix in {".log", ".index", ".timeindex", ".snapshot"}:
                    file.unlink()
            services.kafka.start()
            await fixture.send(make_events(300), partition=2)
            await fixture.wait_counted(1_100)
            await fixture.wait_stored(1_100)
            incidents = await fixture.counters.reports.incidents()
            assert [change.kind for change in incidents.log_changes] == ["cut"]

    asyncio.run(go())


@pytest.mark.long
def test_counters_lost_after_retention_deleted_their_events_do_not_answer_until_rebuilt(
    services: Services, settings: Settings
) -> None:
    """Redis is flushed when the log no longer has all events.

    A part can be counted again, and must not be answered as if it were all. A rebuild from history
    restores the rest.
    """
    if services.kind == "wheels":
        pytest.skip("the embedded broker keeps no retention; CI tests Apache Kafka")

    async def go() -> None:
        topic = settings.interactions_topic
        async with open_worker_fixture(settings) as fixture:
            await fixture.send(make_events(1_000), partition=1)
            await fixture.wait_counted(1_000)
            await fixture.wait_stored(1_000)
            admin = fixture.admin()
            admin.delete_records({TopicPartition(topic, 1): 600})
            admin.close()
            await fixture.client.flushall()
            seen = []

            async def counted_again() -> bool:
                seen.append(await fixture.counted())
                generation = await fixture.counters.generation("acme")
                marks = await fixture.counters.all_watermarks(generation) if generation else {}
                return 1_000 in marks.values()

            await eventually_async(counted_again, message="the rest is counted")
            seen.append(await fixture.counted())
            assert all(isinstance(answer, Incomplete) for answer in seen), seen
            done = await asyncio.to_thread(fixture.command, "rebuild", "--tenant", "acme")
            assert "1,000 events" in done
            await fixture.wait_counted(1_000)
            await fixture.send(make_events(50), partition=1)
            await fixture.wait_counted(1_050)

    asyncio.run(go())
