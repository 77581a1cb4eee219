"""Rebuilds that change the number of shards: each event once, and nothing wrong as complete."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import pytest

from store.counters import Generation
from store.offsets import Gap
from store.postgres.audit import AuditedHistory
from store.records import CounterPage, Incomplete
from store.redis.audit import AuditedCounters
from store.redis.counters import RedisCounters
from store.redis.evictions import RedisEvictions
from store.redis.shards import RedisShards
from store.settings import Settings
from store.shards import Layout
from streams.audit.shards import make_tenant_auditor
from streams.commit import CounterCommitter
from streams.old_generations import OldGenerations
from streams.rebuild import Options, RebuildError
from streams.rebuild.follow import Follower
from streams.rebuild.plan import From
from streams.tenant_state import RewindRequired
from tests.support.contract import assert_counts, assert_counts_exact, question
from tests.support.events import NOW_MS, TODAY
from tests.support.replay import ReplayFixture, ends_of, fill, many_events

ASKED = question("action", "weekly")


def run(settings: Settings, check: Callable[[ReplayFixture], Awaitable[None]]) -> None:
    async def go() -> None:
        async with ReplayFixture(settings) as replay:
            await fill(replay)
            await check(replay)

    asyncio.run(go())


async def active(replay: ReplayFixture) -> Generation:
    found = await replay.counters.generation("acme")
    assert found is not None
    return found


async def open_worker(replay: ReplayFixture, starts: Mapping[int, int]) -> CounterCommitter:
    """Return a worker whose session reads from `starts`, or from where all shards have counted."""

    async def utc(_: str) -> str:
        return "UTC"

    worker = CounterCommitter(
        replay.counters, replay.history, now_ms=lambda: replay.now_ms, timezone_of=utc
    )
    worker.start_session(replay.topic_id, starts)
    return worker


async def begin_again(replay: ReplayFixture, worker: CounterCommitter) -> Mapping[int, int]:
    """Start a session of the worker as after a rewind; return where it reads from."""
    earliest = dict.fromkeys(replay.topic, 0)
    starts = await worker.counted(replay.topic_id, earliest)
    worker.start_session(replay.topic_id, starts, earliest)
    return starts


async def assert_nothing_is_left_of(replay: ReplayFixture, layout: Layout) -> None:
    for name in layout.others:
        tag = name.partition("@")[0]
        keys = [key async for key in replay.client.scan_iter(f"is:{{{tag}}}:{layout.generation}:*")]
        assert keys == []


@pytest.mark.parametrize("source", ["topic", "history", "auto"])
def test_each_number_of_shards_gives_the_same_answers(settings: Settings, source: From) -> None:
    async def check(replay: ReplayFixture) -> None:
        ends = ends_of(replay)
        await replay.count(ends)
        await replay.store_history(ends)
        for number, shards in enumerate((4, 3, 3, 1), 2):
            result = await replay.replay(Options(source=source, shards=shards))
            assert (result.generation, result.previous_generation) == (number, number - 1)
            assert (result.events, result.previous_events) == (400, 400)
            assert (result.shards, result.behind) == (shards, [])
            (note,) = result.notes
            assert note.endswith("groups of the new generation compared with history: equal")
            await assert_counts(replay.counters, replay.distinct(), TODAY)
            await assert_counts_exact(replay.counters, replay.distinct(), TODAY, days=(3, 13))
            for name in (await active(replay)).layout.names:
                shard = await replay.counters.generation(name)
                assert shard is not None
                assert await replay.counters.watermarks(shard, replay.topic_id) == ends
        again = await replay.replay(Options(source=source))
        assert again.shards == 1
        await assert_nothing_is_left_of(replay, Layout("acme", 2, 4))

    run(settings, check)


def test_a_rebuild_keeps_the_number_of_shards(settings: Settings) -> None:
    async def check(replay: ReplayFixture) -> None:
        ends = ends_of(replay)
        await replay.count(ends)
        await replay.store_history(ends)
        await replay.replay(Options(shards=2))
        result = await replay.replay(Options())
        assert (result.shards, result.previous_shards) == (2, 2)
        await assert_counts(replay.counters, replay.distinct(), TODAY)

    run(settings, check)


@pytest.mark.parametrize("shards", [(1, 3), (3, 2), (2, 1), (2, 2)])
def test_a_worker_of_the_shards_before_reads_again(
    settings: Settings, shards: tuple[int, int]
) -> None:
    async def check(replay: ReplayFixture) -> None:
        before, after = shards
        ends = ends_of(replay)
        half = {partition: end // 2 for partition, end in ends.items()}
        await replay.count(half)
        await replay.store_history(ends)
        await replay.replay(Options(source="topic", shards=before))
        worker = await open_worker(replay, half)
        await replay.count_on(worker, ends)
        await replay.replay(Options(source="topic", shards=after))
        more = many_events(40, seed=77)
        await replay.send(0, more)
        with pytest.raises(RewindRequired):
            await replay.count_on(worker, ends_of(replay))
        with pytest.raises(RewindRequired):  # and again, until it begins another session
            await replay.count_on(worker, ends_of(replay))
        assert await begin_again(replay, worker) == ends
        await replay.count_on(worker, ends_of(replay))
        await assert_counts(replay.counters, replay.distinct(), TODAY)

    run(settings, check)


@pytest.mark.parametrize("shards", [(1, 3), (3, 1), (2, 4)])
def test_a_rollback_to_other_shards_is_complete_once_it_has_all(
    settings: Settings, shards: tuple[int, int]
) -> None:
    async def check(replay: ReplayFixture) -> None:
        before, after = shards
        ends = ends_of(replay)
        await replay.count(ends)
        await replay.store_history(ends)
        await replay.replay(Options(source="topic", shards=before))
        number = (await active(replay)).number
        await replay.replay(Options(source="topic", shards=after))
        worker = await open_worker(replay, ends)
        await replay.send(1, many_events(40, seed=78))
        await replay.count_on(worker, ends_of(replay))
        await assert_counts(replay.counters, replay.distinct(), TODAY)

        done = await replay.counters.rollback("acme", now_ms=NOW_MS)
        assert done is not None
        assert done.generation == number
        assert [each.offsets for each in done.behind] == [40]
        assert (await active(replay)).shards == before
        assert await replay.counters.read(ASKED) == Incomplete("not_complete")
        with pytest.raises(RewindRequired):
            await worker.tenants.adopt_generation(await active(replay))
        assert await begin_again(replay, worker) == ends
        await replay.count_on(worker, ends_of(replay))
        await assert_counts(replay.counters, replay.distinct(), TODAY)

    run(settings, check)


def test_a_rebuild_that_was_killed_before_the_shards_are_settled_is_mended_by_a_worker(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old shards had counted more than the rebuild; nobody has compared them."""

    async def check(replay: ReplayFixture) -> None:
        ends = ends_of(replay)
        await replay.count(ends)
        await replay.store_history(ends)
        await replay.replay(Options(source="topic", shards=3))
        worker = await open_worker(replay, ends)
        await replay.send(1, many_events(40, seed=79))
        reached = dict(ends_of(replay))
        settle, compare = RedisShards.settle, Follower._check_shards

        async def killed(self: RedisShards, tenant: str) -> None:
            raise RuntimeError("killed")

        async def ahead(self: Follower, work: object, *, force: bool) -> dict[int, int]:
            """Let the worker count between the comparison and the swap."""
            targets = await compare(self, work, force=force)  # type: ignore[arg-type]
            await replay.send(2, many_events(25, seed=80))
            await replay.count_on(worker, ends_of(replay))
            monkeypatch.setattr(RedisShards, "settle", killed)  # by the swap that follows
            monkeypatch.setattr(Follower, "_check_shards", nothing)
            return targets

        async def nothing(self: Follower, work: object, *, force: bool) -> dict[int, int]:
            return {}

        monkeypatch.setattr(Follower, "_check_shards", ahead)
        with pytest.raises(RuntimeError, match="killed"):
            await replay.replay(Options(source="topic", shards=2))
        assert reached
        found = await active(replay)
        assert (found.shards, found.complete) == (2, False)
        assert await replay.counters.read(ASKED) == Incomplete("not_complete")

        monkeypatch.setattr(RedisShards, "settle", settle)
        await begin_again(replay, worker)
        await worker.tenants.try_mark_complete("acme")
        await replay.count_on(worker, ends_of(replay))
        await assert_counts(replay.counters, replay.distinct(), TODAY)

    run(settings, check)


