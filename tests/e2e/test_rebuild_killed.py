"""A rebuild that is killed or interrupted leaves the live counters as they were."""

from __future__ import annotations

import random
import signal

import pytest
import redis

from store.redis.keys import Keys
from tests.support import expected
from tests.support.answers import all_answers, all_pages
from tests.support.program import Api, Process, Program, read_topic
from tests.support.rebuilds import (
    generations,
    kill_after,
    progress_of,
    start_rebuild,
    wait_until_under_way,
)

TENANT = "acme"
SOURCES = ("topic", "history", "auto")
EVENTS = 20_000
#: A rebuild takes two to three seconds at this rate: time to end it in the middle.
RATE = 8_000
KILLS = 4
LOAD = ("--tenant", TENANT, "--customers", "600", "--late", "0.1", "--duplicates", "0.02")


def start_counting(program: Program) -> tuple[Process, Api]:
    """Start a worker and an API, and count and store EVENTS."""
    program.run("load", "--events", str(EVENTS), *LOAD, "--seed", "3")
    worker, api = program.worker(), program.api()
    program.wait_for(counted=EVENTS, stored=EVENTS, alive=[worker])
    return worker, api


def assert_exact(program: Program, api: Api, worker: Process) -> None:
    """Compare all answers with a count of everything that is in the topic."""
    records = read_topic(program.settings, program.settings.interactions_topic)
    program.wait_for(counted=len(records), stored=len(records), alive=[worker])
    events = expected.distinct(record.value for record in records)
    all_answers(api, "materialized", TENANT, events, {})


@pytest.mark.long
def test_a_killed_rebuild_can_be_run_again(program: Program) -> None:
    """Live traffic goes on; each rebuild is killed at a random moment and then run again."""
    worker, api = start_counting(program)
    live = program.start("load", "load", "--events", "0", "--rate", "200", *LOAD, "--seed", "4")
    chosen = random.Random(9)
    killed = 0
    for number in range(KILLS):
        options = ("--from", SOURCES[number % 3], "--rate", str(RATE))
        before = generations(program.settings, TENANT)
        rebuild = start_rebuild(program, f"rebuild-{number}", TENANT, *options)
        wait_until_under_way(rebuild)
        killed += kill_after(rebuild, chosen.uniform(0, EVENTS / RATE))
        after = generations(program.settings, TENANT)
        left = after.others
        assert after.active_complete
        if after.active == before.active:  # not killed after its swap
            assert len(left) == 1, after
        answer = api.summary(TENANT, groupBy="action", days=365)
        assert answer.headers["X-Summary-Source"] == "materialized"

        output = program.run("rebuild", "--tenant", TENANT, *options[:2], timeout_s=240)
        assert "events" in output, output
        final = generations(program.settings, TENANT)
        assert (final.previous, final.others) == (after.active, set()), (final, after)
        assert final.active_complete
    assert killed >= KILLS * 0.7, f"only {killed} of {KILLS} rebuilds were killed in the middle"
    program.check_alive(worker, live)
    live.terminate()
    assert_exact(program, api, worker)


@pytest.mark.long
def test_an_interrupted_rebuild_changes_nothing(program: Program) -> None:
    worker, api = start_counting(program)
    before = generations(program.settings, TENANT)
    answers = all_pages(api, "materialized", TENANT)
    for source, code in (("topic", 130), ("history", 143), ("auto", 143), ("history", 130)):
        options = ("--from", source, "--rate", str(RATE // 2))
        rebuild = start_rebuild(program, f"{source}-{code}", TENANT, *options)
        wait_until_under_way(rebuild)
        if code == 130:
            rebuild.interrupt()
        else:
            rebuild.signal(signal.SIGTERM)
        assert rebuild.wait(10) == code, rebuild.tail()
        assert generations(program.settings, TENANT) == before, "nothing is left"
        assert all_pages(api, "materialized", TENANT) == answers
        assert not has_lease(program), "the next rebuild need not wait for its end"
        text = [line for line in rebuild.log().splitlines() if not line.startswith("{")]
        assert text == [
            "interrupted: a new generation that is not active yet is dropped; the live counters "
            "are unchanged"
        ]
    program.check_alive(worker)
    program.run("rebuild", "--tenant", TENANT)


def has_lease(program: Program) -> bool:
    with redis.Redis.from_url(program.settings.redis_url) as client:
        return bool(client.exists(Keys(program.settings.redis_prefix).lease(TENANT)))


@pytest.mark.long
def test_one_of_two_rebuilds_at_once_is_refused(program: Program) -> None:
    worker, api = start_counting(program)
    options = ("--from", "topic", "--rate", str(RATE))
    both = [start_rebuild(program, f"rebuild-{i}", TENANT, *options) for i in range(2)]
    codes = [process.wait(60) for process in both]
    assert sorted(codes) == [0, 1], "\n".join(process.tail() for process in both)
    done, refused = both[codes.index(0)], both[codes.index(1)]
    assert (
        f"tenant {TENANT}: another rebuild or removal of it is running (process {done.pid} on "
        in (refused.log())
    )
    assert not progress_of(refused)
    found = generations(program.settings, TENANT)
    assert (found.active, found.previous, found.others) == (2, 1, set())
    assert_exact(program, api, worker)
