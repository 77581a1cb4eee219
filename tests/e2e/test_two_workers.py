"""Workers share the partitions of the topic, and take over from each other."""

from __future__ import annotations

import json

from tests.support import expected as plain
from tests.support.answers import all_answers, all_pages
from tests.support.program import STOP_S, Process, Program, read_topic
from tests.support.services.base import Services
from tests.support.waiting import eventually

#: Events counted before the one is told to stop, and after that.
EACH = 5_000
TENANT = "acme"


def test_a_worker_that_is_told_to_stop_hands_over_all_it_had(
    services: Services, program: Program
) -> None:
    one, two = program.worker("one"), program.worker("two")
    eventually(lambda: shared(one, two), timeout_s=60, message="both have partitions")
    load = program.start(
        "load",
        *("load", "--events", "0", "--rate", "2000", "--duplicates", "0.01"),
        *("--tenant", TENANT, "--customers", "300", "--seed", "5"),
    )
    program.wait_for(counted=EACH, alive=[load, one, two])
    assert one.terminate(STOP_S) == 0
    eventually(lambda: len(assigned(two)) == 4, timeout_s=60, message="the other has all")
    program.wait_for(counted=program.counted() + EACH, alive=[load, two])
    load.terminate()
    records = read_topic(program.settings, program.settings.interactions_topic)
    assert f"{len(records)} events acknowledged" in load.log()
    program.wait_for(counted=len(records), stored=len(records), alive=[two])

    events = plain.distinct(record.value for record in records)
    assert len(events) < len(records), "some were sent twice"
    api = program.api()
    counters = all_answers(api, "materialized", TENANT, events, {})
    services.redis.stop()
    assert all_pages(api, "history", TENANT) == counters


def assigned(worker: Process) -> set[int]:
    """The partitions that the worker last said it has."""
    lines = [json.loads(line) for line in worker.log().splitlines() if line.startswith("{")]
    said = [line["starts"] for line in lines if line["event"] == "partitions assigned"]
    return {int(partition) for partition in said[-1]} if said else set()


def shared(one: Process, two: Process) -> bool:
    ours, theirs = assigned(one), assigned(two)
    return bool(ours and theirs) and not ours & theirs and len(ours | theirs) == 4
