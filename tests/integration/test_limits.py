"""Limits: at each one the program reports it and loses no event."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from typing import Any

import httpx
import msgspec
import psycopg
import pytest
from structlog.testing import capture_logs

from cli.embedded.server import free_port
from cli.status_report import gather_status
from store import metrics
from store.records import Incomplete
from store.redis.client import make_client
from store.redis.counters import RedisCounters
from store.settings import Settings
from streams.dead_letters import headers as dead_letters
from tests.support.events import make_event
from tests.support.pipeline_fixture import fresh, history_locked, open_pipeline, values_of
from tests.support.program import read_topic
from tests.support.waiting import eventually, eventually_async
from tests.support.worker_fixture import make_events, now_ms, open_worker_fixture

pytestmark = pytest.mark.anyio
BATCH_EVENTS = 10


@pytest.mark.parametrize("limit", ["events", "bytes"])
@pytest.mark.parametrize("queue_batches", [1, 3])
async def test_the_history_buffer_and_the_partition_queue_are_bounded(
    settings: Settings, limit: str, queue_batches: int
) -> None:
    """While history is locked, counting stops at the buffer's limit and reading at the queue's.

    After the lock is released both continue, and no event is missing.
    """
    # Either limit has room for five batches of ten events: the fifth one reaches it.
    padding = 0 if limit == "events" else 3_000
    values = values_of(make_events(BATCH_EVENTS), padding)
    size = sum(map(len, fresh(values, 0)))
    changes: dict[str, Any] = {
        "events": {"history_buffer_events": 5 * BATCH_EVENTS},
        "bytes": {"history_buffer_bytes": 5 * size},
    }[limit]
    changes |= {"queue_batches": queue_batches, "fetch_bytes_max": size}
    async with open_pipeline(settings, **changes) as fixture:
        # A commit batch is what waits in the queue, which may exceed its bound by one fetch. The
        # buffer is full with five batches, and may exceed that by one commit batch; another one is
        # counted and waits for room there.
        commit_batch_max = queue_batches + 1
        counted_max = 4 + 2 * commit_batch_max
        submitted_max = counted_max + queue_batches + 1
        numbers = itertools.count()

        async def reading_stops() -> bool:
            while not fixture.pipeline.full_partitions():
                n = next(numbers)
                assert n < submitted_max, "reading does not stop"
                fixture.submit(n, fresh(values, n))
            await round_trips(settings)  # the task may take what waits meanwhile
            assert fixture.pipeline.full_partitions() == {0}
            return True

        async with history_locked(settings):
            await eventually_async(reading_stops, message="the queue is full")
            position = fixture.pipeline.positions[0]
            assert 5 * BATCH_EVENTS <= position <= counted_max * BATCH_EVENTS
            await round_trips(settings)
            assert fixture.pipeline.full_partitions() == {0}
            assert fixture.pipeline.positions[0] == position, "counted past the buffer"
            assert fixture.acknowledged == 0
            submitted = next(numbers)
        await eventually_async(
            lambda: _is(not fixture.pipeline.full_partitions()), message="there is room again"
        )
        fixture.submit(submitted, fresh(values, submitted))
        await fixture.pipeline.close()
        assert fixture.acknowledged == submitted + 1
    stored = (submitted + 1) * BATCH_EVENTS
    async with await psycopg.AsyncConnection.connect(settings.database_url) as connection:
        rows = await (
            await connection.execute("SELECT count(*) FROM interaction_history")
        ).fetchone()
    assert rows == (stored,)


async def round_trips(settings: Settings) -> None:
    """Wait for 200 round trips to Redis: longer than it takes to count a batch."""
    client: Any = make_client(settings, timeout_s=5, retries=0)
    for _ in range(200):
        await client.ping()
    await client.aclose()


async def _is(fact: bool) -> bool:
    return fact


async def test_tenants_beyond_the_limit_are_dead_letters(settings: Settings) -> None:
    """Known tenants are still counted; the dead letters say what to do; a higher limit helps."""
    async with open_pipeline(settings, tenants_max=2) as fixture:
        names = ["a", "b", "c", "a", "d", "b", "c", "a"]
        await fixture.process(
            0, values_of([make_event(tenant=t, occurred_ms=now_ms()) for t in names])
        )
        refused = [
            (x.record.offset, x.rejection.reason, x.rejection.detail.split()[1])
            for x in fixture.dead_letters.records
        ]
        assert refused == [
            (2, "too_many_tenants", "c"),
            (4, "too_many_tenants", "d"),
            (6, "too_many_tenants", "c"),
        ]
        assert "TENANTS_MAX" in fixture.dead_letters.records[0].rejection.detail
        assert sorted(fixture.committer.tenants.names) == ["a", "b"]
        fixture.committer.tenants.tenants_max = 3
        await fixture.process(
            1, values_of([make_event(tenant=t, occurred_ms=now_ms()) for t in names])
        )
        assert [x.record.offset for x in fixture.dead_letters.records[3:]] == [8 + 4]
        assert sorted(fixture.committer.tenants.names) == ["a", "b", "c"]


async def test_the_limit_of_tenants_holds_for_all_workers_together(settings: Settings) -> None:
    """Concurrent requests for own and shared names reserve each slot once."""
    clients: list[Any] = [make_client(settings, timeout_s=5, retries=0) for _ in range(4)]
    stores = [RedisCounters(client, settings.redis_prefix) for client in clients]
    answers = await asyncio.gather(
        *(
            store.refused([f"{i}-{n}", f"shared-{n}"], 20)
            for i, store in enumerate(stores)
            for n in range(25)
        )
    )
    tenants = await stores[0].tenants()
    assert len(tenants) == 20
    refused = {name for answer in answers for name in answer}
    assert refused.isdisjoint(tenants)
    assert len(refused) == 5 * 25 - 20
    assert await stores[1].refused(tenants, 1) == [], "known tenants are never refused"
    for client in clients:
        await client.aclose()


async def test_the_alarm_is_logged_once_when_it_starts_and_once_when_it_ends(
    settings: Settings,
) -> None:
    def alarm() -> float | None:
        value: float = metrics.DEAD_LETTER_ALARM._value.get()
        return value

    def logged() -> list[str]:
        return [line["event"] for line in lines if "dead-letter ratio" in line["event"]]

    with capture_logs() as lines:
        async with open_pipeline(settings) as fixture:
            good = values_of(make_events(20))
            await fixture.process(0, fresh(good, 0))
            assert alarm() == 0
            await fixture.process(1, [*fresh(good[:8], 1), *(b"no json %d" % i for i in range(12))])
            assert alarm() == 1
            await fixture.process(2, [b"no json again"] * 20)
            assert (alarm(), len(logged())) == (1, 1)
            for n in range(3, 9):
                await fixture.process(n, fresh(good, n))
            assert alarm() == 0
    assert logged() == ["dead-letter ratio too high", "dead-letter ratio back to normal"]
    assert len(fixture.dead_letters.records) == 32


async def test_a_worker_enforces_the_limits_of_its_settings(settings: Settings) -> None:
    """Groups, tenants and fetched bytes have limits in one worker.

    Groups beyond the limit are counted as one and reported, and history answers exactly. Events of
    a tenant beyond the limit are dead letters, and many of them raise the alarm. Fetches of 2,048
    bytes deliver all events.
    """
    port = free_port()
    async with open_worker_fixture(
        settings,
        keys_per_grouping_max=10,
        offers_per_customer_max=2,
        tenants_max=1,
        dead_letter_alarm_ratio=0.1,
        dead_letter_alarm_min=5,
        fetch_bytes_max=2_048,
        queue_batches=1,
        worker_metrics_port=port,
    ) as fixture:
        events = make_events(200, customers=50)
        await fixture.send(events)
        await fixture.wait_counted(200)
        await fixture.wait_stored(200)
        await fixture.send([make_event(tenant="other", occurred_ms=now_ms()) for _ in range(60)])

        def alarmed() -> bool:
            text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
            assert "interaction_summary_dead_letter_alarm 1.0" in text
            overflow = re.search(r'over_limit_total\{grouping="customer"\} (\S+)', text)
            assert overflow is not None and float(overflow[1]) > 100
            offers = re.search(r'over_limit_total\{grouping="customer_offers"\} (\S+)', text)
            assert offers is not None and float(offers[1]) > 0
            return True

        await asyncio.to_thread(eventually, alarmed, 30, "the alarm")
        await fixture.wait_counted(200)
        question = fixture.question()._replace(group_by="customer")
        assert await fixture.counters.read(question) == Incomplete("capped")
        page = await fixture.history.read(question)
        assert (page.total, sum(group.total for group in page.groups)) == (50, 200)
        (tenant,) = (await gather_status(fixture.settings)).tenants
        assert (tenant.groups["customer"], list(tenant.over)) == (
            11,
            ["customer", "customer_offers"],
        )
        log = fixture.worker.log_tail(400)
        assert "too many groups" in log
        assert "too many offers of a customer" in log
    messages = await asyncio.to_thread(read_topic, settings, settings.dead_letter_topic)
    reasons = [dead_letters.parse(message.headers) for message in messages]
    assert [r.reason for r in reasons if r] == ["too_many_tenants"] * 60
    assert {json.loads(message.value)["payload"]["tenantId"] for message in messages} == {"other"}


async def test_a_rejected_record_is_rejected_again_after_a_crash(settings: Settings) -> None:
    """A record ahead of the clock is rejected, though it is not ahead when it is read again.

    After the crash the log is read again from history's watermark. If the record was accepted then,
    history would have an event that the counters, whose watermark is past it, do not have.
    """
    values = values_of([*make_events(1), make_event(occurred_ms=now_ms() + 310_000)])
    async with history_locked(settings), open_pipeline(settings) as crashed:
        crashed.submit(0, values)
        await eventually_async(
            lambda: _is(crashed.pipeline.positions[0] == 2), message="a batch counted"
        )
        assert len(crashed.dead_letters.records) == 1
    async with open_pipeline(settings) as fixture:  # a minute later
        fixture.committer.start_session(crashed.topic_id, {0: 2})
        await fixture.history.start_session(crashed.topic_id, {0: None})
        fixture.builder._now_ms = lambda: now_ms() + 60_000
        await fixture.process(0, values)
    async with await psycopg.AsyncConnection.connect(settings.database_url) as connection:
        rows = await (
            await connection.execute("SELECT count(*) FROM interaction_history")
        ).fetchone()
    assert rows == (1,), "history has an event that the counters do not have"


async def test_many_tenants_in_one_batch_wait_for_a_connection(settings: Settings) -> None:
    """A commit each, at once: more than the client has connections."""
    tenants = 300
    events = [
        msgspec.structs.replace(event, tenant=f"t-{number}")
        for number, event in enumerate(make_events(tenants))
    ]
    async with open_pipeline(settings, commit_batch_events=tenants) as fixture:
        retries = metrics.RETRIES.labels("counters")._value.get()
        fixture.submit(0, fresh(values_of(events), 0))

        async def counted() -> bool:
            return fixture.pipeline.positions[0] == tenants

        await eventually_async(counted, message="all tenants are counted")
        assert metrics.RETRIES.labels("counters")._value.get() == retries
