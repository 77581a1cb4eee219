"""Records on which the program itself fails, on real stores: the others of their batch count."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import psycopg
import pytest

import store.postgres.history
import streams.commit
import streams.decode.decoder
from store.offsets import Gap
from store.postgres.gaps import HistoryGaps
from store.postgres.quarantine import Quarantine
from store.settings import Settings
from streams.dead_letters.sink import KafkaDeadLetterSink
from streams.decode.rejection import Reason, Rejected
from streams.kafka.consumer import Batch
from streams.kafka.corrupt_batch import corrupt_batch
from tests.support.pipeline_fixture import Record, open_pipeline, values_of
from tests.support.waiting import eventually_async
from tests.support.worker_fixture import make_events, now_ms

pytestmark = pytest.mark.anyio


def fail_on(
    monkeypatch: pytest.MonkeyPatch, module: Any, name: str, is_bad: Callable[[Any], bool]
) -> None:
    """Let a function of the program raise an error for inputs that are bad."""
    function = getattr(module, name)

    def failing(given: Any, *args: Any, **kwargs: Any) -> Any:
        if is_bad(given):
            raise ZeroDivisionError(f"in {name}")
        return function(given, *args, **kwargs)

    monkeypatch.setattr(module, name, failing)


def has(customer: str) -> Callable[[Sequence[Any]], bool]:
    return lambda events: any(e.event.customer == customer for e in events)


async def test_only_the_records_that_fail_are_rejected(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_on(monkeypatch, streams.decode.decoder, "read_fast", lambda value: b"C-decode" in value)
    fail_on(monkeypatch, streams.commit, "aggregate", has("C-count"))
    fail_on(monkeypatch, store.postgres.history, "encode", has("C-store"))
    names = {7: "C-decode", 23: "C-count", 24: "C-count", 40: "C-store", 49: "C-count"}
    events = [
        msgspec.structs.replace(event, customer=names.get(offset, "C-good"))
        for offset, event in enumerate(make_events(50))
    ]
    async with open_pipeline(settings, commit_batch_events=20) as fixture:
        await fixture.process(0, values_of(events))
        rejected = {x.record.offset: x for x in fixture.dead_letters.records}
        assert list(rejected) == [7, 23, 24, 49]
        assert {x.rejection.reason for x in rejected.values()} == {"unprocessable"}
        assert rejected[7].rejection.detail == "ZeroDivisionError: in read_fast"
        assert rejected[23].rejection.detail == "ZeroDivisionError: in aggregate"
        assert rejected[23].tenant == events[23].tenant
        generation = await fixture.counters.generation(events[0].tenant)
        assert generation is not None
        assert await fixture.counters.events(generation) == 46
        (row,) = await Quarantine(fixture.pool).newest(10)
        assert (row.topic_id, row.partition, row.offset) == (fixture.topic_id, 0, 40)
        assert (row.tenant, row.reason) == (events[40].tenant, "unprocessable")
        assert row.error == "counted, and not stored: ZeroDivisionError: in encode"
        assert await HistoryGaps(fixture.pool).gaps() == [Gap(fixture.topic_id, 0, 40, 41)]
        await fixture.process(1, values_of(make_events(50)))
    async with await psycopg.AsyncConnection.connect(settings.database_url) as connection:
        cursor = await connection.execute("SELECT source_offset FROM interaction_history")
        stored = {offset for (offset,) in await cursor.fetchall()}
    assert stored == set(range(50)) - names.keys() | set(range(50, 100))


async def test_a_corrupt_batch_is_rejected_as_a_whole(settings: Settings) -> None:
    value = corrupt_batch(b"x" * 100, base_offset=0, next_offset=3, error="wrong checksum")
    async with open_pipeline(settings) as fixture:
        records = [
            Record(2, value, now_ms()),
            *(Record(3 + i, v, now_ms()) for i, v in enumerate(values_of(make_events(2)))),
        ]
        fixture.pipeline.submit(Batch(0, 0, records, None, 0), fixture._acknowledge)

        async def stored() -> bool:
            return fixture.acknowledged == 1

        await eventually_async(stored, message="the batch is stored")
        (rejected,) = fixture.dead_letters.records
        assert rejected.rejection == Rejected(Reason.CORRUPT_BATCH, "wrong checksum")
        assert fixture.pipeline.positions == {0: 5}
        owners: Any = None
        sink = KafkaDeadLetterSink(settings, owners, Quarantine(fixture.pool), now_ms=now_ms)
        sink._topic_id = fixture.topic_id
        await sink.send([rejected])
        (row,) = await Quarantine(fixture.pool).newest(10)
    assert (row.offset, row.next_offset, row.size, row.value) == (0, 3, 100, b"x" * 100)
    assert (row.reason, row.tenant) == ("corrupt_batch", None)


async def test_a_bug_that_fails_on_all_records_ends_the_worker(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_on(monkeypatch, streams.commit, "aggregate", has("C-count"))
    events = [msgspec.structs.replace(event, customer="C-count") for event in make_events(50)]
    async with open_pipeline(settings) as fixture:
        ended: list[BaseException] = []
        fixture.pipeline._on_failure = ended.append
        fixture.submit(0, values_of(events))

        async def has_ended() -> bool:
            return bool(ended)

        await eventually_async(has_ended, message="the partition's task has ended")
        assert [str(error) for error in ended] == ["in aggregate"]
        assert [x.record.offset for x in fixture.dead_letters.records] == list(range(10))
        assert fixture.acknowledged == 0
