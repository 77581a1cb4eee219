"""Dead letters on a real broker: each is in the topic once, whatever happens to its sender."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import json
import subprocess
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from kafka.admin import ConfigResource, ConfigResourceType

from store import metrics
from store.postgres.pool import open_pool
from store.postgres.quarantine import (
    Quarantine,
    QuarantinedRecord,
    QuarantineSummary,
)
from store.records import StoreUnavailable
from store.redis.client import make_client
from store.redis.owners import PartitionOwners
from store.settings import Settings
from store.windows import DAY_MS
from streams.dead_letters import headers as dead_letter_headers
from streams.dead_letters.record import DeadLetterInfo, RejectedRecord
from streams.dead_letters.sink import KafkaDeadLetterSink
from streams.decode.rejection import Reason, reject, unprocessable
from streams.kafka import producers
from streams.kafka.admin import open_admin
from streams.kafka.producers import OutgoingRecord, open_transactional_producer
from streams.retry import retry
from tests.support.events import encode, make_event
from tests.support.program import PROGRAM, Program, read_topic
from tests.support.services.base import Services
from tests.support.services.wheels import WheelBroker
from tests.support.waiting import eventually_async
from tests.support.worker_fixture import make_events, now_ms, open_worker_fixture

pytestmark = pytest.mark.anyio
MEBIBYTE = 1_048_576


class Record(NamedTuple):
    """Fields of a Kafka record that a dead letter needs."""

    offset: int
    value: bytes | None
    key: bytes | None = None
    headers: Sequence[tuple[str, bytes]] = ()
    timestamp: int = 0


def rejected_records(*offsets: int, partition: int = 0) -> list[RejectedRecord]:
    why = reject(Reason.MALFORMED, "of a test")
    return [RejectedRecord(partition, Record(o, b"p%d-o%d" % (partition, o)), why) for o in offsets]


def sources_in_topic(settings: Settings) -> list[tuple[str, int, int]]:
    """Return the source of every dead letter in the topic, repeats included."""
    found = []
    for record in read_topic(settings, settings.dead_letter_topic):
        info = dead_letter_headers.parse(record.headers)
        assert info is not None
        assert record.value.startswith(b"p%d-o%d" % (info.partition, info.offset))
        found.append((info.topic_id, info.partition, info.offset))
    return found


@asynccontextmanager
async def open_sink(settings: Settings) -> AsyncIterator[KafkaDeadLetterSink]:
    """Open the sink of one worker."""
    client: Any = make_client(settings, timeout_s=5, retries=0)
    async with open_pool(settings, max_size=1) as pool:
        sink = KafkaDeadLetterSink(
            settings,
            PartitionOwners(client, settings.redis_prefix),
            Quarantine(pool),
            now_ms=lambda: 1_795_521_600_000,
        )
        try:
            yield sink
        finally:
            await sink.close()
            await client.aclose()


@pytest.fixture
def topic_id() -> str:
    return str(uuid.uuid4())


async def test_a_worker_that_takes_over_sends_only_what_is_missing(
    settings: Settings, topic_id: str
) -> None:
    """The current batch may be in the topic in part; all before it is there, in any number."""
    settings = settings.model_copy(update={"commit_batch_events": 5})
    async with open_sink(settings) as first:
        await first.assign(topic_id, [0, 1])
        for i in range(0, 20, 4):
            await first.send(rejected_records(*range(i, i + 4)))
            await first.send(rejected_records(*range(i, i + 4), partition=1))
        await first.send(rejected_records(20, 22))
    for round_ in range(2):  # the second reads from the beginning again
        async with open_sink(settings) as second:
            await second.assign(topic_id, [0, 1])
            for i in range(0, 25, 5):
                await second.send(rejected_records(*range(i, i + 5)))
            await second.send(rejected_records(3, 19, 40, partition=1))
        found = await asyncio.to_thread(sources_in_topic, settings)
        assert sorted(found) == sorted(
            [(topic_id, 0, o) for o in range(25)] + [(topic_id, 1, o) for o in (*range(20), 40)]
        ), round_


async def test_dead_letters_of_a_recreated_topic_are_sent(
    settings: Settings, topic_id: str
) -> None:
    """A recreated topic has the same offsets; its dead letters are new."""
    async with open_sink(settings) as sink:
        for current in (topic_id, "another", topic_id):
            await sink.assign(current, [0])
            await sink.send(rejected_records(1, 2))
    found = await asyncio.to_thread(sources_in_topic, settings)
    assert sorted(found) == sorted(
        (topic_id, 0, o) for topic_id in (topic_id, "another") for o in (1, 2)
    )


async def test_records_sent_before_a_failure_in_their_batch_are_not_sent_again(
    settings: Settings, topic_id: str
) -> None:
    """Kafka accepts the first records and refuses one in the middle."""
    async with open_sink(settings) as sink:
        await sink.assign(topic_id, [0])
        await sink.send(rejected_records(1))
        why = reject(Reason.TOO_LARGE, "of a test")
        larger = RejectedRecord(0, Record(4, b"p0-o4" + b"x" * 17 * MEBIBYTE), why)
        await sink.send([*rejected_records(2, 3), larger, *rejected_records(5)])
        await sink.send(rejected_records(6))
    found = await asyncio.to_thread(sources_in_topic, settings)
    assert [offset for _, _, offset in found] == [1, 2, 3, 4, 5, 6]


async def test_a_record_on_which_the_program_fails_is_sent_after_later_ones(
    settings: Settings, topic_id: str
) -> None:
    """It is found while its commit batch is committed, after the other dead letters are sent."""
    settings = settings.model_copy(update={"commit_batch_events": 5})
    (failed,) = rejected_records(3)
    failed = failed._replace(rejection=unprocessable(ValueError("of a test")))
    async with open_sink(settings) as crashed:
        await crashed.assign(topic_id, [0])
        await crashed.send(rejected_records(*range(4, 12)))
    for _ in range(2):
        async with open_sink(settings) as sink:
            await sink.assign(topic_id, [0])
            await sink.send(rejected_records(*range(4, 12)))
            await sink.send([failed])
    found = await asyncio.to_thread(sources_in_topic, settings)
    assert [offset for _, _, offset in found] == [*range(4, 12), 3]


async def test_what_cannot_be_sent_whole_is_sent_as_a_stub(
    settings: Settings, services: Services, topic_id: str
) -> None:
    """A topic of Kafka's default takes 1 MiB, the client 16 MiB; other records are sent whole.

    The embedded broker has no limit.
    """
    before, large, larger, empty, after = rejected_records(0, 1, 2, 3, 4)
    values = (b"x" * (2 * MEBIBYTE), b"y" * (20 * MEBIBYTE))
    large = large._replace(record=Record(1, values[0], b"k" * 500, [("trace", b"1")]))
    larger = larger._replace(record=Record(2, values[1]))
    empty = empty._replace(record=Record(3, None))
    async with open_sink(settings) as sink:
        await sink.assign(topic_id, [0])
        await sink.send([before, large, larger, empty, after])
        await sink.send([before, large, larger, empty, after])
    records = await asyncio.to_thread(read_topic, settings, settings.dead_letter_topic)
    found = [(dead_letter_headers.parse(r.headers), dict(r.headers), r) for r in records]
    assert [info.offset for info, _, _ in found if info] == [0, 1, 2, 3, 4]
    assert [record.value for _, _, record in found[::4]] == [b"p0-o0", b"p0-o4"]
    stubs = list(zip(found[1:3], values, strict=True))
    if isinstance(services.kafka, WheelBroker):
        assert stubs.pop(0)[0][2].value == values[0]
    for (info, headers, record), value in stubs:
        assert info is not None
        assert (info.reason, info.detail) == ("unsendable", "malformed: of a test")
        assert headers["dlq.size"] == str(len(value)).encode()
        assert headers["dlq.sha256"] == hashlib.sha256(value).hexdigest().encode()
        assert record.value == value[: len(record.value)]
        assert 16_384 <= len(record.value) < MEBIBYTE
    assert found[3][2].value is None


async def test_what_cannot_be_sent_as_a_stub_is_quarantined(
    settings: Settings, services: Services, topic_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The topic takes 100 bytes. The embedded broker has no limit: there the client has it."""
    if isinstance(services.kafka, WheelBroker):
        options = producers._options(settings)
        monkeypatch.setattr(producers, "_options", lambda _: {**options, "max_request_size": 100})
    else:
        limit_topic(settings, {"max.message.bytes": "100"})
    why = reject(Reason.UNREGISTERED_TYPE, "of a test")
    value = b"x" * 10_000
    record = Record(7, value, b"k" * 500, timestamp=2**60)
    before = metrics.QUARANTINED.labels("unregistered_type")._value.get()
    async with open_sink(settings) as sink, open_pool(settings, max_size=1) as pool:
        await sink.assign(topic_id, [3])
        for _ in range(2):  # it is read again
            await sink.send([RejectedRecord(3, record, why, "acme")])
        await sink.send([RejectedRecord(3, Record(8, None), why)])
        quarantine = Quarantine(pool)
        found = {row.offset: row for row in await quarantine.newest(10)}
        assert await quarantine.at(3, 7) == [found[7]]
        assert await quarantine.at(3, 9) == []
        summary = await quarantine.summary()
    assert sorted(found) == [7, 8]
    row = found[7]
    assert row.recorded_at == summary.newest_at or found[8].recorded_at == summary.newest_at
    assert summary.by_reason == {"unregistered_type": 2}
    assert row.error.startswith("of a test; not sent: MessageSizeTooLargeError: ")
    assert row._replace(recorded_at=None, error="") == QuarantinedRecord(
        topic_id=topic_id,
        topic=settings.interactions_topic,
        partition=3,
        offset=7,
        next_offset=8,
        tenant="acme",
        reason="unregistered_type",
        error="",
        size=10_000,
        sha256=hashlib.sha256(value).digest(),
        value=value[:4_096],
        key=b"k" * 256,
        timestamp_ms=2**60,
    )
    assert (found[8].tenant, found[8].value, found[8].key, found[8].size) == (None, None, None, 0)
    assert metrics.QUARANTINED.labels("unregistered_type")._value.get() == before + 2
    assert await asyncio.to_thread(sources_in_topic, settings) == []


