"""Rebuild from the topic, from history and from both: the same counters, each event once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
import redis
from kafka import KafkaProducer
from kafka.admin import KafkaAdminClient

from store.counters import Shortfall
from store.offsets import Gap
from store.postgres.gaps import note_gaps
from store.records import CounterPage
from store.settings import Settings
from store.windows import DAY_MS
from streams.commit import CounterCommitter
from streams.rebuild import Failure, Options, Rebuilder, RebuildError, RebuildResult
from streams.rebuild.plan import From
from streams.rebuild.progress import Progress
from tests.support.contract import assert_counts, question
from tests.support.events import NOW_MS, TODAY, encode, make_event, sourced
from tests.support.replay import ReplayFixture, ends_of, fill, many_events
from tests.support.services.base import create_topics
from tests.support.waiting import eventually

OTHER_TOPIC = "5e9d6d47-3a4b-4bd2-8d9c-0f3b1d8a7c55"


def run(settings: Settings, check: Callable[[ReplayFixture], Awaitable[None]]) -> None:
    async def go() -> None:
        async with ReplayFixture(settings) as replay:
            await check(replay)

    asyncio.run(go())


@pytest.mark.parametrize("source", ["topic", "history", "auto"])
def test_every_source_gives_each_event_once(settings: Settings, source: From) -> None:
    """Nothing is lost, copies in any partition count once, and the generation is complete."""

    async def check(replay: ReplayFixture) -> None:
        await fill(replay)
        ends = ends_of(replay)
        await replay.count(ends)
        await replay.store_history(ends)
        result = await replay.replay(Options(source=source))
        assert (result.generation, result.previous_generation) == (2, 1)
        assert (result.events, result.previous_events) == (400, 400)
        assert result.behind == []
        (note,) = result.notes
        assert note.endswith("groups of the new generation compared with history: equal")
        report = (await replay.counters.builds.results())["acme"]
        assert (report["phase"], report["source"], report["events"]) == ("done", source, 400)
        await assert_counts(replay.counters, replay.distinct(), TODAY)
        active = await replay.counters.generation("acme")
        assert active is not None
        assert await replay.counters.watermarks(active, replay.topic_id) == ends

    run(settings, check)


@pytest.mark.parametrize("source", ["topic", "history", "auto"])
def test_copies_that_arrive_after_a_rebuild_are_recognised(
    settings: Settings, source: From
) -> None:
    async def check(replay: ReplayFixture) -> None:
        await fill(replay)
        ends = ends_of(replay)
        await replay.store_history(ends)
        await replay.replay(Options(source=source))

        async def utc(_: str) -> str:
            return "UTC"

        committer = CounterCommitter(
            replay.counters, replay.history, now_ms=lambda: NOW_MS, timezone_of=utc
        )
        committer.start_session(replay.topic_id, ends)
        again = [*replay.topic[3][:50], make_event(offer="new")]
        await committer.commit("acme", 0, sourced(*again, first=ends[0]), ends[0] + len(again))
        await assert_counts(replay.counters, [*replay.distinct(), again[-1]], TODAY)

    run(settings, check)


def test_what_history_lacks_comes_from_the_topic(settings: Settings) -> None:
    """History is behind, as it always is while events arrive: by half a second, or by hours."""

    async def check(replay: ReplayFixture) -> None:
        await fill(replay)
        await replay.count(ends_of(replay))
        await replay.store_history({0: 30, 1: 110, 3: 1})
        result = await replay.replay(Options(source="history"))
        assert result.behind == []
        assert 0 < result.from_history < result.events == 400
        await assert_counts(replay.counters, replay.distinct(), TODAY)

    run(settings, check)


def test_what_the_topic_lacks_comes_from_history(settings: Settings) -> None:
    """The topic was created again: history has events of both incarnations."""

    async def check(replay: ReplayFixture) -> None:
        before = many_events(50, seed=77)
        replay.topic[0] = list(before)
        await replay.store_history({0: 50}, OTHER_TOPIC)
        replay.topic[0] = []
        await fill(replay)
        await replay.store_history({0: 20})
        result = await replay.replay(Options(source="auto"))
        assert (result.from_history, result.events) == (50, 450)
        await assert_counts(replay.counters, [*before, *replay.distinct()], TODAY)

        with pytest.raises(RebuildError, match="history has 50 events that the topic no longer"):
            await replay.replay(Options(source="topic"))
        await assert_counts(replay.counters, [*before, *replay.distinct()], TODAY)
        forced = await replay.replay(Options(source="topic", force=True))
        assert forced.events == 400
        active = await replay.counters.generation("acme")
        assert active is not None
        assert not active.complete, "history has more, so history answers"

    run(settings, check)


def test_counts_that_only_the_counters_have_are_not_lost(settings: Settings) -> None:
    """History and the topic are gone; both are filled again from their starts."""

    async def check(replay: ReplayFixture) -> None:
        counted = many_events(30)
        replay.topic[1] = list(counted)
        current, replay.topic_id = replay.topic_id, OTHER_TOPIC
        await replay.count({1: 30})
        replay.topic_id, replay.topic[1] = current, []
        await replay.send(1, many_events(5, seed=3))
        sources: tuple[From, ...] = ("auto", "history", "topic")
        for source in sources:
            with pytest.raises(RebuildError, match=r"30 offsets .*neither the topic nor history"):
                await replay.replay(Options(source=source))
        await assert_counts(replay.counters, counted, TODAY)
        forced = await replay.replay(Options(source="auto", force=True))
        assert (forced.events, forced.previous_events) == (5, 30)
        await assert_counts(replay.counters, replay.topic[1], TODAY)

    run(settings, check)


def test_offsets_that_history_lacks_are_not_lost_with_the_counters(settings: Settings) -> None:
    """Postgres was restored from a backup, and the topic no longer had what came since.

    The workers have noted the gap. Where the counters lack the same offsets, nothing is lost.
    """

    async def check(replay: ReplayFixture) -> None:
        replay.topic[0] = many_events(50)
        replay.topic_id = OTHER_TOPIC  # of which Kafka has nothing
        await replay.count({0: 50})
        gap = Gap(OTHER_TOPIC, 0, 20, 30)
        await replay.store_history({0: 50})
        async with replay.pool.connection() as connection:
            await connection.execute(
                "DELETE FROM interaction_history WHERE source_offset >= 20 AND source_offset < 30"
            )
            await note_gaps(connection, [gap])
        with pytest.raises(RebuildError, match=r"10 offsets .offsets 20 to 29 of partition 0"):
            await replay.replay(Options(source="history"))
        await assert_counts(replay.counters, replay.topic[0], TODAY)
        await replay.counters.note_lost(OTHER_TOPIC, 0, 20, 10)
        with pytest.raises(RebuildError, match="10 events would be lost"):
            await replay.replay(Options(source="history"))
        assert (await replay.replay(Options(source="history", force=True))).events == 40
        rest = [*replay.topic[0][:20], *replay.topic[0][30:]]
        await assert_counts(replay.counters, rest, TODAY)

    run(settings, check)


def test_rows_that_vanished_from_history_are_not_lost(settings: Settings) -> None:
    """The watermark of history says that it has all, but somebody has deleted rows."""

    async def check(replay: ReplayFixture) -> None:
        await fill(replay)
        ends = ends_of(replay)
        await replay.count(ends)
        await replay.store_history(ends)
        async with replay.pool.connection() as connection:
            await connection.execute("DELETE FROM interaction_history WHERE customer_id = 'C-1'")
        with pytest.raises(RebuildError, match="events would be lost"):
            await replay.replay(Options(source="history"))
        await assert_counts(replay.counters, replay.distinct(), TODAY)
        assert (await replay.replay(Options(source="auto"))).events == 400
        await assert_counts(replay.counters, replay.distinct(), TODAY)

    run(settings, check)


def test_a_dry_run_names_what_a_rebuild_would_change(settings: Settings) -> None:
    """One cell of the live counters is wrong; the new generation equals history."""

    async def check(replay: ReplayFixture) -> None:
        await replay.send(0, [make_event(outcome="click", offer="off_1") for _ in range(5)])
        await replay.count({0: 5})
        await replay.store_history({0: 5})
        await replay.client.zadd("is:{acme/0}:1:r:a:a", {"off_1": -7})
        result = await replay.replay(Options(source="topic", dry_run=True))
        new, live = result.notes
        assert new.endswith("groups of the new generation compared with history: equal")
        assert "1 of 4 groups of the live counters differ from history: action off_1" in live
        assert "counters 7, history 5" in live

    run(settings, check)


def test_a_new_generation_that_differs_from_history_says_so(settings: Settings) -> None:
    async def check(replay: ReplayFixture) -> None:
        await replay.send(0, [make_event(outcome="click", offer="off_1") for _ in range(5)])
        await replay.count({0: 5})
        await replay.store_history({0: 5})
        async with replay.pool.connection() as connection:
            await connection.execute("UPDATE interaction_history SET outcome_type = 'convert'")
        result = await replay.replay(Options(source="topic"))
        assert "4 of 4 groups of the new generation differ from history" in result.notes[0]
        assert "action off_1 alltime click: counters 5, history 0" in result.notes[0]

    run(settings, check)


def test_a_dry_run_changes_nothing_and_leaves_nothing(settings: Settings) -> None:
    async def check(replay: ReplayFixture) -> None:
        await fill(replay)
        ends = ends_of(replay)
        await replay.count(ends)
        await replay.store_history(ends)
        before = {key async for key in replay.client.scan_iter("is:{acme/0}:*")}
        result = await replay.replay(Options(source="topic", dry_run=True))
        assert result.events == 400
        after = {key async for key in replay.client.scan_iter("is:{acme/0}:*")}
        assert after - before <= {b"is:{acme/0}:last"}
        await assert_counts(replay.counters, replay.distinct(), TODAY)

    run(settings, check)


def test_a_second_rebuild_of_a_tenant_is_refused(settings: Settings) -> None:
    """Not one of another tenant; and it can run once the first has ended."""

    async def check(replay: ReplayFixture) -> None:
        await fill(replay)
        lease_key = "is:{acme/0}:rebuild"
        running = replay.counters.builds
        assert await running.take_lease("acme", "first", holder="them", lease_ms=9_000) is None

        async def renew() -> None:
            while True:
                await running.keep_lease("acme", "first", holder="them", lease_ms=9_000)
                await asyncio.sleep(0.2)

        renewing = asyncio.create_task(renew())
        with pytest.raises(
            RebuildError, match=r"another rebuild or removal of it is running \(them\)"
        ):
            await replay.replay(Options(source="topic"))
        assert (await replay.replay(Options(source="topic"), tenant="other")).events == 20
        renewing.cancel()
        assert set(await running.results()) == {"other"}, "the running one reports by itself"
        await running.free_lease("acme", "first")
        assert (await replay.replay(Options(source="topic"))).events == 400
        assert not await replay.client.exists(lease_key)

    run(settings, check)


def test_what_a_killed_rebuild_left_is_dropped(settings: Settings) -> None:
    async def check(replay: ReplayFixture) -> None:
        await fill(replay)
        left = await replay.counters.build(
            "acme", day=TODAY, timezone="UTC", token="killed", watermarks=[]
        )
        assert left.number == 1
        result = await replay.replay(Options(source="topic"))
        assert result.generation == 2
        assert result.notes[0] == "started afresh: dropped generation 1 of an interrupted rebuild"
        assert not [key async for key in replay.client.scan_iter("is:{acme/0}:1:*")]

    run(settings, check)


def test_all_tenants_are_rebuilt_from_one_reading_of_the_topic(settings: Settings) -> None:
    async def check(replay: ReplayFixture) -> None:
        from streams.rebuild import RebuildResult

        await fill(replay)
        await replay.count(ends_of(replay))
        await replay.count(ends_of(replay), tenant="other")
        rebuilder = Rebuilder(replay.settings, replay.counters, replay.pool, now_ms=lambda: NOW_MS)
        tenants = await rebuilder.tenants()
        assert tenants == ["acme", "other"], "though history has neither"
        outcomes = [o async for o in rebuilder.rebuild(tenants, Options(source="topic"))]
        assert [(o.tenant, o.events) for o in outcomes if isinstance(o, RebuildResult)] == [
            ("acme", 400),
            ("other", 20),
        ]
        await assert_counts(replay.counters, replay.distinct(), TODAY)
        page = await replay.counters.read(question("action", "alltime")._replace(tenant="other"))
        assert isinstance(page, CounterPage)
        assert sum(group.total for group in page.page.groups) == 20

    run(settings, check)


def test_a_rebuild_of_all_tenants_that_is_cancelled_leaves_nothing(settings: Settings) -> None:
    """Cancelled while the second tenant is prepared: the first one has a new generation then."""

    async def check(replay: ReplayFixture) -> None:
        await fill(replay)
        ends = ends_of(replay)
        for tenant in ("acme", "other"):
            await replay.count(ends, tenant=tenant)
        await replay.store_history(ends)

        def report(progress: Progress) -> None:
            if progress.tenant == "other":
                rebuilding.cancel()

        rebuilder = Rebuilder(
            replay.settings, replay.counters, replay.pool, now_ms=lambda: NOW_MS, report=report
        )

        async def rebuild() -> None:
            async for outcome in rebuilder.rebuild(["acme", "other"], Options(source="auto")):
                raise AssertionError(outcome)

        rebuilding = asyncio.create_task(rebuild())
        with pytest.raises(asyncio.CancelledError):
            await rebuilding
        for tenant in ("acme", "other"):
            assert [g.number for g in await replay.counters.generations(tenant)] == [1]
            assert not await replay.client.exists(f"is:{{{tenant}/0}}:rebuild")
        await assert_counts(replay.counters, replay.distinct(), TODAY)

    run(settings, check)


def test_a_tenant_that_only_the_counters_have_is_repaired(settings: Settings) -> None:
    """The worker ended between the counters and history, and its topic is gone: history decides."""

    async def check(replay: ReplayFixture) -> None:
        replay.topic[0] = many_events(3)
        replay.topic_id = OTHER_TOPIC
        await replay.count({0: 3})
        rebuilder = Rebuilder(replay.settings, replay.counters, replay.pool, now_ms=lambda: NOW_MS)
        assert await rebuilder.tenants() == ["acme"]
        (done,) = [outcome async for outcome in rebuilder.rebuild_inconsistent()]
        assert isinstance(done, RebuildResult)
        assert (done.tenant, done.events, done.previous_events) == ("acme", 0, 3)
        await assert_counts(replay.counters, [], TODAY)
        assert [outcome async for outcome in rebuilder.rebuild_inconsistent()] == []

    run(settings, check)


def test_rows_that_the_topic_no_longer_gives_are_not_lost(settings: Settings) -> None:
    """Redis is lost. History has events of a range that the topic holds, but no longer as events.

    The topic was truncated and written again, say, or a limit on events was lowered.
    """

    async def check(replay: ReplayFixture) -> None:
        await replay.send(0, [make_event(outcome="click") for _ in range(10)])
        await replay.store_history({0: 10})
        async with replay.pool.connection() as connection:
            await connection.execute("UPDATE interaction_history SET event_id = gen_random_uuid()")
            await connection.execute(
                "INSERT INTO interaction_history SELECT * FROM interaction_history"
                " WHERE source_offset = 4"
            )
        for source in ("auto", "topic"):
            with pytest.raises(RebuildError, match="history has 1 events"):
                await replay.replay(Options(source=source))
            assert await replay.counters.generation("acme") is None
        await replay.replay(Options(source="auto", force=True))
        active = await replay.counters.generation("acme")
        assert active is not None
        assert not active.complete, "history has more, so history answers"
        assert (await replay.replay(Options(source="history"))).events == 11

    run(settings, check)


def test_partitions_that_are_added_meanwhile_are_left_to_the_worker(settings: Settings) -> None:
    """The live counters have events of a partition that the rebuild does not know."""

    async def check(replay: ReplayFixture) -> None:
        await fill(replay)
        ends = ends_of(replay)
        await replay.count(ends)
        await replay.store_history(ends)

        def add(progress: Progress) -> None:
            if progress.phase == "catching up":
                with redis.Redis.from_url(settings.redis_url) as client:
                    client.hset("is:{acme/0}:1:meta", f"w:{replay.topic_id}:4", 3)

        rebuilder = Rebuilder(
            settings, replay.counters, replay.pool, now_ms=lambda: NOW_MS, report=add
        )
        (result,) = [r async for r in rebuilder.rebuild(["acme"], Options(source="auto"))]
        assert isinstance(result, RebuildResult)
        assert result.behind == [Shortfall((replay.topic_id, 4), 0, 3)]

    run(settings, check)


@pytest.mark.parametrize("source", ["topic", "history", "auto"])
def test_copies_of_a_backfill_are_recognised_after_a_rebuild(
    settings: Settings, source: From
) -> None:
    """Its records keep the timestamps of another topic. Copies arrive after the rebuild."""

    async def check(replay: ReplayFixture) -> None:
        await replay.send(1, many_events(30, seed=2))
        replay.now_ms = NOW_MS - 9 * DAY_MS
        await replay.send(0, many_events(30, seed=1))
        replay.now_ms = NOW_MS
        ends = ends_of(replay)
        await replay.count(ends)
        await replay.store_history(ends)
        await replay.replay(Options(source=source))

        async def utc(_: str) -> str:
            return "UTC"

        committer = CounterCommitter(
            replay.counters, replay.history, now_ms=lambda: NOW_MS, timezone_of=utc
        )
        committer.start_session(replay.topic_id, ends)
        again = sourced(*replay.topic[0], first=ends[0], recorded_ms=NOW_MS - 9 * DAY_MS)
        await committer.commit("acme", 0, again, ends[0] + len(again))
        await assert_counts(replay.counters, replay.distinct(), TODAY)

    run(settings, check)


def test_a_topic_that_is_recreated_before_the_swap_is_noticed(settings: Settings) -> None:
    """Its new records reach further than the rebuild has read; they have other offsets there."""

    async def check(replay: ReplayFixture) -> None:
        await replay.send(0, many_events(3))
        await replay.count({0: 3})
        await replay.store_history({0: 3})
        encoded = [encode(event) for event in many_events(20, seed=5)]

        def recreate(progress: Progress) -> None:
            if progress.phase == "verifying" and not recreated:
                recreated.append(True)
                recreate_topic(settings, encoded)

        recreated: list[bool] = []
        rebuilder = Rebuilder(
            settings, replay.counters, replay.pool, now_ms=lambda: NOW_MS, report=recreate
        )
        (failure,) = [r async for r in rebuilder.rebuild(["acme"], Options(source="auto"))]
        assert isinstance(failure, Failure)
        assert "recreated" in failure.reason
        await assert_counts(replay.counters, replay.distinct(), TODAY)

    run(settings, check)


def recreate_topic(settings: Settings, records: list[bytes]) -> None:
    """Delete the topic and create it again, with records in partition 0."""
    topic = settings.interactions_topic
    admin = KafkaAdminClient(bootstrap_servers=settings.brokers)
    admin.delete_topics([topic])
    eventually(lambda: topic not in set(admin.list_topics()), message="topic deleted")
    admin.close()
    create_topics(settings.kafka_bootstrap_servers, {topic: settings.topic_partitions})
    producer = KafkaProducer(bootstrap_servers=settings.brokers)
    for record in records:
        producer.send(topic, record, partition=0).get(timeout=30)
    producer.close()


@pytest.mark.parametrize("source", ["topic", "history"])
def test_writes_that_redis_has_lost_end_the_rebuild(settings: Settings, source: From) -> None:
    """Redis was restarted, and its append-only file ends before the last identities."""

    async def check(replay: ReplayFixture) -> None:
        await fill(replay)
        ends = ends_of(replay)
        await replay.count(ends)
        await replay.store_history(ends)

        def lose(progress: Progress) -> None:
            if progress.phase == "catching up" and not lost:
                lost.append(True)
                with redis.Redis.from_url(settings.redis_url) as client:
                    client.delete(*client.keys("is:{acme/0}:2:own:*"))
                    client.hincrby("is:{acme/0}:2:meta", "w:rebuild:0", -1)

        lost: list[bool] = []
        rebuilder = Rebuilder(
            settings, replay.counters, replay.pool, now_ms=lambda: NOW_MS, report=lose
        )
        (failure,) = [r async for r in rebuilder.rebuild(["acme"], Options(source=source))]
        assert lost
        assert isinstance(failure, Failure)
        await assert_counts(replay.counters, replay.distinct(), TODAY)

    run(settings, check)
