"""Old events of history become sums, and nothing that is answered changes."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest

from store.catalog_document import parse_document
from store.offsets import Gap
from store.postgres.catalog import import_catalog
from store.postgres.history import PostgresHistory
from store.postgres.prune import HistoryPruner, TopicStart
from store.postgres.refill import HistoryFiller
from store.postgres.removal import remove_history
from store.records import GROUPINGS, Event, GroupQuestion, Question, TrendQuestion
from store.settings import Settings
from store.windows import DAY_MS, PERIODS, Calendar, Window, window_of
from streams.prune import OLDER_THAN_DAYS_MIN, HistoryPruning, NotPruned, Pruned
from streams.rebuild.lease import lease
from streams.removal import TenantRemoval
from tests.support.auditing import auditor_of, cells_of
from tests.support.contract import LOG, assert_counts, start
from tests.support.events import NOW_MS, TODAY, make_event, sourced
from tests.support.stores import Stores

OTHER_LOG: Final = "5e9f7d2c-0f0b-4d43-8f4a-6a5c6f9b7e21"
#: Of a topic that holds nothing of the events here.
NOTHING_HELD: Final = TopicStart(OTHER_LOG, {0: 0})
DAYS: Final = 100
AGES_DAYS: Final = (0, 1, 6, 30, 31, 64, DAYS - 2, DAYS - 1, DAYS, DAYS + 1, 120, 199)
LONG_AGO_MS: Final = NOW_MS - 1_000 * DAY_MS


def run(redis_url: str, database_url: str, body: Callable[[Stores], Awaitable[None]]) -> None:
    async def go() -> None:
        async with Stores(Settings(redis_url=redis_url, database_url=database_url)) as stores:
            await body(stores)

    asyncio.run(go())


def old_events(n: int, *, tenant: str = "acme", seed: int = 1) -> list[Event]:
    """Return events of AGES_DAYS with few groups: many share all of them."""
    chosen = random.Random(seed)
    return [
        make_event(
            tenant=tenant,
            customer=f"C-{chosen.randrange(2)}",
            offer=f"off_{chosen.randrange(2)}",
            creative=chosen.choice((None, "cr_1")),
            channel=chosen.choice((None, "ch_1")),
            outcome=chosen.choice(("impression", "click")),
            occurred_ms=NOW_MS - chosen.choice(AGES_DAYS) * DAY_MS - chosen.randrange(DAY_MS),
        )
        for _ in range(n)
    ]


async def store(
    stores: Stores,
    batch: list[Event],
    first: int | None = None,
    *,
    topic_id: str = LOG,
    recorded_ms: int = LONG_AGO_MS,
) -> int:
    """Write the batch, which arrived long ago, from offset `first` on."""
    begin = first or 0
    written = await stores.history.write(
        topic="t",
        topic_id=topic_id,
        partition=0,
        expected_offset=first,
        next_offset=begin + len(batch),
        events=sourced(*batch, first=begin, recorded_ms=recorded_ms),
    )
    assert isinstance(written, int), written
    return written


async def answers(stores: Stores, tenant: str, zone: str) -> list[Any]:
    """Return what history answers to every kind of question."""
    history = PostgresHistory(stores.pool)
    windows = [
        *(window_of(period, TODAY) for period in PERIODS),
        Window(TODAY - 150, TODAY),
        Window(TODAY - 2, TODAY),
    ]
    found: list[Any] = []
    for group_by in GROUPINGS:
        for window in windows:
            page = await history.read(Question(tenant, group_by, None, window, TODAY, zone, 50, 0))
            groups = [(g.id, dict(g.counts), g.unique_actions) for g in page.groups]
            found.append((page.total, groups))
        ids = [None, *(id_ for id_, _, _ in found[-3][1][:3])]
        for id_ in ids:
            if id_ is not None:
                found.append(
                    await history.read_group(GroupQuestion(tenant, group_by, id_, TODAY, zone))
                )
            for days in (31, 199):
                window = Window(TODAY - days, TODAY)
                question = TrendQuestion(tenant, group_by, id_, window, TODAY, zone)
                found.append(await history.read_trend(question))
    return found


async def rows(stores: Stores, what: str = "count(*)", where: str = "true") -> Any:
    async with stores.pool.connection() as connection:
        statement = f"SELECT {what} FROM interaction_history WHERE {where}"  # noqa: S608
        row = await (await connection.execute(statement.encode())).fetchone()
    assert row is not None
    return row[0]


def pruner(stores: Stores, zone: str = "UTC", held: TopicStart = NOTHING_HELD) -> HistoryPruner:
    calendar = Calendar(zone)
    before_ms = calendar.midnight_ms(TODAY - DAYS)
    return HistoryPruner(stores.pool, "acme", calendar, before_ms=before_ms, held=held)


async def set_timezone(stores: Stores, timezone: str) -> None:
    document = {"tenant": "acme", "timezone": timezone}
    await import_catalog(stores.pool, parse_document(json.dumps(document)))


def pruning_of(stores: Stores) -> HistoryPruning:
    return HistoryPruning(stores.settings, stores.counters, stores.pool, now_ms=lambda: NOW_MS)


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Kolkata"])
@pytest.mark.parametrize("rows_max", [60, 100_000])
def test_every_answer_stays_as_it_was(
    redis_url: str, database_url: str, zone: str, rows_max: int
) -> None:
    async def body(stores: Stores) -> None:
        await store(stores, [*old_events(1_500), *old_events(300, tenant="other", seed=2)])
        before = [await answers(stores, tenant, zone) for tenant in ("acme", "other")]
        of_other = await rows(stores, where="tenant_id = 'other'")
        expected = await pruner(stores, zone).count()
        assert expected > 350

        parts = [part async for part in pruner(stores, zone).prune(rows_max=rows_max)]
        assert sum(part.events for part in parts) == expected
        assert max(part.events for part in parts) <= rows_max
        assert await rows(stores, "sum(n)") == 1_800
        assert await rows(stores) == 1_800 - expected + sum(part.sums for part in parts)
        assert await rows(stores) < 1_800 - expected / 4
        kept = "event_id <> '00000000-0000-0000-0000-000000000000'"
        before_cut = f"occurred_at < to_timestamp({Calendar(zone).midnight_ms(TODAY - DAYS)}/1e3)"
        assert await rows(stores, where=f"tenant_id = 'acme' AND {before_cut} AND {kept}") == 0
        assert await rows(stores, where="tenant_id = 'other'") == of_other
        assert [await answers(stores, tenant, zone) for tenant in ("acme", "other")] == before

        again = [part async for part in pruner(stores, zone).prune()]
        assert again == [], "sums are not summed up again"

    run(redis_url, database_url, body)


def test_a_run_that_is_interrupted_can_be_repeated(redis_url: str, database_url: str) -> None:
    async def body(stores: Stores) -> None:
        await store(stores, old_events(500))
        before = await answers(stores, "acme", "UTC")
        expected = await pruner(stores).count()
        first = 0
        async for part in pruner(stores).prune(rows_max=5):
            first += part.events
            if first > 50:
                break
        assert await answers(stores, "acme", "UTC") == before
        rest = sum([part.events async for part in pruner(stores).prune()])
        assert first + rest == expected
        assert await answers(stores, "acme", "UTC") == before

    run(redis_url, database_url, body)


def test_what_the_topic_holds_or_what_arrived_lately_is_kept(
    redis_url: str, database_url: str
) -> None:
    """A rebuild reads the first from the topic, and takes identities of the second."""

    async def body(stores: Stores) -> None:
        aged = [make_event(occurred_ms=NOW_MS - 150 * DAY_MS) for _ in range(40)]
        await store(stores, aged[:20])
        held = TopicStart(LOG, {0: 15})
        await store(stores, aged[20:30], 20, recorded_ms=NOW_MS)
        await store(stores, aged[30:], topic_id=OTHER_LOG, recorded_ms=NOW_MS)
        parts = [part async for part in pruner(stores, held=held).prune()]
        assert [(part.events, part.sums) for part in parts] == [(15, 1)]
        assert await rows(stores, "max(source_offset)", "n > 1") == 14
        unknown_partition = TopicStart(LOG, {})
        assert await pruner(stores, held=unknown_partition).count() == 0

    run(redis_url, database_url, body)


def test_copies_of_pruned_events_are_not_stored(redis_url: str, database_url: str) -> None:
    """Neither by a worker nor by `rebuild --history` after rows were lost."""

    async def body(stores: Stores) -> None:
        batch = [make_event(occurred_ms=NOW_MS - 150 * DAY_MS) for _ in range(10)]
        young = make_event()
        await store(stores, [*batch, young])
        async for _ in pruner(stores).prune():
            pass
        assert await store(stores, batch, 11) == 0
        filler = HistoryFiller(stores.pool, topic="t", topic_id=OTHER_LOG)
        assert await filler.missing_rows(None) == {}
        assert await filler.restore_identities(None) == 0
        async with stores.pool.connection() as connection:
            await connection.execute("DELETE FROM interaction_history WHERE n = 1")
        assert await filler.missing_rows(None) == {"acme": 1}
        assert await filler.restore_rows({0: sourced(*batch, young)}) == 1
        assert await rows(stores, "sum(n)") == 11

    run(redis_url, database_url, body)


def test_counters_made_from_sums_are_those_made_from_events(
    redis_url: str, database_url: str
) -> None:
    async def body(stores: Stores) -> None:
        batch = old_events(400)
        writer = await start(stores.counters)
        await writer.commit(batch)
        await store(stores, batch)
        pruning = pruning_of(stores)
        dry = await pruning.prune("acme", OLDER_THAN_DAYS_MIN, NOTHING_HELD, dry_run=True)
        assert await rows(stores) == 400
        pruned = await pruning.prune("acme", OLDER_THAN_DAYS_MIN, NOTHING_HELD, dry_run=False)
        assert isinstance(pruned, Pruned)
        assert dry == Pruned("acme", pruned.events, 0)
        assert pruned.events > 200 > pruned.sums > 50
        audit = await auditor_of(stores).audit("acme")
        assert (cells_of(audit), audit.notes) == ([], [])

        result = await stores.rebuild()
        assert (result.events, result.from_history) == (400, 400)
        await assert_counts(stores.counters, batch, TODAY)
        audit = await auditor_of(stores).audit("acme")
        assert (cells_of(audit), audit.notes) == ([], [])

    run(redis_url, database_url, body)


def test_a_tenant_whose_events_may_be_needed_is_left_alone(
    redis_url: str, database_url: str
) -> None:
    async def body(stores: Stores) -> None:
        await store(stores, [make_event(occurred_ms=NOW_MS - 150 * DAY_MS) for _ in range(10)])
        pruning = pruning_of(stores)

        async def refused() -> str:
            found = await pruning.prune("acme", DAYS, NOTHING_HELD, dry_run=False)
            assert isinstance(found, NotPruned)
            assert await rows(stores) == 10
            return found.reason

        assert "no counters" in await refused()
        writer = await start(stores.counters)
        assert "have yet to reach" in await refused()
        await writer.commit([make_event() for _ in range(10)])
        async with lease(stores.counters.builds, "acme", "token"):
            assert "is running" in await refused()
        await stores.counters.note_gap(writer.generation, Gap(LOG, 3, 0, 5))
        assert "not complete" in await refused()

    run(redis_url, database_url, body)


def test_a_tenant_that_is_removed_leaves_neither_sums_nor_identities(
    redis_url: str, database_url: str
) -> None:
    async def body(stores: Stores) -> None:
        batch = old_events(200)
        writer = await start(stores.counters)
        await writer.commit(batch)
        await store(stores, batch)
        async for _ in pruner(stores).prune():
            pass
        removed = await TenantRemoval(stores.counters, stores.pool).remove("acme", history=True)
        assert removed.rows == 200
        assert await rows(stores) == 0
        assert await stores.history.tenants() == []

    run(redis_url, database_url, body)


def test_days_are_those_that_answers_have(redis_url: str, database_url: str) -> None:
    """Until a rebuild, counters have days of the old time zone, and history answers in the new."""

    async def body(stores: Stores) -> None:
        batch = old_events(400)
        await (await start(stores.counters)).commit(batch)
        await store(stores, batch)
        await set_timezone(stores, "Asia/Kolkata")
        before = await answers(stores, "acme", "Asia/Kolkata")
        found = await pruning_of(stores).prune("acme", DAYS, NOTHING_HELD, dry_run=False)
        assert await answers(stores, "acme", "Asia/Kolkata") == before
        assert isinstance(found, NotPruned)
        assert "time zone UTC, its catalog has Asia/Kolkata" in found.reason

    run(redis_url, database_url, body)


def test_counters_are_looked_at_when_no_rebuild_can_change_them_any_more(
    redis_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(stores: Stores) -> None:
        batch = [make_event(occurred_ms=NOW_MS - 150 * DAY_MS) for _ in range(10)]
        writer = await start(stores.counters)
        await writer.commit(batch)
        await store(stores, batch)

        @asynccontextmanager
        async def late_lease(*args: Any) -> AsyncIterator[None]:
            await stores.counters.note_gap(writer.generation, Gap(LOG, 3, 0, 5))
            async with lease(*args):
                yield

        monkeypatch.setattr("streams.prune.lease", late_lease)
        found = await pruning_of(stores).prune("acme", DAYS, NOTHING_HELD, dry_run=False)
        assert isinstance(found, NotPruned)
        assert "not complete" in found.reason
        assert await rows(stores) == 10

    run(redis_url, database_url, body)


def test_identities_of_pruned_events_are_removed_though_the_tenant_has_later_events(
    redis_url: str, database_url: str
) -> None:
    async def body(stores: Stores) -> None:
        later = [make_event() for _ in range(3)]
        await store(stores, old_events(200))
        await store(stores, later, 200)
        async for _ in pruner(stores).prune():
            pass
        removal = remove_history(stores.pool, "acme", topic_id=LOG, ends={0: 200}, batch_rows=3)
        assert sum([removed async for removed in removal]) == 200
        assert await rows(stores) == 3
        filler = HistoryFiller(stores.pool, topic="t", topic_id=LOG)
        assert await filler.missing_rows(None) == {}
        assert await store(stores, later, 203) == 0, "identities of later events stay"
        async with stores.pool.connection() as connection:
            noted = await connection.execute("SELECT FROM pruned_history")
            assert noted.rowcount == 0

    run(redis_url, database_url, body)


def test_identities_stay_while_a_sum_of_their_events_stays(
    redis_url: str, database_url: str
) -> None:
    async def body(stores: Stores) -> None:
        batch = [make_event(occurred_ms=NOW_MS - 150 * DAY_MS) for _ in range(10)]
        await store(stores, batch)
        async for _ in pruner(stores).prune():
            pass
        async for _ in remove_history(stores.pool, "acme", topic_id=LOG, ends={0: 5}):
            pass
        assert await rows(stores, "sum(n)") == 10
        assert await store(stores, batch, 10) == 0

    run(redis_url, database_url, body)