async def test_a_record_without_a_key_is_a_stub_on_a_compacted_topic(
    settings: Settings, services: Services, topic_id: str
) -> None:
    if isinstance(services.kafka, WheelBroker):
        pytest.skip("the embedded broker takes records without keys on compacted topics")
    limit_topic(settings, {"cleanup.policy": "compact"})
    async with open_sink(settings) as sink:
        await sink.assign(topic_id, [0])
        await sink.send(rejected_records(1))
    (record,) = await asyncio.to_thread(read_topic, settings, settings.dead_letter_topic)
    info = dead_letter_headers.parse(record.headers)
    assert info is not None
    assert (info.reason, record.key, record.value) == ("unsendable", b"", b"p0-o1")


def limit_topic(settings: Settings, configs: dict[str, str]) -> None:
    """Change settings of the dead-letter topic."""
    with open_admin(settings, "test") as admin:
        admin.alter_configs(
            [ConfigResource(ConfigResourceType.TOPIC, settings.dead_letter_topic, configs)]
        )


async def test_a_worker_that_was_replaced_while_frozen_sends_nothing(
    settings: Settings, topic_id: str
) -> None:
    """It does not know of the replacement; the other worker has sent its dead letters."""
    settings = settings.model_copy(update={"kafka_session_timeout_s": 0.5})
    async with open_sink(settings) as sleeper, open_sink(settings) as other:
        await sleeper.assign(topic_id, [0, 1])
        await sleeper.send(rejected_records(1))
        await sleeper.send(rejected_records(1, partition=1))
        await other.assign(topic_id, [0])
        awake = asyncio.create_task(retry("kafka", sleeper.send, rejected_records(2, 3)))
        await sleeper.send(rejected_records(2, partition=1))  # it still owns this partition
        await retry("kafka", other.send, rejected_records(1, 2, 3, 4))
        # Kafka does not revoke the partition here, so it claims it again in the end, and reads.
        await awake
        await retry("kafka", sleeper.send, rejected_records(4, 5))
    found = await asyncio.to_thread(sources_in_topic, settings)
    assert sorted(found) == [
        *((topic_id, 0, o) for o in (1, 2, 3, 4, 5)),
        *((topic_id, 1, o) for o in (1, 2)),
    ]


