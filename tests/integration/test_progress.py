"""Progress reports of a worker on real stores: what it notices without traffic."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from structlog.testing import capture_logs

from store.counters import Activated, Floor, Generation, PartitionProgress
from store.offsets import Gap
from store.records import StoreUnavailable
from store.redis.counters import RedisCounters
from store.settings import Settings
from store.windows import Calendar
from streams import rollover as rollovers
from streams.activations import ActivationWatch
from streams.arrival_watermarks import ArrivalWatermarks
from streams.assignment import CurrentTopic, Rewinder
from streams.progress import ProgressReporter
from streams.rollover import Rollover
from streams.tenant_state import RewindRequired
from tests.support.pipeline_fixture import PipelineFixture, open_pipeline, values_of
from tests.support.waiting import eventually_async
from tests.support.worker_fixture import make_events, now_ms

pytestmark = pytest.mark.anyio
END = 10


class QuietConsumer:
    """Consumer of one partition that is read to its end, `END`; counts the rewinds."""

    def __init__(self) -> None:
        self.seeks = 0

    async def seek_again(self) -> None:
        self.seeks += 1

    async def earliest(self, partitions: int) -> dict[int, int]:
        return dict.fromkeys(range(partitions), 0)

    async def offset_at(self, partition: int, at_ms: int) -> int:
        return 0

    async def request_rejoin(self) -> None:
        raise AssertionError("this worker has a partition")

    def end_offset(self, partition: int, committed_through: int) -> int | None:
        return END


class ReporterFixture:
    """Reporter and rewinder of a worker that has counted everything, and its parts."""

    def __init__(self, fixture: PipelineFixture) -> None:
        self.pipeline = fixture
        self.topic_id = fixture.topic_id
        self.reports = fixture.counters.reports
        self.consumer = QuietConsumer()
        self.arrivals = ArrivalWatermarks()
        self.rewinder = Rewinder(lambda: self.consumer, on_rewind=self.arrivals.suspend)
        self.progress = ProgressReporter(
            topic=CurrentTopic(fixture.topic_id, 1),
            consumer=lambda: self.consumer,
            counters=fixture.counters,
            committer=fixture.committer,
            pipeline=fixture.pipeline,
            arrivals=self.arrivals,
            now_ms=now_ms,
            on_behind=self.rewinder.on_error,
        )


@pytest.fixture
async def reporter(settings: Settings) -> AsyncIterator[ReporterFixture]:
    async with open_pipeline(settings) as fixture:
        await fixture.process(0, values_of(make_events(END)))
        yield ReporterFixture(fixture)


async def test_no_arrival_watermark_is_reported_once_redis_is_known_to_be_behind(
    reporter: ReporterFixture,
) -> None:
    """The records that Redis lost are read again: identities of their time are still needed."""
    before_ms = now_ms()
    reporter.progress.begin_session("one")
    await reporter.progress.report()
    assert (await reporter.reports.arrivals(reporter.topic_id))[0] >= before_ms
    floors = {0: Floor(END, END, "one")}
    assert await reporter.pipeline.counters.floors(reporter.topic_id) == floors
    await reporter.reports.report_progress(
        [PartitionProgress(reporter.topic_id, 0, END - 7, END, now_ms())]
    )
    await reporter.pipeline.counters.report_floors(reporter.topic_id, {0: Floor(0, 0, "")})
    await reporter.progress.report()
    assert await reporter.reports.arrivals(reporter.topic_id) == {0: 0}
    floors = {0: Floor(0, 0, "")}
    assert await reporter.pipeline.counters.floors(reporter.topic_id) == floors, "none is written"

    async def rewound() -> bool:
        return reporter.consumer.seeks == 1

    await eventually_async(rewound, message="a rewind")
    await reporter.progress.report()
    assert await reporter.reports.arrivals(reporter.topic_id) == {0: 0}
    reporter.arrivals.begin([0])
    await reporter.progress.report()
    assert (await reporter.reports.arrivals(reporter.topic_id))[0] >= before_ms


async def test_the_rate_of_counting_is_reported(reporter: ReporterFixture) -> None:
    await reporter.progress.report()
    (first,) = await reporter.reports.progress()
    assert first.offsets_per_s is None, "one sample"

    async def counted() -> bool:
        return now_ms() > first.at_ms

    await eventually_async(counted, message="the clock moves")
    await reporter.pipeline.process(1, values_of(make_events(END)))
    await reporter.progress.report()
    (last,) = await reporter.reports.progress()
    passed_s = (last.at_ms - first.at_ms) / 1_000
    assert last.offsets_per_s == pytest.approx(END / passed_s, rel=0.01)


async def test_an_activation_is_noticed_once_without_traffic(reporter: ReporterFixture) -> None:
    """The generation that another process activates has counted nothing: the topic is read again.

    The rewind reads all generations, so it is asked for once. A later one that has as much is
    adopted without a rewind.
    """
    counters, committer = reporter.pipeline.counters, reporter.pipeline.committer
    topic = CurrentTopic(reporter.topic_id, 1)
    rollover = Rollover(counters, committer, topic, now_ms=now_ms)
    watch = ActivationWatch(counters, committer.tenants, rollover)
    await watch.check_activations()
    await rollover.roll_tenants()
    assert list(rollover._rolled) == ["acme"]
    building = await build(counters, token="empty")
    assert isinstance(await counters.swap(building, now_ms=now_ms(), behind=True), Activated)
    with pytest.raises(RewindRequired):
        await watch.check_activations()
    assert list(rollover._rolled) == []
    await watch.check_activations()
    assert await counters.rollback("acme", now_ms=now_ms()) is not None
    with capture_logs() as logged:
        await watch.check_activations()
        await watch.check_activations()
    assert (await committer.tenants.get("acme")).generation.number == 1
    assert [entry["event"] for entry in logged] == []


async def test_two_tenants_activated_at_once_are_both_found(reporter: ReporterFixture) -> None:
    await asyncio.gather(*(reporter.reports.note_activation(name) for name in ("a", "b")))
    found = await reporter.reports.activations_since(0)
    assert set(found) == {"a", "b"}
    assert set(await reporter.reports.activations_since(min(found.values()))) == {"a", "b"}
    assert await reporter.reports.activations_since(max(found.values()) + 1) == {}


async def build(counters: RedisCounters, *, token: str) -> Generation:
    day = Calendar("UTC").day_of(now_ms())
    return await counters.build("acme", day=day, timezone="UTC", token=token, watermarks=[])


async def test_counters_that_only_a_rebuild_completes_are_checked_seldom(
    reporter: ReporterFixture,
) -> None:
    """Each check asks Postgres; the loop that checks also rolls all tenants at midnight."""
    counters, committer = reporter.pipeline.counters, reporter.pipeline.committer
    topic = CurrentTopic(reporter.topic_id, 1)
    rollover = Rollover(counters, committer, topic, now_ms=now_ms)
    generation = await counters.generation("acme")
    assert generation is not None
    beyond = Gap(reporter.topic_id, 0, END, 2 * END)
    assert await counters.note_gap(generation, beyond)
    await rollover.roll_tenants()
    assert list(rollover._rolled) == ["acme"], "history has not passed the gap"
    assert await counters.close_gaps(generation, [beyond])
    await rollover.forget_rolled()
    await rollover.roll_tenants()
    assert list(rollover._rolled) == ["acme"]


async def test_tenants_are_rolled_while_history_is_away(reporter: ReporterFixture) -> None:
    """The first tenant in order is not complete, and only Postgres knows whether it is."""
    counters, committer = reporter.pipeline.counters, reporter.pipeline.committer
    today = Calendar("UTC").day_of(now_ms())
    for tenant, complete in (("aaa", False), ("zzz", True)):
        await counters.create(
            tenant, day=today - 1, timezone="UTC", complete=complete, watermarks=[]
        )
    rollover = Rollover(counters, committer, CurrentTopic(reporter.topic_id, 1), now_ms=now_ms)
    await reporter.pipeline.pool.close()
    with pytest.raises(StoreUnavailable):
        await rollover.roll_tenants()
    rolled = await counters.generation("zzz")
    assert rolled is not None
    assert (rolled.day, rolled.rolled) == (today, today)


async def test_tenants_are_looked_at_again_in_turns(
    reporter: ReporterFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With thousands of tenants, a look at all of them is a burst of as many reads."""
    monkeypatch.setattr(rollovers, "FORGET_MAX", 2, raising=False)
    counters, committer = reporter.pipeline.counters, reporter.pipeline.committer
    day = Calendar("UTC").day_of(now_ms())
    for tenant in "bcde":
        await counters.create(tenant, day=day, timezone="UTC", complete=True, watermarks=[])
    rollover = Rollover(counters, committer, CurrentTopic(reporter.topic_id, 1), now_ms=now_ms)
    await rollover.roll_tenants()
    every = {"acme", *"bcde"}
    assert set(rollover._rolled) == every
    looked_at: set[str] = set()
    for _ in range(3):
        await rollover.forget_rolled()
        forgotten = every - set(rollover._rolled)
        assert len(forgotten) == 2
        looked_at |= forgotten
        await rollover.roll_tenants()
        assert set(rollover._rolled) == every
    assert looked_at == every
