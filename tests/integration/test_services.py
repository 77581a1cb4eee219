"""Servers of the tests: they start, keep their data, and can be killed and paused."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import psycopg
import pytest
import redis
from kafka import KafkaConsumer, KafkaProducer
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient

from store.settings import Settings
from streams.kafka.producers import OutgoingRecord, open_transactional_producer
from tests.support.resources import Topics
from tests.support.services.base import Services, revive
from tests.support.waiting import eventually


@pytest.fixture(autouse=True)
def revived(services: Services) -> Iterator[None]:
    yield
    for server in services[1:]:
        revive(server)


def consume(bootstrap: str, topic: str, count: int) -> list[bytes]:
    consumer = KafkaConsumer(
        topic,
        bootstrap_servers=bootstrap,
        group_id=None,
        auto_offset_reset="earliest",
        consumer_timeout_ms=60_000,
    )
    try:
        return [record.value for _, record in zip(range(count), consumer, strict=False)]
    finally:
        consumer.close()


def produce(bootstrap: str, topic: str, values: list[bytes]) -> None:
    producer = KafkaProducer(bootstrap_servers=bootstrap)
    try:
        for sent in [producer.send(topic, value, partition=0) for value in values]:
            sent.get(30)
    finally:
        producer.close()


def test_kafka_returns_the_values_that_were_produced(kafka: str, topics: Topics) -> None:
    values = [str(n).encode() for n in range(100)]
    produce(kafka, topics.interactions, values)
    assert consume(kafka, topics.interactions, 100) == values


def test_topics_have_their_partitions_and_an_id_each(kafka: str, topics: Topics) -> None:
    admin = KafkaAdminClient(bootstrap_servers=kafka)
    try:
        described = {t["name"]: t for t in admin.describe_topics([topics.interactions, topics.dlq])}
    finally:
        admin.close()
    assert len(described[topics.interactions]["partitions"]) == topics.partitions
    assert len(described[topics.dlq]["partitions"]) == 1
    assert described[topics.interactions]["topic_id"] != described[topics.dlq]["topic_id"]


def test_kafka_keeps_records_of_any_age(services: Services, kafka: str, topics: Topics) -> None:
    """Tests send records of fixed days, which the default retention of a week deletes."""
    if services.kind == "wheels":
        pytest.skip("the embedded broker keeps no retention; CI tests Apache Kafka")
    admin = KafkaAdminClient(bootstrap_servers=kafka)
    try:
        configs = admin.describe_configs(
            [ConfigResource(ConfigResourceType.TOPIC, topics.interactions, {"retention.ms": ""})],
            config_filter="all",
        )
    finally:
        admin.close()
    assert configs["topic"][topics.interactions]["retention.ms"]["value"] == "-1"


def test_a_killed_kafka_restarts_with_its_log_if_it_has_one_on_disk(
    services: Services, kafka: str, topics: Topics
) -> None:
    produce(kafka, topics.interactions, [b"kept"])
    services.kafka.kill()
    assert not services.kafka.alive()
    services.kafka.start()
    admin = KafkaAdminClient(bootstrap_servers=kafka)
    try:
        known = admin.list_topics()
    finally:
        admin.close()
    if services.kind == "wheels":  # its log is in memory: empty after a restart
        assert topics.interactions not in known
    else:
        assert consume(kafka, topics.interactions, 1) == [b"kept"]


def test_kafka_takes_the_records_of_a_transaction(services: Services, settings: Settings) -> None:
    """The broker asks itself whether a record belongs to a transaction, on its own listener."""
    record = OutgoingRecord(key=None, value=b"in a transaction", headers=[], partition=0)

    async def send() -> None:
        producer = await open_transactional_producer(settings, settings.consumer_group)
        if services.kind == "wheels":
            assert producer is None
            return
        assert producer is not None
        try:
            async with asyncio.timeout(30):
                await producer.send_all(settings.interactions_topic, [record])
        finally:
            await producer.discard()
        (bootstrap,) = settings.brokers
        assert consume(bootstrap, settings.interactions_topic, 1) == [record.value]

    asyncio.run(send())


def test_redis_is_empty_at_first_and_keeps_its_data_over_a_restart(
    services: Services, redis_url: str
) -> None:
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0
        client.set("kept", "yes")
        services.redis.stop()
        assert not services.redis.alive()
        with pytest.raises(redis.ConnectionError):
            client.get("kept")
        services.redis.start()
        assert client.get("kept") == b"yes"


def test_a_paused_redis_does_not_answer_and_a_resumed_one_does(
    services: Services, redis_url: str
) -> None:
    with redis.Redis.from_url(redis_url, socket_timeout=0.2, retry=None) as client:
        assert client.ping()
        services.redis.pause()
        with pytest.raises(redis.TimeoutError):
            client.ping()
        services.redis.resume()
        assert eventually(client.ping, message="a ping after resume")


def test_postgres_has_the_tables_and_keeps_its_data_over_a_kill(
    services: Services, database_url: str
) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        assert connection.execute("SELECT count(*) FROM interaction_history").fetchone() == (0,)
        connection.execute("CREATE TABLE kept AS SELECT 1 AS one")
        services.postgres.kill()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    services.postgres.start()
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT one FROM kept").fetchone() == (1,)


def test_a_paused_postgres_does_not_answer_and_a_resumed_one_does(
    services: Services, database_url: str
) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        services.postgres.pause()
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(database_url, connect_timeout=2)
        services.postgres.resume()
        assert connection.execute("SELECT 1").fetchone() == (1,)  # the connection was kept


def test_each_test_has_a_database_of_its_own(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        (tables,) = connection.execute("SELECT to_regclass('kept') IS NULL").fetchone() or (None,)
    assert tables is True


def test_settings_name_these_servers(
    settings: Settings, kafka: str, redis_url: str, database_url: str, topics: Topics
) -> None:
    assert settings.brokers == [kafka]
    assert settings.redis_url == redis_url
    assert settings.database_url == database_url
    assert (settings.interactions_topic, settings.dead_letter_topic) == topics[:2]
    assert settings.consumer_group != Settings().consumer_group
    assert settings.redis_prefix != Settings().redis_prefix
    assert settings.auth_mode == "open"
