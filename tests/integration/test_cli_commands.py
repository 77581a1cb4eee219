"""The commands on real servers: their output and their effects."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import pty
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from aiokafka import AIOKafkaConsumer
from kafka.admin import KafkaAdminClient

from cli.traffic.demo_catalog import demo_catalog
from store.counters import PartitionProgress, Visible
from store.records import Event
from store.redis.client import make_client
from store.redis.counters import RedisCounters, open_counters
from store.settings import Settings
from store.windows import DAY_MS
from streams.decode.decoder import Decoder
from streams.decode.timestamps import format_ms
from streams.kafka.topic_id import describe_topic
from tests.support.contract import LOG
from tests.support.events import TODAY, make_event, sourced
from tests.support.resources import PARTITIONS
from tests.support.services.base import Services
from tests.support.services.wheels import WheelBroker
from tests.support.stores import Stores, some_events

Command = Callable[..., subprocess.CompletedProcess[str]]

ROOT = Path(__file__).parents[2]


@pytest.fixture
def command(settings: Settings) -> Command:
    """Return a function that runs a command on the servers and topics of this test."""

    def run(
        *arguments: str, stdin: str | int = "", **environment: str
    ) -> subprocess.CompletedProcess[str]:
        given = {
            "KAFKA_BOOTSTRAP_SERVERS": settings.kafka_bootstrap_servers,
            "INTERACTIONS_TOPIC": settings.interactions_topic,
            "DEAD_LETTER_TOPIC": settings.dead_letter_topic,
            "REDIS_URL": settings.redis_url,
            "REDIS_PREFIX": settings.redis_prefix,
            "DATABASE_URL": settings.database_url,
        }
        return subprocess.run(
            [sys.executable, "-P", "-m", "cli.main", *arguments],
            # A text, or a file descriptor, for example of a terminal.
            **({"input": stdin} if isinstance(stdin, str) else {"stdin": stdin}),
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={**os.environ, **given, **environment},
            timeout=120,
        )

    return run


def succeeded(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout


async def read_all(settings: Settings, events: int) -> list[tuple[bytes | None, bytes]]:
    """Return key and value of the first `events` records of the topic."""
    consumer = AIOKafkaConsumer(
        settings.interactions_topic,
        bootstrap_servers=settings.brokers,
        auto_offset_reset="earliest",
        group_id=None,
    )
    await consumer.start()
    try:
        found: list[tuple[bytes | None, bytes]] = []
        while len(found) < events:
            record = await consumer.getone()
            found.append((record.key, record.value))
        return found
    finally:
        await consumer.stop()


def test_migrate_makes_what_is_missing_and_only_that(
    command: Command, services: Services, settings: Settings
) -> None:
    names = {
        "INTERACTIONS_TOPIC": settings.interactions_topic + "-new",
        "DEAD_LETTER_TOPIC": settings.dead_letter_topic + "-new",
        "TOPIC_PARTITIONS": "3",
    }
    first = succeeded(command("migrate", **names))
    assert f"topic {names['INTERACTIONS_TOPIC']}: created, 3 partitions" in first
    assert f"topic {names['DEAD_LETTER_TOPIC']}: created, 3 partitions" in first
    again = succeeded(command("migrate", **names)).splitlines()
    assert f"topic {names['INTERACTIONS_TOPIC']}: exists, 3 partitions" in again
    assert "tables: up to date" in again
    weak = [line.split(": ")[1:3] for line in again if line.startswith("weak setting: ")]
    # The embedded broker tells no settings; Apache Kafka is one broker here.
    if isinstance(services.kafka, WheelBroker):
        assert weak == []
    else:
        topics = ("INTERACTIONS_TOPIC", "DEAD_LETTER_TOPIC")
        assert weak == [[f"topic {names[topic]}", "one replica"] for topic in topics]
    admin = KafkaAdminClient(bootstrap_servers=settings.brokers)
    try:
        (topic,) = admin.describe_topics([names["INTERACTIONS_TOPIC"]])
    finally:
        admin.close()
    assert len(topic["partitions"]) == 3


def test_a_catalog_comes_out_as_it_went_in(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "catalog.json"
    file.write_text(json.dumps(demo_catalog("acme")))
    first = succeeded(command("catalog", "import", str(file))).splitlines()
    assert first[0] == "tenant acme: version 1"
    assert "  offers: 20 added, 0 changed, 0 unchanged" in first
    exported = succeeded(command("catalog", "export", "--tenant", "acme"))
    assert json.loads(exported)["treatments"][0] == demo_catalog("acme")["treatments"][0]
    again = succeeded(command("catalog", "import", "-", stdin=exported)).splitlines()
    assert again[0] == "tenant acme: unchanged, version 1"
    assert "  treatments: 0 added, 0 changed, 40 unchanged" in again


def test_a_catalog_is_imported_also_while_redis_is_away(command: Command) -> None:
    done = command(
        "catalog", "import", "-", stdin='{"tenant": "a"}', REDIS_URL="redis://127.0.0.1:1"
    )
    assert succeeded(done).startswith("tenant a: version 1")
    assert done.stderr.startswith("note: imported, but Redis is unavailable")


@pytest.mark.anyio
async def test_a_zone_that_the_counters_do_not_have_is_noted(
    command: Command, settings: Settings
) -> None:
    """Events came first, so the tenant's counters are in UTC."""
    async with open_counters(settings) as counters:
        await counters.create("late", day=1, timezone="UTC", complete=True, watermarks=[])
    document = '{"tenant": "late", "timezone": "Asia/Tokyo"}'
    done = await asyncio.to_thread(command, "catalog", "import", "-", stdin=document)
    assert succeeded(done).startswith("tenant late: version 1")
    assert done.stderr.splitlines() == [
        "note: the counters of tenant late are in UTC and its catalog is in Asia/Tokyo; history "
        "answers until `interaction-summary rebuild --tenant late`"
    ]
    done = await asyncio.to_thread(command, "catalog", "import", "-", stdin='{"tenant": "late"}')
    assert len(done.stderr.splitlines()) == 1, "the zone of an earlier import stays"
    document = '{"tenant": "late", "timezone": "UTC"}'
    assert not (await asyncio.to_thread(command, "catalog", "import", "-", stdin=document)).stderr