async def test_the_error_of_a_fenced_producer_is_reported_once(
    settings: Settings, topic_id: str
) -> None:
    """The sender raises it; the client's own task must not report it again when it is freed."""
    transactional_id = f"{settings.dead_letter_topic}-{topic_id}-0"
    fenced = await open_transactional_producer(settings, transactional_id)
    if fenced is None:
        pytest.skip("the embedded broker has no transactions; the real one is tested in CI")
    newer = await open_transactional_producer(settings, transactional_id)
    assert newer is not None
    loop, reported = asyncio.get_running_loop(), list[object]()
    handler = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: reported.append(context))
    try:
        with pytest.raises(StoreUnavailable, match="ProducerFenced"):
            await fenced.send_all(
                settings.dead_letter_topic, [OutgoingRecord(b"key", b"value", (), 0)]
            )
        await fenced.stop()
        await newer.stop()
        del fenced, newer
        gc.collect()
        await asyncio.sleep(0)
    finally:
        loop.set_exception_handler(handler)
    assert reported == []


async def test_the_transaction_of_a_worker_frozen_while_it_sends_is_aborted(
    settings: Settings, topic_id: str
) -> None:
    """Kafka has its dead letters, and then another worker takes over.

    Only a transaction can undo that.
    """
    producer = await open_transactional_producer(
        settings, f"{settings.dead_letter_topic}-{topic_id}-0"
    )
    if producer is None:
        pytest.skip("the embedded broker has no transactions; the real one is tested in CI")
    frozen = producer.client
    async with open_sink(settings) as other:
        await frozen.begin_transaction()
        await frozen.send_and_wait(settings.dead_letter_topic, b"p0-o1", partition=0)
        await other.assign(topic_id, [0])
        await other.send(rejected_records(1, 2))
        with pytest.raises(KafkaError):
            await frozen.commit_transaction()
        await frozen.stop()
    found = await asyncio.to_thread(sources_in_topic, settings)
    assert sorted(found) == [(topic_id, 0, 1), (topic_id, 0, 2)]


