"""A worker that is killed in the middle of its work counts nothing twice and loses nothing."""

from __future__ import annotations

import json
import os

import pytest

from tests.support import expected as plain
from tests.support.answers import all_answers, all_pages
from tests.support.program import Process, Program, read_topic
from tests.support.services.base import Services
from tests.support.waiting import eventually

#: More by the environment; with much fewer the worker is done before it can be killed.
EVENTS = int(os.environ.get("CRASH_EVENTS") or 200_000)
#: At least so many events are counted when the worker is killed, and not yet in history: the next
#: one reads them again.
REDELIVERED = EVENTS // 100
TENANT = "acme"
#: With no identities remembered, only the watermarks keep a redelivered event from counting twice.
NOT_REMEMBERED = {"DEDUP_HORIZON_H": "0"}


@pytest.mark.timeout(600)
def test_events_redelivered_through_two_kills_count_once(
    services: Services, program: Program
) -> None:
    options = ("--tenant", TENANT, "--customers", "800", "--late", "0.2", "--seed", "11")
    said = program.run("load", "--events", str(EVENTS), *options, timeout_s=240)
    assert said.startswith(f"{EVENTS} events acknowledged"), said
    worker, stored = program.worker(**NOT_REMEMBERED), 0
    for reached in (EVENTS // 8, EVENTS // 4):
        counted = killed_ahead_of_history(services, program, worker, reached, stored)
        assert counted < EVENTS, "it had counted all already when it was killed"
        worker = program.worker(**NOT_REMEMBERED)
        stored = started_from(worker)  # history is what is behind
        read_again = counted - stored
        assert read_again >= REDELIVERED, read_again
    program.wait_for(counted=EVENTS, stored=EVENTS, timeout_s=180, alive=[worker])

    api = program.api()
    events = plain.distinct(
        r.value for r in read_topic(program.settings, program.settings.interactions_topic)
    )
    assert len(events) == EVENTS, "each event has an identity of its own"
    counters = all_answers(api, "materialized", TENANT, events, {})
    services.redis.stop()
    assert all_pages(api, "history", TENANT) == counters


def killed_ahead_of_history(
    services: Services, program: Program, worker: Process, reached: int, stored: int
) -> int:
    """Kills the worker when `reached` events and more are counted, the last REDELIVERED of which
    cannot be in history: Postgres is frozen by then. Returns how many were counted at least.
    `stored`: events that were in history before this worker, which must have begun to work: without
    Postgres it cannot begin, as it has no catalogs."""
    program.wait_for(counted=reached, stored=stored + 1, timeout_s=120, alive=[worker])
    services.postgres.pause()
    before = program.counted()
    # The worker says twice a second how far it is, so what is read first may be from before the
    # freeze; and the transaction under way may still end well.
    eventually(lambda: program.counted() > before, message="a word of it")
    frozen_at = program.counted()
    target = frozen_at + program.settings.history_batch_events + REDELIVERED
    eventually(lambda: program.counted() >= target, message=f"{target} counted")
    worker.kill()
    services.postgres.resume()
    return program.counted()


def started_from(worker: Process) -> int:
    """The offsets that the worker first read from, all partitions together, once it says so."""

    def said() -> list[dict[str, int]]:
        lines = [json.loads(line) for line in worker.log().splitlines() if line.startswith("{")]
        return [line["starts"] for line in lines if line["event"] == "partitions assigned"]

    return sum(eventually(said, timeout_s=60, message="partitions assigned")[0].values())
