"""Gathering of the `status` report on real stores."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from typing import Any, NamedTuple

import pytest
from aiokafka import AIOKafkaProducer

from cli.status_document import GapStatus, ShortfallStatus, Status
from cli.status_report import gather_status, lag_of
from store.audit import AuditNote
from store.counters import PartitionProgress, Position
from store.offsets import Gap
from store.postgres.gaps import note_gaps
from store.postgres.pool import Pool, open_pool, transaction
from store.postgres.quarantine import Quarantine
from store.records import StoreUnavailable
from store.redis.client import open_client
from store.redis.counters import RedisCounters
from store.redis.owners import PartitionOwners, new_owner, worker_of
from store.settings import Settings
from streams.dead_letters.sink import KafkaDeadLetterSink
from streams.decode.timestamps import format_ms
from streams.kafka.producers import OutgoingRecord, open_producer
from streams.kafka.topic_id import TopicDescription, describe_topic
from streams.kafka.topic_size import TopicSize, topic_size
from tests.support.resources import PARTITIONS
from tests.support.services.base import Services
from tests.support.services.wheels import WheelBroker
from tests.support.status_reports import text_of

pytestmark = pytest.mark.anyio
RUN = "interaction-summary"
HOUR_MS = 3_600_000


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class StatusFixture(NamedTuple):
    """Stores of one test, and the interactions topic."""

    settings: Settings
    topic: TopicDescription
    counters: RedisCounters
    owners: PartitionOwners
    pool: Pool

    async def report(self) -> Status:
        return await gather_status(self.settings)

    async def problems(self) -> list[tuple[str, str]]:
        """Return problem and remedy of what needs attention."""
        return [(p.problem, p.remedy) for p in (await self.report()).attention]

    async def run_worker(self, **fields: Any) -> None:
        """Report what a worker reports that has counted everything."""
        await self.owners.claim(self.topic.topic_id, range(PARTITIONS), new_owner())
        await self.counters.reports.report_progress(
            [
                PartitionProgress(self.topic.topic_id, p, 0, 0, now_ms(), **fields)
                for p in range(PARTITIONS)
            ]
        )

    async def create(self, tenant: str, *, offset: int, complete: bool = True) -> None:
        """Create counters that have counted partition 2 of the topic up to `offset`."""
        today = now_ms() // (24 * HOUR_MS)
        await self.counters.create(
            tenant,
            day=today,
            timezone="UTC",
            complete=complete,
            watermarks=[Position(self.topic.topic_id, 2, offset)],
        )

    async def build(self, tenant: str, *, offset: int) -> Any:
        return await self.counters.build(
            tenant,
            day=now_ms() // (24 * HOUR_MS),
            timezone="UTC",
            token=f"token of {offset}",
            watermarks=[Position(self.topic.topic_id, 2, offset)],
        )


@pytest.fixture
async def fixture(settings: Settings) -> AsyncIterator[StatusFixture]:
    async with (
        open_client(settings, timeout_s=5, retries=0) as client,
        open_pool(settings, max_size=2) as pool,
    ):
        yield StatusFixture(
            settings,
            await describe_topic(settings, settings.interactions_topic),
            RedisCounters(client, settings.redis_prefix),
            PartitionOwners(client, settings.redis_prefix),
            pool,
        )


async def test_a_worker_is_named_with_its_rate(fixture: StatusFixture) -> None:
    assert await fixture.problems() == [
        (
            "no worker counts partitions 0, 1, 2, 3 (no report yet)",
            f"start workers: `{RUN} worker`",
        )
    ]
    await fixture.run_worker(offsets_per_s=12.5)
    report = await fixture.report()
    assert report.attention == []
    assert [p.owner for p in report.partitions] == [worker_of(new_owner())] * PARTITIONS
    assert [p.offsets_per_s for p in report.partitions] == [12.5] * PARTITIONS
    assert report.at >= (report.partitions[0].reported_at or "")
    assert text_of(report).startswith("nothing needs attention\n")

    # The same reports, later: the worker has ended.
    later = await gather_status(fixture.settings, now_ms=lambda: now_ms() + 600_000)
    assert [p.owner for p in later.partitions] == [None] * PARTITIONS
    assert [p.offsets_per_s for p in later.partitions] == [None] * PARTITIONS
    assert "no worker counts partitions 0, 1, 2, 3 (last report 10 min ago)" in text_of(later)


async def test_the_owner_is_the_process_that_was_assigned_the_partition(
    fixture: StatusFixture,
) -> None:
    sink = KafkaDeadLetterSink(
        fixture.settings, fixture.owners, Quarantine(fixture.pool), now_ms=now_ms
    )
    await sink.assign(fixture.topic.topic_id, [1, 3])
    await fixture.owners.claim("another topic", [0], new_owner())
    me = worker_of(new_owner())
    assert await fixture.owners.owners(fixture.topic.topic_id) == {1: me, 3: me}
    await sink.close()


async def test_counters_behind_after_a_swap(fixture: StatusFixture) -> None:
    await fixture.run_worker()
    await fixture.create("acme", offset=5_000)
    building = await fixture.build("acme", offset=3_800)
    replaced_ms = now_ms()
    await fixture.counters.swap(building, now_ms=replaced_ms, behind=True)
    report = await fixture.report()
    (tenant,) = report.tenants
    assert (tenant.generation, tenant.complete) == (2, False)
    assert tenant.missing.behind == [ShortfallStatus(fixture.topic.topic_id, 2, 3_800, 5_000)]
    kept_until = format_ms(replaced_ms + fixture.settings.generation_keep_h * HOUR_MS)
    assert [(each.number, each.state, each.kept_until) for each in tenant.generations] == [
        (1, "replaced", kept_until),
        (2, "active", None),
    ]
    assert await fixture.problems() == [
        (
            "tenant acme: generation 2 is catching up, 1,200 of 5,000 offsets to go "
            "(partition 2); history answers",
            "nothing: workers count them",
        )
    ]


async def test_the_ranks_of_customers_that_a_tenant_keeps(fixture: StatusFixture) -> None:
    await fixture.create("acme", offset=0)
    generation = await fixture.counters.generation("acme")
    assert generation is not None

    async def ranks() -> list[str]:
        (tenant,) = (await fixture.report()).tenants
        return list(tenant.customer_ranks)

    assert await ranks() == ["daily", "weekly", "monthly", "alltime"]
    await fixture.counters.ranks.drop(generation, ["daily", "monthly"])
    assert await ranks() == ["weekly", "alltime"]


async def test_counters_with_a_gap_and_counters_that_started_empty(fixture: StatusFixture) -> None:
    await fixture.run_worker()
    await fixture.create("acme", offset=0)
    await fixture.create("beta", offset=0, complete=False)
    generation = await fixture.counters.generation("acme")
    assert generation is not None
    topic_id = fixture.topic.topic_id
    assert await fixture.counters.note_gap(generation, Gap(topic_id, 1, 0, 1_100))
    await fixture.counters.reports.note_lost(topic_id, 1, 0, 1_100)
    report = await fixture.report()
    acme, beta = report.tenants
    assert acme.missing.gaps == [GapStatus(topic_id, 1, 0, 1_100)]
    assert (acme.missing.unproven, beta.missing.unproven) == (False, True)
    assert (report.counter_gaps, report.lost_offsets) == (1_100, 1_100)
    assert await fixture.problems() == [
        (
            "tenant acme: generation 1 lacks offsets 0 to 1,099 of partition 1, which history has; "
            "history answers",
            f"`{RUN} rebuild --tenant acme --from history`",
        ),
        (
            "tenant beta: generation 1 started empty, and history may have more; history answers",
            f"`{RUN} rebuild --tenant beta`, unless the topic has all of it: then wait",
        ),
    ]


async def test_a_rebuild_that_runs_and_what_one_has_left(fixture: StatusFixture) -> None:
    await fixture.run_worker()
    builds = fixture.counters.builds
    for tenant in ("acme", "beta"):
        await fixture.create(tenant, offset=0, complete=tenant != "acme")
        await fixture.build(tenant, offset=0)
    await builds.report_progress("acme", progress("acme"))
    failed = {
        "tenant": "gone",
        "phase": "failed",
        "source": "auto",
        "seconds": 1.5,
        "atMs": now_ms(),
    }
    await builds.report_end("gone", failed | {"reason": "tenant gone: has no history"})
    done = {"phase": "done", "generation": 1, "events": 7}
    await builds.report_end("beta", failed | {"tenant": "beta"} | done)
    report = await fixture.report()
    acme, beta = report.tenants
    assert [each.state for each in acme.generations] == ["active", "building"]
    assert [each.state for each in beta.generations] == ["active", "abandoned"]
    assert acme.last_rebuild is None
    assert beta.last_rebuild is not None
    assert (beta.last_rebuild.result, beta.last_rebuild.events) == ("done", 7)
    assert [(r.tenant, r.phase, r.done, r.total, r.eta_s) for r in report.rebuilds] == [
        ("acme", "history", 120, 500, 15.2)
    ]
    assert list(report.failed_rebuilds) == ["gone"]
    runs = "history, 24% (120 of 500 events), 25/s, 15 s left"
    unproven, lost = report.attention
    assert (unproven.tenants, unproven.remedy) == (["acme"], f"a rebuild runs: {runs}")
    assert "its last rebuild failed" in lost.problem
    assert "tenant gone: has no history" in lost.problem
    text = text_of(report)
    assert f"rebuild of tenant acme runs: {runs}" in text
    assert "tenant acme, generation 2, 0 events: being built" in text
    assert "tenant beta, generation 2, 0 events: left by a rebuild that has ended" in text


def progress(tenant: str) -> Mapping[str, Any]:
    return {
        "tenant": tenant,
        "phase": "history",
        "done": 120,
        "total": 500,
        "eventsPerS": 25.0,
        "lag": None,
        "etaS": 15.2,
        "atMs": now_ms(),
    }


async def test_drift_that_an_audit_noted(fixture: StatusFixture) -> None:
    await fixture.run_worker()
    await fixture.create("acme", offset=0)
    note = AuditNote(
        at_ms=now_ms() - 300_000,
        result="drift",
        groups=40,
        cells=3,
        source="worker",
        duration_s=0.1,
        generation=1,
        sample=20,
    )
    await fixture.counters.reports.note_audit("acme", note)
    (tenant,) = (await fixture.report()).tenants
    assert tenant.last_audit is not None
    assert (tenant.last_audit.result, tenant.last_audit.cells) == ("drift", 3)
    assert await fixture.problems() == [
        (
            "tenant acme: 3 counts differ from history (audit 5 min ago, in a sample)",
            f"`{RUN} audit --tenant acme --repair`",
        )
    ]


async def test_gaps_of_history(fixture: StatusFixture) -> None:
    await fixture.run_worker()
    topic_id = fixture.topic.topic_id
    async with transaction(fixture.pool) as connection:
        await note_gaps(connection, [Gap(topic_id, 0, 10, 30), Gap(topic_id, 0, 20, 40)])
    report = await fixture.report()
    assert report.history_gaps == [GapStatus(topic_id, 0, 10, 30), GapStatus(topic_id, 0, 20, 40)]
    assert report.history_gap_offsets == 30
    (problem,) = report.attention
    assert problem.problem.startswith("history lacks offsets 10 to 29 of partition 0 and")


async def test_dead_letters_are_counted_without_reading_them(fixture: StatusFixture) -> None:
    await fixture.run_worker()
    settings = fixture.settings
    empty = await topic_size(settings, settings.dead_letter_topic, now_ms=now_ms())
    assert empty == TopicSize(0, None)
    before_ms = now_ms()
    await send(settings, settings.dead_letter_topic, {0: 42})
    found = await topic_size(settings, settings.dead_letter_topic, now_ms=now_ms())
    assert (found.offsets, found.newest_ms is not None) == (42, True)
    report = await fixture.report()
    assert report.dead_letters == 42
    assert (report.newest_dead_letter_at or "") >= format_ms(before_ms - 1_000)
    ((problem, remedy),) = await fixture.problems()
    assert problem.startswith("dead letters: 42, the newest ")
    assert remedy.startswith(f"`{RUN} dlq list`")


async def test_the_lag_alone(fixture: StatusFixture) -> None:
    """`up` waits for a lag of 0, and asks for nothing else."""
    settings = fixture.settings
    assert await lag_of(settings) == 0
    await send(settings, settings.interactions_topic, {0: 3, 1: 2})
    assert await lag_of(settings) == 5 == (await fixture.report()).lag
    await fixture.counters.reports.report_progress(
        [PartitionProgress(fixture.topic.topic_id, 0, 3, 3, now_ms())]
    )
    assert await lag_of(settings) == 2
    with pytest.raises(StoreUnavailable):
        await lag_of(settings.model_copy(update={"redis_url": "redis://127.0.0.1:1"}))


async def test_timestamps_that_are_no_time_in_ms_are_not_shown(
    fixture: StatusFixture, services: Services
) -> None:
    """Producers set timestamps in s, in µs and in ns; such a record's age is not known."""
    if not isinstance(services.kafka, WheelBroker):
        pytest.skip("Apache Kafka 4 refuses such timestamps; the embedded broker takes them")
    settings, dlq = fixture.settings, fixture.settings.dead_letter_topic
    ns = now_ms() * 1_000_000
    async with AIOKafkaProducer(bootstrap_servers=settings.brokers) as producer:
        for partition, stamp in enumerate((0, ns // 10**9, ns // 10**3, ns)):
            for topic, to in ((settings.interactions_topic, partition), (dlq, 0)):
                await producer.send_and_wait(topic, b"x", partition=to, timestamp_ms=stamp)
    await fixture.run_worker()
    report = await fixture.report()
    assert [(p.lag, p.waiting_ms) for p in report.partitions] == [(1, None)] * PARTITIONS
    assert (report.dead_letters, report.newest_dead_letter_at) == (4, None)


async def send(settings: Settings, topic: str, records: Mapping[int, int]) -> None:
    """Send records to partitions: partition -> number."""
    producer = await open_producer(settings)
    try:
        await producer.send_all(
            topic,
            [
                OutgoingRecord(key=None, value=b"x" * 100, headers=(), partition=partition)
                for partition, n in records.items()
                for _ in range(n)
            ],
        )
    finally:
        await producer.stop()