async def test_dead_letters_are_sent_after_redis_lost_the_owner(
    settings: Settings, topic_id: str
) -> None:
    client: Any = make_client(settings, timeout_s=5, retries=0)
    async with open_sink(settings) as sink:
        await sink.assign(topic_id, [0])
        await client.flushdb()
        await sink.send(rejected_records(1))
        await sink.send(rejected_records(2))
    await client.aclose()
    assert [o for _, _, o in await asyncio.to_thread(sources_in_topic, settings)] == [1, 2]


@pytest.mark.long
async def test_dead_letters_are_there_once_after_a_kill_before_their_batch_is_stored(
    settings: Settings,
) -> None:
    """The worker sends dead letters, cannot store the rest of the batch, and is killed.

    The next worker starts to read before them.
    """
    async with open_worker_fixture(settings) as fixture:
        await fixture.send(make_events(20), partition=0)
        await fixture.wait_stored(20)
        async with await psycopg.AsyncConnection.connect(settings.database_url) as holder:
            await holder.execute("LOCK TABLE history_watermarks IN SHARE ROW EXCLUSIVE MODE")
            await send_raw(settings, [b"no json %d" % i for i in range(30)])
            await fixture.send(make_events(20), partition=0)
            await fixture.wait_counted(40)
            await wait_for_dead_letters(settings, 30)
            fixture.worker.kill()
        fixture.worker.start()
        await send_raw(settings, [b"no json either"])
        await fixture.wait_stored(40)
        await wait_for_dead_letters(settings, 31)
        await fixture.wait_counted(40)
        assert fixture.worker.stop() == 0
    there = await asyncio.to_thread(read_topic, settings, settings.dead_letter_topic)
    values = [dead_letter.value for dead_letter in there]
    assert sorted(values) == sorted([*(b"no json %d" % i for i in range(30)), b"no json either"])


# ---- the commands


@pytest.fixture
def program(settings: Settings, tmp_path: Path) -> Iterator[Program]:
    started = Program(settings, tmp_path)
    yield started
    started.close()


