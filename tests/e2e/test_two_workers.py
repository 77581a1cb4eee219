"""Workers share the partitions of the topic, and one takes over those of another."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from store.settings import Settings
from tests.support import expected
from tests.support.answers import all_answers, all_pages
from tests.support.program import STOP_S, Process, Program, read_topic
from tests.support.services.base import Services, create_topics
from tests.support.waiting import eventually, eventually_async
from tests.support.worker_fixture import make_events, open_worker_fixture
from tests.support.worker_process import WorkerProcess

#: Events counted before one worker is stopped, and after that.
EACH = 5_000
TENANT = "acme"
#: Events of the worker that stands by, and then of the other one.
FEW = 100
#: Reports of one worker, which makes two a second.
REPORTS = 6


@pytest.mark.long
def test_a_worker_that_is_stopped_hands_over_all_its_partitions(
    services: Services, program: Program
) -> None:
    one, two = program.worker("one"), program.worker("two")
    eventually(lambda: shared(one, two), message="both workers have partitions")
    load = program.start(
        "load",
        *("load", "--events", "0", "--rate", "2000", "--duplicates", "0.01"),
        *("--tenant", TENANT, "--customers", "300", "--seed", "5"),
    )
    program.wait_for(counted=EACH, alive=[load, one, two])
    assert one.terminate(STOP_S) == 0
    eventually(
        lambda: len(assigned(two)) == 4,
        message="the other worker has all partitions",
    )
    program.wait_for(counted=program.counted() + EACH, alive=[load, two])
    load.terminate()
    records = read_topic(program.settings, program.settings.interactions_topic)
    assert f"{len(records)} events acknowledged" in load.log()
    program.wait_for(counted=len(records), stored=len(records), alive=[two])

    events = expected.distinct(record.value for record in records)
    assert len(events) < len(records), "some were sent twice"
    api = program.api()
    counters = all_answers(api, "materialized", TENANT, events, {})
    services.redis.stop()
    assert all_pages(api, "history", TENANT) == counters


@pytest.mark.long
@pytest.mark.anyio
async def test_a_worker_that_loses_its_only_partition_stands_by(
    settings: Settings, tmp_path: Path
) -> None:
    """It reported progress of that partition, and the new owner rewound twice a second."""
    topic = f"{settings.interactions_topic}.one"
    create_topics(settings.kafka_bootstrap_servers, {topic: 1})
    async with open_worker_fixture(
        settings, interactions_topic=topic, topic_partitions=1
    ) as fixture:
        await fixture.send(make_events(FEW))
        await fixture.wait_counted(FEW)
        # The partition goes to the member whose id is the first in the alphabet.
        owner = WorkerProcess("a-worker", fixture.settings, tmp_path)
        owner.start()
        try:
            await fixture.wait_logged("no partitions assigned")
            owner.mark_log()
            await fixture.send(make_events(FEW))
            await fixture.wait_counted(2 * FEW)
            seen: set[int] = set()

            async def reported() -> bool:
                """Return whether there are several reports, each of all events."""
                (progress,) = await fixture.counters.reports.progress()
                if progress.next_offset == 2 * FEW:
                    seen.add(progress.at_ms)
                return len(seen) > REPORTS

            await eventually_async(reported, message="reports of all events")
            assert "rewinding" not in owner.log_since_mark(), owner.log_tail()
        finally:
            owner.stop()


def assigned(worker: Process) -> set[int]:
    """Return the partitions of the worker's last assignment in its log."""
    lines = [json.loads(line) for line in worker.log().splitlines() if line.startswith("{")]
    starts = [line["starts"] for line in lines if line["event"] == "partitions assigned"]
    return {int(partition) for partition in starts[-1]} if starts else set()


def shared(one: Process, two: Process) -> bool:
    ours, theirs = assigned(one), assigned(two)
    return bool(ours and theirs) and not ours & theirs and len(ours | theirs) == 4
