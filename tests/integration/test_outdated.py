"""Counters and history of the version before, whose identities left out the customer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import blake2b

import psycopg
import pytest
from structlog.testing import capture_logs

from store.counters import Committed, Deltas
from store.postgres.migrate import migrate, migrations
from store.records import GROUPINGS, CounterPage
from store.settings import Settings
from store.windows import Calendar, date_of, window_of
from streams.decode.event import identity
from streams.outdated import OutdatedCounters
from streams.rebuild import Failure, Options, Rebuilder
from tests.support.contract import question
from tests.support.events import NOW_MS, TODAY
from tests.support.oracle import groups_of
from tests.support.replay import ReplayFixture
from tests.support.stores import some_events

OLD = [migration for migration in migrations() if migration.version < 8]


class OldScene(ReplayFixture):
    """Counters of the version before: 40 events counted, 20 more in the topic."""

    async def fill(self) -> None:
        """Count with a generation that has no format, as that version made it."""
        await self.send(0, some_events(60))
        await self.count({0: 40})
        await self.store_history({0: 40})
        await self.client.hdel("is:{acme/0}:1:meta", "format")

    async def is_served(self) -> bool:
        """Return whether counters answer, for each grouping or for none."""
        answers = [await self.counters.read(question(g, "alltime")) for g in GROUPINGS]
        served = {isinstance(answer, CounterPage) for answer in answers}
        assert len(served) == 1, answers
        return served.pop()

    async def check_counts(self, end: int) -> None:
        for grouping in GROUPINGS:
            answer = await self.counters.read(question(grouping, "alltime"))
            assert isinstance(answer, CounterPage), answer
            want = groups_of(
                self.topic[0][:end], grouping, window_of("alltime", TODAY), Calendar("UTC")
            )
            assert list(answer.page.groups) == want

    @asynccontextmanager
    async def rebuilder(self) -> AsyncIterator[Rebuilder]:
        yield Rebuilder(self.settings, self.counters, self.pool, now_ms=lambda: NOW_MS)


def test_outdated_counters_answer_until_the_next_commit_and_then_history(
    settings: Settings,
) -> None:
    async def check() -> None:
        async with OldScene(settings) as scene:
            await scene.fill()
            assert await scene.is_served()
            generation = await scene.counters.generation("acme")
            assert generation is not None
            moved = await scene.counters.commit(
                generation,
                topic_id=scene.topic_id,
                partition=1,
                expected_offset=0,
                next_offset=10,
                deltas=Deltas(),
            )
            assert isinstance(moved, Committed)
            assert await scene.is_served(), "no event was counted"
            await scene.count({0: 60})
            assert not await scene.is_served()
            generation = await scene.counters.generation("acme")
            assert generation is not None and not generation.complete
            missing = await scene.counters.missing(generation)
            assert missing.outdated and not missing.unproven

    asyncio.run(check())


@pytest.mark.parametrize("counted", [40, 60], ids=["before a commit", "after a commit"])
def test_a_worker_rebuilds_them_and_says_so(settings: Settings, counted: int) -> None:
    async def check() -> None:
        async with OldScene(settings) as scene:
            await scene.fill()
            if counted > 40:
                await scene.count({0: counted})
            outdated = OutdatedCounters(scene.counters, scene.rebuilder)
            with capture_logs() as logs:
                await outdated.rebuild()
                await outdated.rebuild()  # nothing is left to do
            assert [line["event"] for line in logs if line.get("tenant", "acme") == "acme"][:2] == [
                "counters of an older version are rebuilt",
                "counters of an older version were rebuilt",
            ]
            assert await scene.counters.outdated(["acme"]) == []
            await scene.check_counts(60)
            await scene.count({0: 60})
            await scene.check_counts(60)

    asyncio.run(check())


def test_a_rebuild_since_a_day_takes_nothing_over_from_them(settings: Settings) -> None:
    async def check() -> None:
        async with OldScene(settings) as scene:
            await scene.fill()
            options = Options(source="topic", since=date_of(TODAY - 3))
            async with scene.rebuilder() as rebuilder:
                (outcome,) = [each async for each in rebuilder.rebuild(["acme"], options)]
            assert isinstance(outcome, Failure)
            assert "generation 1 has identities of an older format" in outcome.reason

    asyncio.run(check())


def test_a_rebuild_that_fails_is_logged_and_left_to_an_operator(settings: Settings) -> None:
    async def check() -> None:
        async with OldScene(settings) as scene:
            await scene.fill()
            await scene.client.hset("is:{acme/0}:1:meta", "events", 1_000)  # a rebuild has fewer
            outdated = OutdatedCounters(scene.counters, scene.rebuilder)
            for logged in (["warning", "error"], []):
                with capture_logs() as logs:
                    await outdated.rebuild()
                assert [line["log_level"] for line in logs] == logged, logs
            assert await scene.is_served()

    asyncio.run(check())


def test_a_rebuild_that_cannot_begin_is_tried_again(settings: Settings) -> None:
    async def check() -> None:
        async with OldScene(settings) as scene:
            await scene.fill()
            topic = settings.interactions_topic
            scene.settings = settings.model_copy(update={"interactions_topic": "missing"})
            outdated = OutdatedCounters(scene.counters, scene.rebuilder)
            await outdated.rebuild()
            assert await scene.counters.outdated(["acme"]) == ["acme"]
            scene.settings = settings.model_copy(update={"interactions_topic": topic})
            await outdated.rebuild()
            assert await scene.counters.outdated(["acme"]) == []

    asyncio.run(check())


def test_history_gets_the_identities_that_the_worker_gives(database_url: str) -> None:
    """Of rows with an interaction id; the others, and identities without a row, stay."""
    ids = ["0f8b-1", "0f8b-1 ", "é:1", "\U0001f600" * 3, "1"]
    customers = ["C-1", "C-2", "ü", "\U0001f600", "11"]
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    new = [migration for migration in migrations() if migration not in OLD]
    assert new[0].name == "0008_identities"
    asyncio.run(migrate(database_url))
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("ALTER TABLE interaction_identities RENAME TO interaction_ids")
        for number, (id_, customer) in enumerate(
            zip([*ids, None], [*customers, "C-9"], strict=True)
        ):
            connection.execute(
                "INSERT INTO interaction_history (tenant_id, event_id, interaction_id, customer_id,"
                " offer_id, outcome_type, occurred_at, source_topic, source_log, source_partition,"
                " source_offset, recorded_at) VALUES ('acme', %s, %s, %s, 'o', 'click', now(), 't',"
                " gen_random_uuid(), 0, %s, now())",
                (_old(id_ or "derived"), id_, customer, number),
            )
            connection.execute(
                "INSERT INTO interaction_ids VALUES ('acme', %s)", (_old(id_ or "derived"),)
            )
        connection.execute("INSERT INTO interaction_ids VALUES ('acme', %s)", (_old("no row"),))
        connection.execute(new[0].statements.encode())
        rows = connection.execute(
            "SELECT event_id FROM interaction_history ORDER BY source_offset"
        ).fetchall()
        known = connection.execute("SELECT event_id FROM interaction_identities").fetchall()
    wanted = [
        _identity(id_, customer).hex() for id_, customer in zip(ids, customers, strict=True)
    ] + [_old("derived")]
    assert [row[0].hex for row in rows] == wanted
    assert {row[0].hex for row in known} == {*wanted, _old("no row")}


def _old(id_: str) -> str:
    return blake2b(f"i4:acme{len(id_)}:{id_}".encode(), digest_size=16).hexdigest()


def _identity(id_: str, customer: str) -> bytes:
    return identity(
        tenant="acme",
        interaction_id=id_,
        customer=customer,
        offer="o",
        creative=None,
        channel=None,
        outcome="click",
        recommendation=None,
        occurred_ms=0,
    )