def unregistered(n: int) -> list[bytes]:
    """Return events of a type that is not registered; the first is 60 days old."""
    return [
        encode(
            make_event(
                customer=f"C-{i}",
                outcome="saved",
                occurred_ms=now_ms() - (60 * DAY_MS if i == 0 else 0),
            )
        )
        for i in range(n)
    ]


def register(program: Program, key: str, *, tenant: str = "acme") -> None:
    own = {"key": key, "name": key, "classification": "positive", "category": "response"}
    document = json.dumps({"tenant": tenant, "outcomeTypes": [own]}).encode()
    program.run("catalog", "import", "-", stdin=document)


@pytest.mark.long
async def test_redriven_events_count_once_however_often_a_redrive_runs_or_is_interrupted(
    settings: Settings, program: Program
) -> None:
    """A redrive is killed after Kafka has the events and before it has marked them.

    It runs again before they are counted, again after, and again when its marks are lost.
    """
    values = unregistered(5)
    async with open_worker_fixture(settings) as fixture:
        await send_raw(settings, [*values, b"no json", b"{}"])
        await wait_for_dead_letters(settings, 7)
        assert program.run("dlq", "redrive").splitlines()[0] == (
            "0 sent, 0 counted already, 0 redriven before, 7 left"
        )
        register(program, "saved")
        assert fixture.worker.stop() == 0
        async with await psycopg.AsyncConnection.connect(settings.database_url) as holder:
            await holder.execute("LOCK TABLE redriven_letters IN SHARE ROW EXCLUSIVE MODE")
            interrupted = program.start("redrive", "dlq", "redrive")
            await wait_for_records(settings, 7 + 5)
            interrupted.kill()
        again = await asyncio.to_thread(program.run, "dlq", "redrive")
        assert again.startswith("5 sent, 0 counted already, 0 redriven before, 2 left")
        fixture.worker.start()
        await fixture.wait_counted(5)
        await fixture.wait_stored(5)
        assert program.run("dlq", "redrive").startswith(
            "0 sent, 0 counted already, 5 redriven before, 2 left"
        )
        async with await psycopg.AsyncConnection.connect(settings.database_url) as connection:
            await connection.execute("DELETE FROM redriven_letters")
        assert program.run("dlq", "redrive").startswith(
            "0 sent, 5 counted already, 0 redriven before, 2 left"
        )
        await send_raw(settings, [encode(make_event(occurred_ms=now_ms()))])
        await fixture.wait_counted(6)
        await fixture.wait_stored(6)
    records = await asyncio.to_thread(read_topic, settings, settings.interactions_topic)
    assert len(records) == 7 + 5 + 5 + 1
    redriven = [r for r in records if r.value in values]
    assert [r.value for r in redriven] == values * 3
    assert {(r.key, r.headers, r.partition) for r in redriven} == {(b"k", (("own", b"\xff"),), 0)}
    listed = json.loads(program.run("dlq", "list", "--json"))
    assert listed["byReason"] == {"bad_field": 1, "malformed": 1, "unregistered_type": 5}
    for letter in listed["letters"]:
        assert (letter["redriven"] is None) == (letter["reason"] != "unregistered_type"), letter


@pytest.mark.long
async def test_a_redrive_sends_only_the_selected_dead_letters(
    settings: Settings, program: Program
) -> None:
    async with open_worker_fixture(settings) as fixture:
        others = [
            encode(make_event(tenant="b", outcome="other", occurred_ms=now_ms())) for _ in range(2)
        ]
        await send_raw(settings, [*unregistered(3), *others, b"no json"])
        await wait_for_dead_letters(settings, 6)
        assert fixture.worker.stop() == 0
    register(program, "saved")
    register(program, "other", tenant="b")

    def redrive(*arguments: str) -> str:
        return program.run("dlq", "redrive", *arguments).splitlines()[0].partition(",")[0]

    assert redrive("--dry-run") == "5 would be sent"
    assert redrive("--reason", "malformed") == "0 sent"
    assert redrive("--tenant", "c") == "0 sent"
    assert redrive("0:4", "0:0") == "2 sent"
    assert redrive("--tenant", "b", "--dry-run") == "1 would be sent"
    assert redrive("--tenant", "b") == "1 sent"
    assert redrive("--reason", "unregistered_type") == "2 sent"
    assert redrive() == "0 sent"
    assert failed(program, "dlq", "redrive", "0:0", "0:6").endswith(
        f"no dead letter at 0:6 of {settings.dead_letter_topic}"
    )
    assert failed(program, "dlq", "show", "7", "0").endswith(
        f"no dead letter at 7:0 of {settings.dead_letter_topic}"
    )
    records = await asyncio.to_thread(read_topic, settings, settings.interactions_topic)
    assert len(records) == 6 + 5


