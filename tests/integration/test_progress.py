"""Progress reports of a worker on real stores: what it notices without traffic."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from store.counters import PartitionProgress
from store.settings import Settings
from streams.arrival_watermarks import ArrivalWatermarks
from streams.assignment import CurrentTopic, Rewinder
from streams.progress import ProgressReporter
from tests.support.pipeline_fixture import PipelineFixture, open_pipeline, values_of
from tests.support.waiting import eventually_async
from tests.support.worker_fixture import make_events, now_ms

pytestmark = pytest.mark.anyio
END = 10


class QuietConsumer:
    """Consumer of one partition that is read to its end, `END`; counts the rewinds."""

    def __init__(self) -> None:
        self.seeks = 0

    async def perform_seek(self) -> None:
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
    await reporter.progress.report()
    assert (await reporter.reports.arrivals(reporter.topic_id))[0] >= before_ms
    await reporter.reports.report_progress(
        [PartitionProgress(reporter.topic_id, 0, END - 7, END, now_ms())]
    )
    await reporter.progress.report()
    assert await reporter.reports.arrivals(reporter.topic_id) == {0: 0}

    async def rewound() -> bool:
        return reporter.consumer.seeks == 1

    await eventually_async(rewound, message="a rewind")
    await reporter.progress.report()
    assert await reporter.reports.arrivals(reporter.topic_id) == {0: 0}
    reporter.arrivals.begin([0])
    await reporter.progress.report()
    assert (await reporter.reports.arrivals(reporter.topic_id))[0] >= before_ms