@pytest.mark.anyio
async def test_load_ends_when_kafka_has_everything(command: Command, settings: Settings) -> None:
    options = (
        "--events",
        "3000",
        "--seed",
        "7",
        "--tenant",
        "t",
        "--tenants",
        "2",
        "--late",
        "0.1",
    )
    assert succeeded(command("load", *options)).startswith("3000 events acknowledged in ")
    state = json.loads(succeeded(command("status", "--json")))
    assert (state["lag"], state["historyLag"]) == (3_000, 3_000)
    decoder = Decoder(future_tolerance_s=300, event_bytes_max=1_048_576)
    now_ms = 4_000_000_000_000
    records = await read_all(settings, 3_000)
    events = [decoder.decode(value, now_ms) for _, value in records]
    assert all(isinstance(event, Event) for event in events)
    assert len({event.event_id for event in events if isinstance(event, Event)}) == 3_000
    assert {event.tenant for event in events if isinstance(event, Event)} == {"t", "t-2"}
    for (key, _), event in zip(records, events, strict=True):
        assert isinstance(event, Event)
        assert key == event.customer.encode()


@pytest.mark.anyio
@pytest.mark.parametrize("way", ["file", "stdin"])
async def test_load_sends_the_lines_of_a_file(
    command: Command, settings: Settings, tmp_path: Path, way: str
) -> None:
    lines = [
        json.dumps({"customerId": f"C-{i}", "timestamp": format_ms(1_574_553_600_000 + i)})
        for i in range(500)
    ]
    file = tmp_path / "events.jsonl.gz"
    file.write_bytes(gzip.compress("\n".join(lines).encode()))
    if way == "file":
        done = command("load", str(file), "--shift-to-now")
    else:
        done = command("load", "-", "--shift-to-now", stdin="\n".join(lines))
    assert succeeded(done).startswith("500 events acknowledged in ")
    records = await read_all(settings, 500)
    by_key = {key: json.loads(value)["timestamp"] for key, value in records}
    assert len(by_key) == 500
    times = sorted(by_key.values())
    assert times[0] > "2026"
    assert sorted(by_key, key=lambda key: by_key[key]) == [f"C-{i}".encode() for i in range(500)]


def test_load_says_when_there_is_no_topic(command: Command) -> None:
    done = command("load", INTERACTIONS_TOPIC="never-made")
    assert done.returncode == 1
    assert "'never-made' does not exist (run `migrate` first)" in done.stderr.splitlines()[-1]