async def test_dead_letters_are_shown_in_full_and_repeats_once(
    settings: Settings, program: Program
) -> None:
    """Any bytes are shown. A repeat has another offset in the topic, and the same source."""
    event = encode(make_event(outcome="saved", occurred_ms=now_ms()))
    async with AIOKafkaProducer(bootstrap_servers=settings.brokers) as producer:
        for offset, value, reason in ((7, b"\xff\x1b[31m", "malformed"), (8, event, "bad_field")):
            info = DeadLetterInfo(
                reason, "of a [red]test", settings.interactions_topic, "log-1", 3, offset,
                1_795_521_600_000 + offset,
            )  # fmt: skip
            headers = dead_letter_headers.write(info, [("trace", b"\x00id")])
            for _ in range(offset - 6):
                await producer.send_and_wait(settings.dead_letter_topic, value, headers=headers)
        await producer.send_and_wait(settings.dead_letter_topic, b"none of ours")
    listed = json.loads(program.run("dlq", "list", "--json"))
    assert (listed["total"], listed["repeats"]) == (2, 1)
    assert [(x["offset"], x["repeats"]) for x in listed["letters"]] == [(1, 1), (0, 0)]
    assert listed["letters"][0]["source"] == {
        "topic": settings.interactions_topic, "log": "log-1", "partition": 3, "offset": 8,
    }  # fmt: skip
    assert json.loads(program.run("dlq", "list", "--json", "--limit", "1"))["total"] == 2
    only = json.loads(program.run("dlq", "list", "--json", "--reason", "malformed"))
    assert [x["offset"] for x in only["letters"]] == [0]
    table = program.run("dlq", "list")
    assert "2 dead letters: 1 bad_field, 1 malformed" in table
    assert "of a [red]test" in table
    assert "1 repeats of them are in the topic" in table
    broken = program.run("dlq", "show", "0", "0")
    assert "value    6 bytes\n\\xff\\x1b[31m\n" in broken
    assert "key      (null)" in broken
    assert "header   trace = \\x00id" in broken
    assert "header   dlq.source.offset = 7" in broken
    whole = program.run("dlq", "show", "0", "1")
    assert '    "outcomeTypeKey": "saved",\n' in whole
    assert failed(program, "dlq", "show", "0", "3").endswith(
        f"at 0:3 of {settings.dead_letter_topic}"
    )
    register(program, "saved")
    assert program.run("dlq", "redrive").startswith("1 sent, 0 counted already")
    records = await asyncio.to_thread(read_topic, settings, settings.interactions_topic)
    assert [(r.value, r.headers, r.partition) for r in records] == [
        (event, (("trace", b"\x00id"),), 3)
    ]


