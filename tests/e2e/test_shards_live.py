"""Changes of the number of shards under live traffic: readers see complete counters."""

from __future__ import annotations

import asyncio

import pytest

from tests.support import expected
from tests.support.answers import all_answers, all_pages
from tests.support.live_traffic import Events, LiveTraffic, produce
from tests.support.polling import Pollers
from tests.support.program import Program, read_topic
from tests.support.rebuilds import generations, start_rebuild
from tests.support.services.base import Services
from tests.support.waiting import eventually

TENANT = "acme"
EVENTS, RATE = 3_000, 150
#: Options of each rebuild; the fourth goes back to the generation of the second.
CHANGES = (
    ("--shards", "4"),
    ("--shards", "3", "--from", "history"),
    (),
    ("--rollback",),
    ("--shards", "1"),
)


@pytest.mark.long
def test_no_answer_lacks_what_was_counted_before(services: Services, program: Program) -> None:
    settings = program.settings
    asyncio.run(produce(settings, Events(TENANT, customers=200, seed=1), EVENTS))
    worker, api = program.worker(), program.api()
    program.wait_for(counted=EVENTS, stored=EVENTS, alive=[worker])
    live = LiveTraffic(settings, Events(TENANT, customers=200, seed=2), RATE)
    pollers = Pollers(str(api.client.base_url), TENANT, program.counted, pause_s=0.02)
    with live.running(), pollers.running():
        for number, options in enumerate(CHANGES):
            rebuild = start_rebuild(program, f"rebuild-{number}", TENANT, *options)
            assert rebuild.wait(120) == 0, rebuild.tail()
            eventually(
                lambda: generations(settings, TENANT).active_complete,
                message=f"complete after {options}",
            )
            program.wait_for(counted=program.counted() + RATE, alive=[worker, api.process])
            pollers.check()
    print(pollers.sources)  # noqa: T201 - shown by `pytest -s`
    assert pollers.sources["materialized"] > pollers.sources["history"]

    sent = EVENTS + live.sent
    program.wait_for(counted=sent, stored=sent, alive=[worker])
    records = read_topic(settings, settings.interactions_topic)
    distinct = expected.distinct(record.value for record in records)
    assert len(distinct) == sent
    counters = all_answers(api, "materialized", TENANT, distinct, {})
    services.redis.stop()
    assert all_pages(api, "history", TENANT) == counters
