"""Records that cannot be counted are kept unchanged in the dead-letter topic, and block nothing."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from aiokafka import AIOKafkaProducer

from cli.embedded.server import free_port
from store.settings import Settings
from tests.support.program import Program, read_topic

MEBIBYTE = 1_048_576
OURS = (
    "reason",
    "detail",
    "source.topic",
    "source.log",
    "source.partition",
    "source.offset",
    "time",
)


class Sent(NamedTuple):
    """Record, where Kafka stored it, and its reason to be a dead letter (None = it is none)."""

    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]
    partition: int
    offset: int
    reason: str | None


def event(number: int, **changes: Any) -> dict[str, Any]:
    payload = {
        "interactionId": f"event-{number}",
        "tenantId": "acme",
        "customerId": f"C-{number % 5}",
        "offerId": "off_001",
        "outcomeTypeKey": "impression",
        "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds"),
    } | changes
    return {
        "type": "interaction.recorded.v1",
        "timestamp": payload["timestamp"],
        "payload": payload,
    }


def encoded(number: int, **changes: Any) -> bytes:
    return json.dumps(event(number, **changes)).encode()


def without(field: str) -> bytes:
    document = event(0)
    del document["payload"][field]
    if field == "timestamp":
        del document[field]
    return json.dumps(document).encode()


#: Description -> the bytes, and the reason of the rejection.
BROKEN: dict[str, tuple[bytes | None, str]] = {
    "tombstone": (None, "malformed"),
    "empty": (b"", "malformed"),
    "not JSON": (b"not json at all", "malformed"),
    "cut off": (encoded(0)[:-20], "malformed"),
    "not UTF-8": (b'\xff\xfe{"customerId": 1}', "malformed"),
    "cut UTF-8": (encoded(0, customerId="C").replace(b'"C"', b'"\xe2\x82"'), "malformed"),
    "a list": (b"[1, 2, 3]", "malformed"),
    "null": (b"null", "malformed"),
    "a number": (b"42", "malformed"),
    "NaN": (encoded(0, conversionValue=float("nan")), "malformed"),
    "a lone surrogate": (encoded(0, customerId="C-\ud800"), "malformed"),
    "a lone surrogate in its own bytes": (b'{"customerId": "\xed\xa0\x80"}', "malformed"),
    "deeply nested": (b"[" * 100_000 + b"]" * 100_000, "malformed"),
    "2 MiB that would be an event": (encoded(0, note="x" * 2 * MEBIBYTE), "too_large"),
    "2 MiB of nothing": (b"\0" * 2 * MEBIBYTE, "too_large"),
    "a bad tenant": (encoded(0, tenantId="acme corp!"), "bad_field"),
    "an empty customer": (encoded(0, customerId=""), "bad_field"),
    "a customer that is a number": (encoded(0, customerId=7), "bad_field"),
    "no offer": (without("offerId"), "bad_field"),
    "an offer of 129 characters": (encoded(0, offerId="x" * 129), "bad_field"),
    "two offers": (encoded(0, actionId="off_002"), "bad_field"),
    "no outcome": (without("outcomeTypeKey"), "bad_field"),
    "infinite value": (encoded(0, conversionValue=0).replace(b": 0}", b": 1e999}"), "bad_field"),
    "no payload": (b'{"type": "interaction.recorded.v1"}', "bad_field"),
    "no time": (without("timestamp"), "bad_timestamp"),
    "a time that is a number": (encoded(0, timestamp=1_600_000_000), "bad_timestamp"),
    "a time without offset": (encoded(0, timestamp="2026-11-23T09:15:02.113"), "bad_timestamp"),
    "the year 0001": (encoded(0, timestamp="0001-01-01T00:00:00Z"), "bad_timestamp"),
    "the year 9999": (encoded(0, timestamp="9999-12-31T23:59:59.999Z"), "bad_timestamp"),
    "February 30": (encoded(0, timestamp="2026-02-30T00:00:00Z"), "bad_timestamp"),
    "tomorrow": (
        encoded(0, timestamp=(datetime.now(UTC) + timedelta(days=1)).isoformat()),
        "future_timestamp",
    ),
    "an unregistered type": (encoded(0, outcomeTypeKey="never_registered"), "unregistered_type"),
}  # fmt: skip
#: Events of another type, which are skipped whatever they contain.
SKIPPED = (
    b'{"type": "interaction.recorded.v2", "payload": {}}',
    b'{"type": "offer.published.v1", "timestamp": "nonsense", "payload": [1]}',
)


@pytest.fixture
def program(settings: Settings, tmp_path: Path) -> Iterator[Program]:
    """Start the program on topics that `migrate` creates: they accept events over our limit."""
    topic = f"{settings.interactions_topic}-migrated"
    changed = settings.model_copy(
        update={"interactions_topic": topic, "dead_letter_topic": f"{topic}.dlq"}
    )
    started = Program(changed, tmp_path)
    try:
        assert f"topic {topic}: created" in started.run("migrate")
        yield started
    finally:
        started.close()


def test_each_kind_of_broken_event_is_kept_unchanged_and_blocks_nothing(program: Program) -> None:
    metrics_port = free_port()
    worker = program.worker(WORKER_METRICS_PORT=str(metrics_port))
    api = program.api()
    sent = asyncio.run(produce(program.settings))
    program.wait_for(counted=len(sent), stored=len(sent), alive=[worker])

    good = sum(record.reason is None for record in sent) - len(SKIPPED)
    assert good == len(BROKEN) + 1
    (row,) = api.summary("acme").json()["summary"]
    assert (row["id"], row["impression"], row["total"]) == ("off_001", good, good)

    dead_letters = read_topic(program.settings, program.settings.dead_letter_topic)
    found = {source_of(dead_letter): dead_letter for dead_letter in dead_letters}
    broken = [record for record in sent if record.reason is not None]
    assert len(dead_letters) == len(found) == len(broken) == len(BROKEN)
    for record in broken:
        assert_kept(record, found[record.partition, record.offset], program.settings)

    metrics = httpx.get(f"http://127.0.0.1:{metrics_port}/metrics").text
    reasons = Counter(record.reason for record in broken)
    assert counter(metrics, "dead_letters") == dict(reasons)
    assert counter(metrics, "skipped") == {"": len(SKIPPED)}
    assert worker.terminate() == 0


async def produce(settings: Settings) -> list[Sent]:
    """Send the broken events, each between good events in its partition, and the skipped ones."""
    number = 0
    sent: list[Sent] = []
    async with AIOKafkaProducer(
        bootstrap_servers=settings.brokers, acks="all", max_request_size=8 * MEBIBYTE
    ) as producer:

        async def send(value: bytes | None, reason: str | None, key: bytes | None) -> None:
            headers = [("trace", b"\x00\xff of its own"), ("trace", str(len(sent)).encode())]
            done = await producer.send_and_wait(
                settings.interactions_topic, value, key=key, headers=headers, partition=number % 2
            )
            sent.append(Sent(key, value, headers, done.partition, done.offset, reason))

        await send(encoded(number), None, None)
        for value, reason in BROKEN.values():
            number += 1
            await send(value, reason, key=(b"\xff\x00 no text", b"C-1", None)[number % 3])
            await send(encoded(number), None, b"C-1")
        for value in SKIPPED:
            await send(value, None, b"C-1")
    return sent


def source_of(dead_letter: Any) -> tuple[int, int]:
    headers = dict(dead_letter.headers)
    return int(headers["dlq.source.partition"]), int(headers["dlq.source.offset"])


def assert_kept(record: Sent, dead_letter: Any, settings: Settings) -> None:
    what = f"{(record.value or b'')[:80]!r}"
    assert dead_letter.value == record.value, what
    assert dead_letter.key == record.key, what
    assert list(dead_letter.headers[:2]) == record.headers, what
    assert [name for name, _ in dead_letter.headers[2:]] == [f"dlq.{name}" for name in OURS]
    ours = dict(dead_letter.headers[2:])
    assert ours["dlq.reason"].decode() == record.reason, (what, ours)
    assert 0 < len(ours["dlq.detail"].decode()) <= 300
    assert ours["dlq.source.topic"].decode() == settings.interactions_topic
    age = datetime.now(UTC) - datetime.fromisoformat(ours["dlq.time"].decode())
    assert timedelta(0) <= age < timedelta(minutes=5)


def counter(metrics: str, name: str) -> dict[str, float]:
    """Return label -> value of the samples that are not zero."""
    pattern = rf'^interaction_summary_\w*{name}_total(?:\{{\w+="(\w+)"\}})? (\S+)$'
    found: Sequence[tuple[str, str]] = re.findall(pattern, metrics, re.MULTILINE)
    assert found, f"no metric {name}"
    return {label: float(value) for label, value in found if float(value)}