@pytest.mark.long
async def test_quarantined_records_are_listed_shown_and_not_redriven(
    settings: Settings, program: Program
) -> None:
    row = QuarantinedRecord(
        topic_id="8f2c1de0-1111-4222-8333-444455556666",
        topic=settings.interactions_topic,
        partition=2,
        offset=17,
        next_offset=18,
        tenant="acme",
        reason="unregistered_type",
        error="of a [red]test",
        size=9_999,
        sha256=bytes(32),
        value=b"\xff{",
        key=None,
        timestamp_ms=None,
    )
    async with open_pool(settings, max_size=1) as pool:
        batch = row._replace(offset=20, next_offset=25, reason="malformed", tenant=None)
        assert await Quarantine(pool).add([row, batch, row]) == 2
        assert await Quarantine(pool).add([row, batch]) == 0
        async with pool.connection() as connection:
            await connection.execute(
                "UPDATE quarantined_records SET recorded_at = now() - interval '91 days' "
                'WHERE "offset" = 20'
            )
        assert [r.offset for r in await Quarantine(pool).at(2, 24)] == [20]
        assert await Quarantine(pool).add([row._replace(offset=30, next_offset=31)]) == 1
        assert await Quarantine(pool).summary() == QuarantineSummary(
            {"unregistered_type": 2}, (await Quarantine(pool).newest(1))[0].recorded_at
        )
    table = program.run("dlq", "list")
    assert "0 dead letters\n" in table
    assert "2 quarantined records: 2 unregistered_type" in table
    assert "of a [red]test" in table
    listed = json.loads(program.run("dlq", "list", "--json"))["quarantined"]
    assert (listed["total"], listed["byReason"]) == (2, {"unregistered_type": 2})
    assert [record["source"]["offset"] for record in listed["records"]] == [30, 17]
    only = json.loads(program.run("dlq", "list", "--json", "--reason", "malformed"))["quarantined"]
    assert only["records"] == []
    shown = program.run("dlq", "show", "2", "17", "--quarantined")
    assert "tenant   acme\n" in shown
    assert shown.endswith("value    9999 bytes, of which the first 2 are kept\n\\xff{\n")
    assert failed(program, "dlq", "show", "2", "18", "--quarantined").endswith(
        f"no quarantined record at 2:18 of {settings.interactions_topic}"
    )
    assert "2 quarantined records cannot be sent: " in program.run("dlq", "redrive")


def test_dead_letters_are_listed_while_postgres_is_unavailable(program: Program) -> None:
    done = command(program, "dlq", "list", DATABASE_URL="postgresql://127.0.0.1:1/none")
    assert (done.returncode, done.stdout.decode()) == (0, "0 dead letters\n")
    assert done.stderr.startswith(
        b"note: what was redriven or quarantined is not known (Postgres: "
    )
    done = command(program, "dlq", "redrive", DATABASE_URL="postgresql://127.0.0.1:1/none")
    assert (done.returncode, done.stdout) == (
        0,
        b"0 sent, 0 counted already, 0 redriven before, 0 left\n",
    )


def test_the_commands_report_a_missing_topic_and_an_unavailable_broker(program: Program) -> None:
    done = command(program, "dlq", "list", DEAD_LETTER_TOPIC="never-made")
    assert done.returncode == 1
    assert b"'never-made' does not exist (run `migrate` first)" in done.stderr
    for arguments in (("list",), ("show", "0", "0"), ("redrive",)):
        done = command(program, "dlq", *arguments, KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1")
        assert done.returncode == 1
        (line,) = done.stderr.decode().splitlines()
        assert line.startswith("error: Kafka: ")


def command(
    program: Program, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [str(PROGRAM), *arguments],
        env=program.env | environment,
        capture_output=True,
        timeout=60,
        check=False,
    )


def failed(program: Program, *arguments: str) -> str:
    """Return the error line of a command that fails."""
    done = command(program, *arguments)
    assert done.returncode == 1, done
    (line,) = done.stderr.decode().splitlines()
    return line


# ---- sending and reading


async def send_raw(settings: Settings, values: Sequence[bytes]) -> None:
    """Send to partition 0; return when Kafka has acknowledged all."""
    async with AIOKafkaProducer(bootstrap_servers=settings.brokers, acks="all") as producer:
        for value in values:
            await producer.send_and_wait(
                settings.interactions_topic,
                value,
                key=b"k",
                partition=0,
                headers=[("own", b"\xff")],
            )


async def wait_for_dead_letters(settings: Settings, n: int) -> None:
    await _wait_for(settings, settings.dead_letter_topic, n)


async def wait_for_records(settings: Settings, n: int) -> None:
    await _wait_for(settings, settings.interactions_topic, n)


async def _wait_for(settings: Settings, topic: str, n: int) -> None:
    async def all_there() -> bool:
        found = await asyncio.to_thread(read_topic, settings, topic)
        assert len(found) >= n, f"{len(found)} records, not {n}"
        return True

    await eventually_async(all_there, message=f"{n} records in {topic}")