def test_status_shows_what_is_there(command: Command) -> None:
    succeeded(command("load", "--events", "10"))
    shown = succeeded(command("status"))
    assert "history lag" in shown
    state = json.loads(succeeded(command("status", "--json")))
    assert list(state) == [
        "topic", "log", "lag", "historyLag", "waitingMs", "visible", "partitions",
        "lostOffsets", "logChanges", "tenants", "sizes", "errors", "at", "attention", "rebuilds",
        "failedRebuilds", "counterGaps", "historyGaps", "historyGapOffsets", "deadLetters",
        "newestDeadLetterAt", "quarantined", "newestQuarantinedAt",
    ]  # fmt: skip
    assert len(state["partitions"]) == PARTITIONS
    assert sum(partition["end"] for partition in state["partitions"]) == 10
    waits = [partition["waitingMs"] for partition in state["partitions"]]
    assert all(
        (wait > 0) == (p["lag"] > 0) for wait, p in zip(waits, state["partitions"], strict=True)
    )
    assert state["waitingMs"] == max(waits)
    assert "no event arrived and was counted in the last minute" in shown
    assert state["errors"] == {}
    assert state["sizes"]["redisBytes"] > 0
    assert state["sizes"]["historyBytes"] > 0


@pytest.mark.anyio
async def test_status_shows_how_soon_events_are_visible(
    command: Command, settings: Settings
) -> None:
    """The worst partition counts, as reported by the workers last."""
    topic = await describe_topic(settings, settings.interactions_topic)
    now_ms = time.time_ns() // 1_000_000
    client = make_client(settings, timeout_s=5, retries=0)
    try:
        await RedisCounters(client, settings.redis_prefix).reports.report_progress(
            [
                PartitionProgress(topic.topic_id, 0, 0, 0, now_ms, Visible(40, 90, 120)),
                PartitionProgress(topic.topic_id, 1, 0, 0, now_ms, Visible(50, 80, 1_100)),
                PartitionProgress(topic.topic_id, 2, 0, 0, now_ms),
            ]
        )
    finally:
        await client.aclose()
    assert "within 50 ms, 99% within 90 ms, all within 1,100 ms" in succeeded(command("status"))
    state = json.loads(succeeded(command("status", "--json")))
    assert state["visible"] == {"p50Ms": 50, "p99Ms": 90, "maxMs": 1_100}
    assert [partition["visible"] for partition in state["partitions"]] == [
        {"p50Ms": 40, "p99Ms": 90, "maxMs": 120},
        {"p50Ms": 50, "p99Ms": 80, "maxMs": 1_100},
        None,
        None,
    ]


def test_status_tells_which_store_is_away(command: Command) -> None:
    done = command("status", "--json", REDIS_URL="redis://127.0.0.1:1")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: Redis: ")
    state = json.loads(done.stdout)
    assert list(state["errors"]) == ["redis"]
    assert (state["lag"], state["historyLag"]) == (None, 0)


def test_a_rebuild_says_what_it_will_not_do(command: Command) -> None:
    done = command("rebuild", "--rollback", "--dry-run")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--dry-run" in done.stderr
    done = command("rebuild", "--rollback", "--since", "2026-11-20")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--since cannot be combined with --rollback" in done.stderr
    done = command("rebuild", "--since", "2026-11-20T08:00:00")
    assert (done.returncode, done.stdout) == (2, "")
    assert "has no offset from UTC" in done.stderr
    done = command("rebuild", "--tenant", "nobody")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: tenant nobody: has neither a history nor counters\n"


def test_history_that_was_lost_is_stored_again(command: Command, settings: Settings) -> None:
    succeeded(command("load", "--events", "300"))
    (line,) = succeeded(command("rebuild", "--history")).splitlines()
    assert line == "300 records read: 300 events stored, 0 were there, 0 rejected, 0 skipped"
    with psycopg.connect(settings.database_url, autocommit=True) as connection:
        connection.execute("TRUNCATE interaction_history, interaction_identities")
    done = command("rebuild", "--history", "--tenant", "nobody")
    assert "0 events stored" in succeeded(done)
    assert "300 of other tenants" in done.stdout
    done = command("rebuild", "--history")
    assert "300 events stored" in succeeded(done)
    phases = [json.loads(line)["phase"] for line in done.stderr.splitlines()]
    assert list(dict.fromkeys(phases)) == ["identities", "topic", "history"]
    assert "300 were there" in succeeded(command("rebuild", "--history"))


def test_a_refill_says_what_it_will_not_do(command: Command) -> None:
    done = command("rebuild", "--history", "--dry-run")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--history can be combined with --tenant only" in done.stderr


