"""The cases of the runbook: each is caused, then its own commands are run as they are written.

The cases share one worker and one API, in any order: processes of a test run divide them among
each other. Each begins and ends with exact answers, and sets up what it needs from an earlier one.
"""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Iterator

import msgspec
import psycopg
import pytest
from kafka import TopicPartition
from kafka.admin import KafkaAdminClient
from psycopg.conninfo import make_conninfo

from tests.support.program import Process
from tests.support.resources import make_settings, make_topics
from tests.support.runbook_scene import OWN_TYPE, TENANT, Scene, some_events
from tests.support.services.base import Services, revive
from tests.support.topics import read_ends
from tests.support.waiting import eventually

pytestmark = pytest.mark.long

needs_retention = "the embedded broker keeps no retention; CI tests Apache Kafka"


@pytest.fixture(scope="module")
def scenes(
    services: Services, _template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[Scene]]:
    opened: list[Scene] = []
    yield opened
    for scene in opened:
        scene.close()


@pytest.fixture
def scene(
    scenes: list[Scene],
    services: Services,
    _template: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Scene:
    """Return the scene of the earlier cases, or a new one after a failure."""
    if not scenes or scenes[-1].retired:
        for old in scenes:
            old.close()
        for service in (services.kafka, services.redis, services.postgres):
            revive(service)
        name = f"runbook_{uuid.uuid4().hex[:8]}"
        with psycopg.connect(services.postgres.url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {_template}".encode())
        kafka = services.kafka.bootstrap
        database = make_conninfo(services.postgres.url, dbname=name)
        settings = make_settings(kafka, services.redis.url, database, make_topics(kafka))
        scenes.append(Scene(settings, services, tmp_path_factory.mktemp("runbook")))
    scenes[-1].retire()  # unless the case comes to its end
    return scenes[-1]


# --- tenants


def test_a_tenant_must_go(scene: Scene) -> None:
    scene.write_catalog(offers=[{"id": "off_1", "name": "One"}])
    scene.program.run("catalog", "import", "acme.json")
    scene.send(some_events(100))
    scene.wait_exact()
    with scene.case("A tenant must go") as guide:
        events = len(scene.counted)
        scene.retract(scene.counted)
        scene.catalog = {}
        removed = guide.run()
        assert TENANT in removed.partition("tenant acme: removed")[0]
        assert re.search(r"\b\d+ generations? with \d+ groups", removed)
        assert " 1 offers" in removed and f" {events} events" in removed
        scene.wait_exact("history")
        assert scene.status()["tenants"] == []
        guide.run()
        scene.send(some_events(30))
        scene.wait_exact()


# --- catalogs


def test_an_outcome_type_is_registered_late(scene: Scene) -> None:
    scene.write_catalog()
    scene.send(some_events(200))
    scene.wait_exact()
    with scene.case("An outcome type is registered late") as guide:
        late = some_events(40, outcome=OWN_TYPE)
        scene.send(late, counts=False)
        scene.wait_exact()
        scene.wait_dead_letters(40)
        scene.write_catalog(outcomeTypes=[own_type("positive")])
        scene.will_count(late)
        assert "40 sent" in guide.run()
        scene.wait_exact()


def test_records_are_quarantined(scene: Scene) -> None:
    scene.sql(
        "INSERT INTO quarantined_records "
        "VALUES (gen_random_uuid(), %s, 0, 17, 18, NULL, 'malformed', 'not sent: too large', "
        "2, '', 'ab') RETURNING 1",
        scene.settings.interactions_topic,
    )
    with scene.case("Records are quarantined") as guide:
        shown = guide.run()
        assert "1 quarantined records: 1 malformed" in shown
        assert "error    not sent: too large" in shown
        assert scene.status()["quarantined"] == 1
        guide.run()
        assert scene.status()["quarantined"] == 0


def test_an_outcome_type_is_reclassified(scene: Scene) -> None:
    scene.write_catalog(outcomeTypes=[own_type("positive")])
    scene.program.run("catalog", "import", "acme.json")
    scene.send(some_events(50, outcome=OWN_TYPE))
    scene.wait_exact()
    with scene.case("An outcome type is reclassified") as guide:
        before = scene.expected("action")
        scene.write_catalog(outcomeTypes=[own_type("negative")])
        assert scene.expected("action") != before
        guide.run()
        scene.wait_exact(timeout_s=5)


def own_type(classification: str) -> dict[str, str]:
    return {
        "key": OWN_TYPE,
        "name": "Saved",
        "classification": classification,
        "category": "response",
    }


def test_a_tenant_registers_its_catalog_late(scene: Scene) -> None:
    scene.write_catalog(outcomeTypes=[own_type("negative")])
    scene.program.run("catalog", "import", "acme.json")
    scene.write_catalog(outcomeTypes=[own_type("negative"), own_type("neutral") | {"key": "later"}])
    scene.send(some_events(20))
    scene.wait_exact()
    with scene.case("A tenant registers its catalog late") as guide:
        late = some_events(30, outcome="later")
        scene.send(late, counts=False)
        scene.wait_exact()
        scene.wait_dead_letters(30)
        scene.write_catalog(timezone="Europe/Berlin", offers=[{"id": "off_1", "name": "One"}])
        scene.will_count(late)
        assert "timezone" in guide.run()
        scene.wait_exact()
        assert scene.status()["tenants"][0]["timezone"] == "Europe/Berlin"


def test_a_tenant_moves_to_another_time_zone(scene: Scene) -> None:
    scene.send(some_events(50))
    scene.wait_exact()
    with scene.case("A tenant moves to another time zone") as guide:
        scene.write_catalog(timezone="Asia/Kolkata")
        guide.run()
        scene.wait_exact()
        assert scene.status()["tenants"][0]["timezone"] == "Asia/Kolkata"


# --- the topic


def test_the_topic_was_recreated(scene: Scene) -> None:
    scene.send(some_events(300))
    scene.wait_exact()
    with scene.case("The topic was recreated") as guide:
        delete_topic(scene)
        guide.run()  # a worker may have noticed it by then, or not
        scene.send(some_events(200))
        scene.wait_exact()
        assert "recreated" in scene.program.run("status")
        assert "all equal" in guide.run()


def delete_topic(scene: Scene) -> None:
    admin = KafkaAdminClient(bootstrap_servers=scene.settings.brokers)
    topic = scene.settings.interactions_topic
    admin.delete_topics([topic])
    eventually(lambda: topic not in set(admin.list_topics()), message="topic deleted")
    admin.close()


# --- Redis


def test_redis_was_emptied(scene: Scene) -> None:
    """The topic no longer has all events, as after retention."""
    scene.send(some_events(300))
    scene.wait_exact()
    scene.forget_beginning()
    with scene.case("Redis was emptied") as guide:
        scene.redis.flushall()
        scene.wait_logged("counters start empty though the tenant has history")
        assert "history" in guide.run()
        scene.wait_exact("history")
        guide.run()
        scene.wait_exact()


def test_redis_was_restored_from_an_old_backup(scene: Scene, services: Services) -> None:
    """First the topic has what the backup lacks; then it was recreated, and only history has it."""
    if services.kind == "docker":
        pytest.skip("reaches into the files of Redis, which are in a container here")
    scene.send(some_events(100))
    scene.wait_exact()
    backup = scene.copy_redis()
    scene.send(some_events(300))
    scene.wait_exact()
    with scene.case("Redis was restored from an old backup") as guide:
        scene.restore_redis(backup)
        scene.wait_logged("rewinding to read again what a store lacks")
        scene.wait_exact()
        assert "all equal" in guide.run()
        backup = scene.copy_redis()
        scene.send(some_events(100))
        scene.wait_exact()
        delete_topic(scene)
        scene.program.run("migrate")
        scene.send(some_events(50))
        scene.wait_exact()
        scene.restore_redis(backup)
        scene.wait_logged("counters lack events of a topic that was replaced")
        scene.wait_exact("history")
        assert "all equal" in guide.run()
        scene.wait_exact()


def test_redis_evicted_keys(scene: Scene) -> None:
    """The answers are wrong until the audit, as the runbook says: no reader is judged before."""
    scene.send(some_events(100))
    scene.wait_exact()
    with scene.case("Redis evicted keys") as guide:
        scene.lose()
        prefix = f"{scene.settings.redis_prefix}:{{{TENANT}/0}}:"
        number = scene.redis.get(f"{prefix}active").decode()
        assert scene.redis.delete(f"{prefix}{number}:a:off_1", f"{prefix}{number}:u:C-3") == 2
        assert "off_1" in guide.run()
        guide.run()
        scene.wait_exact()


def test_counters_drifted(scene: Scene) -> None:
    scene.send(some_events(100))
    scene.wait_exact()
    with scene.case("Counters drifted") as guide:
        scene.lose()
        prefix = f"{scene.settings.redis_prefix}:{{{TENANT}/0}}:"
        number = scene.redis.get(f"{prefix}active").decode()
        assert scene.redis.delete(f"{prefix}{number}:a:off_1") == 1
        assert "off_1" in guide.run()
        assert "all equal" in guide.run()
        scene.wait_exact()


# --- PostgreSQL


def test_postgres_was_restored_from_an_old_backup(scene: Scene) -> None:
    scene.write_catalog(offers=[{"id": "off_1", "name": "Old"}])
    scene.program.run("catalog", "import", "acme.json")
    scene.send(some_events(100))
    scene.wait_exact()
    scene.copy_database("backup")
    scene.write_catalog(offers=[{"id": "off_1", "name": "New"}])
    scene.program.run("catalog", "import", "acme.json")
    scene.send(some_events(300))
    scene.wait_exact()
    with scene.case("PostgreSQL was restored from an old backup") as guide:
        scene.stop_worker()
        scene.restore_database("backup")
        guide.run()
        scene.start_worker()
        scene.wait_exact()
        guide.run()
        scene.wait_exact()


# --- alerts


def test_when_an_alert_fires(scene: Scene) -> None:
    scene.send(some_events(20))
    scene.wait_exact()
    with scene.case("When an alert fires") as guide:
        scene.send(some_events(3, outcome="never_registered"), counts=False)
        scene.wait_dead_letters(3)
        scene.wait_exact()
        attention, _, rest = guide.run().partition("partition")
        assert attention.startswith("needs attention") and "dead letters: " in attention
        assert TENANT in rest


# --- rebuilds


def test_a_rebuild_was_interrupted(scene: Scene) -> None:
    scene.send(some_events(200))
    scene.wait_exact()
    with scene.case("A rebuild was interrupted") as guide:
        rebuild: Process = scene.program.start("rebuild", "rebuild", "--rate", "20")
        building = f"{scene.settings.redis_prefix}:{{{TENANT}/0}}:*:meta"

        def begun() -> bool:
            return any(
                scene.redis.hexists(key, "building") for key in scene.redis.scan_iter(building)
            )

        eventually(begun, message="the rebuild has begun")
        rebuild.kill()
        scene.wait_exact()
        assert "dropped generation" in guide.run()
        scene.wait_exact()


def test_a_rebuild_was_a_mistake(scene: Scene) -> None:
    scene.send(some_events(50))
    scene.wait_exact()
    scene.program.run("rebuild")
    scene.send(some_events(50))
    scene.wait_exact()
    with scene.case("A rebuild was a mistake") as guide:
        assert "back at generation" in guide.run()
        scene.wait_exact()


# --- wrong events: the last case of a scene, since the topic keeps them


def test_wrong_events_were_published(scene: Scene) -> None:
    wrong = some_events(120, offer="off_wrong")
    scene.send(wrong)
    scene.wait_exact()
    with scene.case("Wrong events were published") as guide:
        scene.retract(wrong)
        assert "120" in guide.run()
        assert "-120 since" in guide.run()
        guide.run()
        scene.wait_exact()
        right = [msgspec.structs.replace(event, offer="off_2") for event in wrong[20:]]
        scene.send(right)
        scene.wait_exact()
        assert "all equal" in scene.program.run("audit")
    # As the runbook warns: the topic still has them. The right ones of the same ids stay.
    scene.lose()
    scene.program.run("rebuild", "--tenant", TENANT)
    rows = scene.ask(scene.api.client, "action").json()["summary"]
    assert {row["id"]: row["total"] for row in rows}["off_wrong"] == 20
    scene.retire()


# --- Apache Kafka only


def test_retention_passed_before_events_were_counted(scene: Scene, services: Services) -> None:
    """First neither store has the events; then Redis is restored, and history has them."""
    if services.kind != "real":
        pytest.skip(needs_retention)
    scene.send(some_events(300), partition=1)
    scene.wait_exact()
    backup = scene.copy_redis()
    with scene.case("Retention passed before events were counted") as guide:
        scene.stop_worker()
        scene.send(some_events(100), partition=1, counts=False)
        delete_before_end(scene, 1)
        scene.start_worker()
        scene.send(some_events(50), partition=1)
        scene.wait_logged("retention took offsets that neither store has")
        scene.wait_exact()
        assert scene.status()["lostOffsets"] == 100
        scene.stop_worker()
        delete_before_end(scene, 1)
        scene.restore_redis(backup)
        scene.start_worker()
        scene.send(some_events(50), partition=1)
        scene.wait_logged("counters lack offsets that retention took, and history has them")
        scene.wait_exact("history")
        assert "all equal" in guide.run()
        scene.wait_exact()
        scene.send(some_events(50), partition=1)
        scene.wait_exact()


def test_retention_passed_before_events_were_stored(scene: Scene, services: Services) -> None:
    """PostgreSQL is restored from a backup that is older than the topic's first record."""
    if services.kind == "wheels":
        pytest.skip(needs_retention)
    scene.send(some_events(100), partition=1)
    scene.wait_exact()
    scene.copy_database("old")
    scene.send(some_events(150), partition=1)
    scene.wait_exact()
    scene.copy_database("newer")
    newer = scene.database_url("newer")
    with scene.case("Retention passed before events were stored", NEWER_BACKUP_URL=newer) as guide:
        scene.stop_worker()
        scene.restore_database("old")
        delete_before_end(scene, 1)
        scene.start_worker()
        scene.send(some_events(50), partition=1)
        scene.wait_logged("history lacks offsets that retention took")
        scene.wait_exact(unstored=150)
        refusal = guide.run()
        assert "counts would be lost" in refusal and "150 offsets" in refusal
        scene.wait_exact(unstored=150)
        assert "the counters may be the only copy" in guide.run()
        scene.wait_exact(unstored=150)
        assert "all equal" in guide.run()
        scene.wait_exact()


def test_the_topic_was_truncated(scene: Scene, services: Services) -> None:
    """The broker restarts without a partition's data, as after the loss of a disk."""
    if services.kind != "real":
        pytest.skip("reaches into the files of Apache Kafka")
    scene.send(some_events(200), partition=2)
    scene.wait_exact()
    with scene.case("The topic was truncated") as guide:
        services.kafka.stop()
        topic = scene.settings.interactions_topic
        folder = services.kafka.data_folder / f"{topic}-2"  # type: ignore[attr-defined]
        for file in folder.iterdir():
            if file.suffix in {".log", ".index", ".timeindex", ".snapshot"}:
                file.unlink()
        services.kafka.start()
        scene.send(some_events(20), partition=2)
        scene.wait_logged("the partition was truncated")
        scene.wait_exact()
        assert "truncated" in guide.run()
        assert "not compared" in guide.run()


def delete_before_end(scene: Scene, partition: int) -> None:
    """Delete all records of the partition, as retention does."""
    end = asyncio.run(read_ends(scene.settings, scene.settings.interactions_topic))[partition]
    admin = KafkaAdminClient(bootstrap_servers=scene.settings.brokers)
    admin.delete_records({TopicPartition(scene.settings.interactions_topic, partition): end})
    admin.close()
