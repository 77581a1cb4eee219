"""A worker that is killed while it counts loses no event and counts none twice."""

from __future__ import annotations

import json
import os

import pytest

from tests.support import expected
from tests.support.answers import all_answers, all_pages
from tests.support.program import Process, Program, read_topic
from tests.support.services.base import Services
from tests.support.waiting import eventually

#: With far fewer events the worker would have counted all before it is killed. The environment may
#: ask for more.
EVENTS = int(os.environ.get("CRASH_EVENTS") or 80_000)
TENANT = "acme"
#: Without remembered identities only the watermarks prevent that a redelivered event counts twice.
NOT_REMEMBERED = {"DEDUP_HORIZON_H": "0"}
#: While Postgres is frozen, the worker counts until the buffer is full, and no further: however
#: fast the machine is, events are left for the next worker.
BUFFER_EVENTS = 8_000
SETTINGS = NOT_REMEMBERED | {
    "HISTORY_BUFFER_EVENTS": str(BUFFER_EVENTS),
    "HISTORY_BATCH_EVENTS": "1000",
}
#: So many events are counted but not in history when the worker is killed: the buffer, less what
#: history may have stored between two looks.
REDELIVERED = 1_000


@pytest.mark.long
def test_events_redelivered_through_two_kills_count_once(
    services: Services, program: Program
) -> None:
    options = ("--tenant", TENANT, "--customers", "800", "--late", "0.2", "--seed", "11")
    output = program.run("load", "--events", str(EVENTS), *options, timeout_s=240)
    assert output.startswith(f"{EVENTS} events acknowledged"), output
    worker, stored = program.worker(**SETTINGS), 0
    for reached in (EVENTS // 8, EVENTS // 4):
        counted = kill_ahead_of_history(services, program, worker, reached=reached, stored=stored)
        assert counted < EVENTS, "the worker had counted all events before it was killed"
        worker = program.worker(**SETTINGS)
        stored = started_from(worker)  # history is behind the counters
        read_again = counted - stored
        assert read_again >= REDELIVERED, read_again
    program.wait_for(counted=EVENTS, stored=EVENTS, timeout_s=180, alive=[worker])

    api = program.api()
    sent = expected.distinct(
        r.value for r in read_topic(program.settings, program.settings.interactions_topic)
    )
    assert len(sent) == EVENTS, "each event has an identity of its own"
    counters = all_answers(api, "materialized", TENANT, sent, {})
    services.redis.stop()
    assert all_pages(api, "history", TENANT) == counters


def kill_ahead_of_history(
    services: Services, program: Program, worker: Process, *, reached: int, stored: int
) -> int:
    """Kill the worker while history is behind, and return how many events are counted.

    At least `reached` events are counted then, and history lacks about BUFFER_EVENTS of them, since
    Postgres is frozen. `stored`: events that were in history before this worker started. Postgres
    is frozen only when the worker has added to them: the worker cannot start without Postgres,
    where the catalogs are.
    """
    program.wait_for(counted=reached, stored=stored + 1, alive=[worker])
    stored_before = program.progress().stored
    services.postgres.pause()
    # At least `stored_before` + BUFFER_EVENTS will be counted. A few transactions may have been
    # stored between the look and the freeze.
    target = stored_before + BUFFER_EVENTS * 3 // 4
    eventually(lambda: program.counted() >= target, message=f"{target} counted")
    worker.kill()
    services.postgres.resume()
    return program.counted()


def started_from(worker: Process) -> int:
    """Return the sum of the offsets where the worker started to read, once it has logged them."""

    def logged() -> list[dict[str, int]]:
        lines = [json.loads(line) for line in worker.log().splitlines() if line.startswith("{")]
        return [line["starts"] for line in lines if line["event"] == "partitions assigned"]

    return sum(eventually(logged, message="partitions assigned")[0].values())