def test_what_only_the_old_shards_have_counted_is_waited_for(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker counts in old shards after the last look of the rebuild: history answers."""

    async def check(replay: ReplayFixture) -> None:
        ends = ends_of(replay)
        await replay.count(ends)
        await replay.store_history(ends)
        await replay.replay(Options(source="topic", shards=3))
        worker = await open_worker(replay, ends)
        layout = (await active(replay)).layout
        late = [e for e in many_events(80, seed=81) if layout.name_of(e.customer) == layout.name(2)]

        async def none(self: Follower, work: object, *, force: bool) -> dict[int, int]:
            await replay.send(3, late)
            events = replay.sourced(3, len(replay.topic[3]))[ends[3] :]
            await worker.tenants.layout("acme")
            await worker.commit(layout.name(2), 3, events, len(replay.topic[3]))
            monkeypatch.setattr(Follower, "_check_shards", nothing)
            return {}

        async def nothing(self: Follower, work: object, *, force: bool) -> dict[int, int]:
            return {}

        monkeypatch.setattr(Follower, "_check_shards", none)
        result = await replay.replay(Options(source="topic", shards=2))
        assert sum(each.offsets for each in result.behind) == len(late)
        assert await replay.counters.read(ASKED) == Incomplete("not_complete")
        with pytest.raises(RewindRequired):  # the shard that it wrote to is retired
            await worker.commit(layout.name(2), 3, [], len(replay.topic[3]) + 1)
        await begin_again(replay, worker)
        await replay.count_on(worker, ends_of(replay))
        await assert_counts(replay.counters, replay.distinct(), TODAY)

    run(settings, check)


def test_a_rebuild_that_fails_before_its_swap_changes_nothing(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check(replay: ReplayFixture) -> None:
        ends = ends_of(replay)
        await replay.count(ends)
        await replay.store_history(ends)
        await replay.replay(Options(source="topic", shards=3))

        async def refused(self: Follower, work: object, *, force: bool) -> dict[int, int]:
            raise RebuildError("not this time")

        with monkeypatch.context() as patched, pytest.raises(RebuildError, match="not this time"):
            patched.setattr(Follower, "_check_shards", refused)
            await replay.replay(Options(source="topic", shards=4))
        await assert_counts(replay.counters, replay.distinct(), TODAY)
        await assert_nothing_is_left_of(replay, Layout("acme", 3, 4))
        await replay.replay(Options(source="topic", shards=4))
        await assert_counts(replay.counters, replay.distinct(), TODAY)

    run(settings, check)


def test_an_audit_compares_and_repairs_each_shard(settings: Settings) -> None:
    async def check(replay: ReplayFixture) -> None:
        ends = ends_of(replay)
        await replay.count(ends)
        await replay.store_history(ends)
        await replay.replay(Options(source="topic", shards=3))

        async def utc(tenant: str) -> str:
            assert tenant == "acme"
            return "UTC"

        auditor = make_tenant_auditor(
            AuditedCounters(replay.client, "is"),
            AuditedHistory(replay.pool),
            timezone_of=utc,
            now_ms=lambda: NOW_MS,
            pause_s=0.01,
        )
        clean = await auditor.audit("acme")
        customers = {event.customer for event in replay.distinct()}
        assert (clean.notes, clean.differing) == ([], [])
        assert clean.groups >= len(customers) + 3 * 6
        assert clean.note("command", previous=None).result == "clean"

        lost = next(c for c in sorted(customers) if Layout("acme", 2, 3).name_of(c) == "acme/2@2")
        for key in (f"u:{lost}", "a:off_1"):
            await replay.client.unlink(f"is:{{acme/2}}:2:1:{key}")
        drift = await auditor.audit("acme")
        assert {(d.grouping, d.id) for d in drift.differing} == {
            ("customer", lost),
            ("action", "off_1"),
        }
        repair = await auditor.repair(drift)
        assert (repair.groups, repair.again.differing) == (2, [])
        await assert_counts(replay.counters, replay.distinct(), TODAY)

    run(settings, check)


def test_old_generations_are_dropped_with_all_their_shards(settings: Settings) -> None:
    async def check(replay: ReplayFixture) -> None:
        ends = ends_of(replay)
        await replay.count(ends)
        await replay.store_history(ends)
        await replay.replay(Options(source="topic", shards=4))
        await replay.replay(Options(source="topic", shards=2))
        old = OldGenerations(replay.counters, keep_h=0, now_ms=lambda: NOW_MS + 1)
        await old.drop_old()
        await assert_nothing_is_left_of(replay, Layout("acme", 2, 4))
        assert [each.number for each in await replay.counters.generations("acme")] == [3]
        await assert_counts(replay.counters, replay.distinct(), TODAY)
        assert await replay.counters.rollback("acme", now_ms=NOW_MS) is None

    run(settings, check)


def test_evictions_mark_all_shards(settings: Settings) -> None:
    """Also those of the generation before, to which a rollback is possible."""

    async def check(replay: ReplayFixture) -> None:
        ends = ends_of(replay)
        await replay.count(ends)
        await replay.store_history(ends)
        await replay.replay(Options(source="topic", shards=2))
        await replay.replay(Options(source="topic", shards=3))
        evictions = RedisEvictions(replay.client, "is")
        assert await evictions.mark(["acme"], NOW_MS) == 2 + 3
        assert await evictions.mark(["acme"], NOW_MS) == 0
        assert await replay.counters.read(ASKED) == Incomplete("not_complete")
        await replay.replay(Options(source="topic"))
        await assert_counts(replay.counters, replay.distinct(), TODAY)

    run(settings, check)


def test_a_truncated_partition_lowers_the_watermarks_of_all_shards(settings: Settings) -> None:
    async def check(replay: ReplayFixture) -> None:
        ends = ends_of(replay)
        await replay.count(ends)
        await replay.store_history(ends)
        await replay.replay(Options(source="topic", shards=2))
        await replay.replay(Options(source="topic", shards=3))
        worker = await open_worker(replay, ends)
        await worker.reset(1, 70, ends[1])
        shards = replay.counters.shards
        for layout in (Layout("acme", 2, 2), Layout("acme", 3, 3)):
            reach = (await shards.state(layout)).reach
            assert reach[replay.topic_id, 1] == 70
            assert reach[replay.topic_id, 2] == ends[2]
        assert await begin_again(replay, worker) == {**ends, 1: 70}
        await replay.count_on(worker, ends)  # identities make reading again exact
        await assert_counts(replay.counters, replay.distinct(), TODAY)

    run(settings, check)


def test_what_retention_took_is_noted_for_all_shards(settings: Settings) -> None:
    async def check(replay: ReplayFixture) -> None:
        ends = ends_of(replay)
        await replay.count(ends)
        await replay.store_history(ends)
        await replay.replay(Options(source="topic", shards=3))
        worker = await open_worker(replay, ends)
        gap = Gap(replay.topic_id, 0, ends[0], ends[0] + 10)
        lacking = await worker.tenants.lacking(gap)
        assert {each.tenant: first for each, first in lacking.items()} == dict.fromkeys(
            Layout("acme", 2, 3).names, ends[0]
        )

    run(settings, check)


def test_a_dry_run_changes_nothing(settings: Settings) -> None:
    async def check(replay: ReplayFixture) -> None:
        ends = ends_of(replay)
        await replay.count(ends)
        await replay.store_history(ends)
        await replay.replay(Options(source="topic", shards=4, dry_run=True))
        assert (await active(replay)).shards == 1
        await assert_counts(replay.counters, replay.distinct(), TODAY)
        await assert_nothing_is_left_of(replay, Layout("acme", 2, 4))

    run(settings, check)


def test_a_reader_that_knows_the_shards_before_reads_the_new_ones(settings: Settings) -> None:
    async def check(replay: ReplayFixture) -> None:
        ends = ends_of(replay)
        await replay.count(ends)
        await replay.store_history(ends)
        reader = RedisCounters(replay.client, "is")
        for shards in (1, 4, 2, 1):
            await replay.replay(Options(source="topic", shards=shards))
            assert isinstance(await reader.read(ASKED), CounterPage)
            await assert_counts(reader, replay.distinct(), TODAY)

    run(settings, check)


def test_fewer_events_are_refused_over_all_shards(settings: Settings) -> None:
    async def check(replay: ReplayFixture) -> None:
        ends = ends_of(replay)
        await replay.count(ends)
        await replay.store_history(ends)
        await replay.replay(Options(source="topic", shards=2))
        shard = await replay.counters.generation(Layout("acme", 2, 2).name(1))
        assert shard is not None
        await replay.client.hincrby("is:{acme/1}:2:1:meta", "events", 5)
        with pytest.raises(RebuildError, match="5 events would be lost: generation 2 has 405"):
            await replay.replay(Options(source="topic", shards=3))
        assert (await active(replay)).number == 2
        await replay.replay(Options(source="topic", shards=3, force=True))
        await assert_counts(replay.counters, replay.distinct(), TODAY)

    run(settings, check)
