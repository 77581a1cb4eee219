"""Rebuilds under live traffic: readers see complete counters of one moment, all the time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

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
#: Events that the embedded broker serves at a steady speed.
BROKER_EVENTS_MAX = 100_000
#: All of them fit on a page.
CUSTOMERS = 400


def _days_ago(days: int) -> str:
    return (datetime.now(UTC) - timedelta(days=days)).date().isoformat()


#: Name -> options.
REBUILDS: Mapping[str, Callable[[], Sequence[str]]] = {
    "topic": lambda: ("--from", "topic"),
    "auto": lambda: ("--from", "auto"),
    "history": lambda: ("--from", "history"),
    "topic-since": lambda: ("--from", "topic", "--since", _days_ago(3)),
    "history-since": lambda: ("--from", "history", "--since", _days_ago(20)),
}


@pytest.mark.timeout(1_200)
@pytest.mark.parametrize(
    ("events", "rate", "options"),
    [
        pytest.param(20_000, 200, ("--rate", "20000"), marks=pytest.mark.long),
        pytest.param(150_000, 500, (), marks=pytest.mark.long),
    ],
)
def test_no_answer_is_of_a_mix(
    services: Services, program: Program, events: int, rate: int, options: tuple[str, ...]
) -> None:
    if services.kind == "wheels" and events > BROKER_EVENTS_MAX:
        pytest.skip("the embedded broker gets slower with each batch; CI tests Apache Kafka")
    settings = program.settings
    asyncio.run(produce(settings, Events(TENANT, customers=CUSTOMERS, seed=1), events))
    worker, api = program.worker(), program.api()
    program.wait_for(counted=events, stored=events, timeout_s=500, alive=[worker])
    live = LiveTraffic(settings, Events(TENANT, customers=CUSTOMERS, seed=2), rate)
    pollers = Pollers(str(api.client.base_url), TENANT, program.counted, pause_s=0.02)
    with live.running(), pollers.running():
        began_s = time.monotonic()
        program.wait_for(counted=events + 5 * rate, alive=[worker])
        spans = [("quiet", began_s, time.monotonic())]
        for number, (name, chosen) in enumerate(REBUILDS.items(), 2):
            rebuild = start_rebuild(program, f"rebuild-{name}", TENANT, *chosen(), *options)
            began_s = time.monotonic()
            assert rebuild.wait(240) == 0, rebuild.tail()
            spans.append((name, began_s, time.monotonic()))
            found = generations(settings, TENANT)
            assert (found.active, found.previous, found.others) == (number, number - 1, set())
            pollers.check()
        program.wait_for(counted=program.counted() + rate, alive=[worker, api.process])
    for name, start_s, end_s in spans:
        took = pollers.latency(start_s, end_s)
        print(f"{name}: {end_s - start_s:.1f} s, {took}")  # noqa: T201 - shown by `pytest -s`
    print(pollers.sources)  # noqa: T201

    sent = events + live.sent
    program.wait_for(counted=sent, stored=sent, alive=[worker])
    eventually(lambda: generations(settings, TENANT).active_complete, message="complete")
    if events <= 100_000:
        records = read_topic(settings, settings.interactions_topic)
        distinct = expected.distinct(record.value for record in records)
        assert len(distinct) == sent
        counters = all_answers(api, "materialized", TENANT, distinct, {})
    else:
        counters = all_pages(api, "materialized", TENANT)
    services.redis.stop()
    assert all_pages(api, "history", TENANT) == counters