@pytest.mark.anyio
async def test_a_tenant_is_listed_and_removed(command: Command, settings: Settings) -> None:
    """The command says what it removed, and removes nothing without a yes."""
    succeeded(command("catalog", "import", "-", stdin=json.dumps(demo_catalog("acme"))))
    async with Stores(settings) as stores, open_counters(settings) as counters:
        await stores.store(some_events(7), None)
        for tenant in ("acme", "other"):
            await counters.create(tenant, day=TODAY, timezone="UTC", complete=True, watermarks=[])
    listed = json.loads(succeeded(command("tenants", "list", "--json")))["tenants"]
    first = {"generation": 1, "complete": True}
    assert listed == [
        {"tenant": "acme", "counters": first, "history": True, "catalog": True},
        {"tenant": "other", "counters": first, "history": False, "catalog": False},
    ]
    table = succeeded(command("tenants", "list"))
    assert "generation 1, complete" in table
    assert table.splitlines()[-1] == "2 tenants"
    refused = command("tenants", "remove", "acme")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith("error: --yes: needed")
    code, output = await asyncio.to_thread(at_a_terminal, command, "n\n")
    assert code == 1
    assert "Remove tenant acme: its counters and its catalog and its history of 7 events" in output
    assert "nothing is removed" in output
    assert "generation 1" in succeeded(command("tenants", "list"))
    kept = succeeded(command("tenants", "remove", "acme", "--yes")).splitlines()
    assert kept[0] == "tenant acme: removed"
    assert kept[1] == "  counters: 1 generation with 0 groups"
    assert kept[2].startswith("  catalog: 20 offers, ")
    assert kept[3] == "  history: 7 events are kept; --history removes them"
    code, output = await asyncio.to_thread(at_a_terminal, command, "y\n")
    assert code == 0, output
    assert "history: 7 events" in output
    unknown = command("tenants", "remove", "acme", "--yes")
    assert unknown.returncode == 2
    assert "acme has neither counters, nor a history, nor a catalog" in unknown.stderr
    assert succeeded(command("tenants", "list")).splitlines()[-1] == "1 tenants"


@pytest.mark.anyio
async def test_old_events_are_pruned_on_demand(command: Command, settings: Settings) -> None:
    """The command says what it would do and what it did, and does nothing without a yes."""
    old_ms = time.time_ns() // 1_000_000 - 150 * DAY_MS
    batch = [make_event(occurred_ms=old_ms) for _ in range(20)]
    prune = ("history", "prune", "--older-than")
    async with Stores(settings) as stores:
        await stores.history.write(
            topic="t",
            topic_id=LOG,
            partition=0,
            expected_offset=None,
            next_offset=20,
            events=sourced(*batch, recorded_ms=old_ms),
        )
    too_young = command(*prune, "62", "--yes")
    assert too_young.returncode == 2
    assert too_young.stderr.startswith("error: --older-than 62: at least 63 days")
    unasked = command(*prune, "100")
    assert (unasked.returncode, unasked.stdout) == (2, "")
    assert unasked.stderr.startswith("error: --yes: needed")
    without_counters = command(*prune, "100", "--yes")
    assert without_counters.returncode == 1
    assert "tenant acme: not pruned: it has no counters" in without_counters.stderr
    assert without_counters.stderr.splitlines()[-1] == "error: not pruned: acme"
    succeeded(command("rebuild", "--from", "history"))
    without_kafka = command(*prune, "100", "--yes", KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1")
    assert (without_kafka.returncode, without_kafka.stdout) == (1, "")
    assert "Kafka" in without_kafka.stderr, "what the topic holds is not known"
    dry = succeeded(command(*prune, "100", "--dry-run"))
    assert dry == "tenant acme: 20 events would be summed up\n"
    done = succeeded(command(*prune, "100", "--tenant", "acme", "--yes"))
    assert done == "tenant acme: 20 events are now 1 sum\n"
    again = succeeded(command(*prune, "100", "--yes"))
    assert again == "tenant acme: 0 events are now 0 sums\n"


def at_a_terminal(command: Command, answer: str) -> tuple[int, str]:
    """Remove `acme` with its history at a terminal; return the exit code and all output."""
    ours, theirs = pty.openpty()
    os.write(ours, answer.encode())
    done = command("tenants", "remove", "acme", "--history", stdin=theirs)
    os.close(ours)
    os.close(theirs)
    return done.returncode, done.stdout + done.stderr
