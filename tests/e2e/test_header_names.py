"""Header names that are not UTF-8: Kafka allows them, and they change nothing for the event."""

from __future__ import annotations

import pytest
from kafka import KafkaProducer

from store.settings import Settings
from tests.support.events import encode, make_event
from tests.support.program import Program, read_topic
from tests.support.raw_producer import RawName
from tests.support.worker_fixture import now_ms


def produce(settings: Settings, *values: bytes, compression: str | None) -> None:
    """Send the values in one batch, between two that have no headers."""
    producer = KafkaProducer(
        bootstrap_servers=settings.brokers, linger_ms=100, compression_type=compression
    )
    try:
        for value in values:
            producer.send(settings.interactions_topic, value, partition=0)
            producer.send(
                settings.interactions_topic, value, partition=0, headers=[(RawName("x"), b"1")]
            )
        producer.flush(30)
    finally:
        producer.close()


@pytest.mark.long
def test_records_with_such_headers_are_counted_rebuilt_and_dead_lettered(program: Program) -> None:
    worker = program.worker()
    for compression in (None, "gzip"):
        events = [make_event(identity=f"{compression}-{i}", occurred_ms=now_ms()) for i in range(3)]
        produce(program.settings, *map(encode, events), b"not JSON", compression=compression)
    program.wait_for(counted=16, stored=16, alive=[worker])
    output = program.run("rebuild", "--tenant", "acme", "--from", "topic")
    assert "tenant acme: 6 events" in output
    dead = read_topic(program.settings, program.settings.dead_letter_topic)
    assert [record.value for record in dead] == [b"not JSON"] * 4
    for record in dead[1::2]:
        assert ("trace-\\xff\\xfe", b"1") in record.headers
