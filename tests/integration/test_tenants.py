"""Removal of a tenant: nothing stays, workers forget it, and it comes back whole or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from store.catalog_document import CatalogDocument, OfferItem
from store.counters import Generation
from store.postgres.catalog import import_catalog, list_tenants
from store.postgres.history import HistoryWriter
from store.postgres.removal import remove_history
from store.records import CounterPage
from store.redis.client import make_client
from store.settings import Settings
from store.windows import Calendar
from streams.arrival_watermarks import ArrivalWatermarks
from streams.assignment import CurrentTopic, Rewinder
from streams.commit import CounterCommitter
from streams.progress import ProgressReporter
from streams.rebuild import RebuildError
from streams.rebuild.lease import lease
from streams.removal import RemovalError, TenantRemoval
from streams.tenant_state import RewindRequired
from tests.support.contract import question
from tests.support.events import make_event, sourced
from tests.support.pipeline_fixture import (
    PipelineFixture,
    history_locked,
    open_pipeline,
    values_of,
)
from tests.support.waiting import eventually_async
from tests.support.worker_fixture import now_ms

pytestmark = pytest.mark.anyio
N = 6
CATALOG = CatalogDocument(tenant="acme", offers=[OfferItem(id="off_001", name="Card")])


def values(*tenants: str) -> list[bytes]:
    """Return `N` new events, of these tenants in turn."""
    events = [make_event(tenant=tenants[i % len(tenants)], occurred_ms=now_ms()) for i in range(N)]
    return values_of(events)


class NoConsumer:
    """Consumer of a partition that is read to its end; it must not rewind."""

    def __init__(self) -> None:
        self.seeks = 0

    async def seek_again(self) -> None:
        self.seeks += 1

    async def earliest(self, partitions: int) -> dict[int, int]:
        raise AssertionError("not asked here")

    async def offset_at(self, partition: int, at_ms: int) -> int:
        raise AssertionError("not asked here")

    async def request_rejoin(self) -> None:
        raise AssertionError("not asked here")

    def end_offset(self, partition: int, position: int) -> int | None:
        return position


class Scene:
    """A worker without Kafka that counts two tenants, `acme` and `other`."""

    def __init__(self, worker: PipelineFixture, client: Any) -> None:
        self.worker = worker
        self.client = client
        self.counters = worker.counters
        self.history = HistoryWriter(worker.pool)
        self.removal = TenantRemoval(worker.counters, worker.pool)
        consumer = NoConsumer()
        self.rewinder = Rewinder(lambda: consumer, on_rewind=lambda: None)
        self.reporter = ProgressReporter(
            topic=CurrentTopic(worker.topic_id, 1),
            consumer=lambda: consumer,
            counters=worker.counters,
            committer=worker.committer,
            pipeline=worker.pipeline,
            arrivals=ArrivalWatermarks(),
            now_ms=now_ms,
            on_behind=self.rewinder.on_error,
        )

    async def read_again(self) -> None:
        """Begin again at the first offset, as after a rewind."""
        topic_id = self.worker.topic_id
        await self.worker.pipeline.abandon()
        starts = await self.worker.committer.counted(topic_id, {0: 0})
        self.worker.committer.start_session(topic_id, starts)
        stored = await self.history.positions(topic_id)
        await self.worker.history.start_session(topic_id, {0: stored.get(0)})
        await self.worker.pipeline.assign({0: 0})

    async def keys(self, tenant: str) -> set[str]:
        found = await self.client.keys(f"is:{{{tenant}/0}}:*")
        return {key.decode().rpartition("/0}:")[2] for key in found}

    async def counted(self, tenant: str) -> int | None:
        """Return the number of events that the counters have; None = there are no counters."""
        generation = await self.counters.generation(tenant)
        return None if generation is None else await self.counters.events(generation)

    async def generation(self, tenant: str) -> Generation:
        generation = await self.counters.generation(tenant)
        assert generation is not None
        return generation


@pytest.fixture
async def scene(settings: Settings) -> AsyncIterator[Scene]:
    client = make_client(settings, timeout_s=10, retries=0)
    async with open_pipeline(settings, redis_prefix="is") as worker:
        scene = Scene(worker, client)
        await import_catalog(worker.pool, CATALOG)
        await worker.process(0, values("acme", "other"))
        await scene.reporter.report()
        yield scene
    await client.aclose()


@pytest.mark.parametrize("history", [False, True])
async def test_a_removed_tenant_leaves_nothing_but_its_offsets(scene: Scene, history: bool) -> None:
    """With `history` also no row and no identity. Another tenant keeps its own."""
    day = Calendar("UTC").day_of(now_ms())
    await scene.counters.build("acme", day=day, timezone="UTC", token="t", watermarks=[])
    await scene.counters.reports.note_activation("acme")
    await scene.counters.announce_catalog("acme", 1)
    for reports in ("audits", "rebuilds", "rebuilding"):
        await scene.client.hset(f"is:{reports}", mapping={"acme": "{}", "other": "{}"})
    others = await scene.keys("other")
    held = await scene.removal.holdings("acme")
    assert held == (True, True, N // 2)
    removed = await scene.removal.remove("acme", history=history)
    assert (removed.generations, removed.rows) == (2, N // 2 if history else 0)
    assert removed.groups == 4, "one of each grouping"
    assert removed.catalog["offers"] == removed.catalog["tenants"] == 1
    assert await scene.keys("acme") == {"last", "removed"}
    assert await scene.keys("other") == others
    for reports in ("audits", "rebuilds", "rebuilding"):
        assert await scene.client.hkeys(f"is:{reports}") == [b"other"]
    assert await scene.counters.reports.activations_since(0) == {}
    assert list(await scene.counters.tenants()) == ["other"]
    assert await list_tenants(scene.worker.pool) == []
    assert await scene.history.rows("acme") == (0 if history else N // 2)
    assert await scene.history.tenants() == (["other"] if history else ["acme", "other"])
    assert await scene.history.rows("other") == N // 2
    held = await scene.removal.holdings("acme")
    assert held == (None if history else (False, False, N // 2))


@pytest.mark.parametrize("history", [False, True])
async def test_a_worker_forgets_a_removed_tenant_and_does_not_rewind(
    scene: Scene, history: bool
) -> None:
    await scene.removal.remove("acme", history=history)
    with capture_logs() as logged:
        await scene.reporter.report()
    assert logged == []
    assert list(scene.worker.committer.tenants.names) == ["other"]
    assert not scene.rewinder.failed.done()


async def test_counters_that_redis_lost_are_not_taken_for_removed(scene: Scene) -> None:
    await scene.client.srem("is:tenants", "acme")
    with capture_logs() as logged:
        await scene.reporter.report()
    assert [entry["event"] for entry in logged] == ["rewinding to read again what a store lacks"]


async def test_records_that_are_read_again_do_not_make_a_removed_tenant_again(scene: Scene) -> None:
    """A rewind or a restart reads them: another tenant may need them."""
    again = values("acme", "other")
    await scene.worker.process(1, again)
    await scene.removal.remove("acme", history=True)
    await scene.read_again()
    await scene.worker.process(0, [*values("acme"), *again])
    assert await scene.counters.tenants() == ["other"]
    assert await scene.history.rows("acme") == 0


@pytest.mark.parametrize("history", [False, True])
@pytest.mark.parametrize("noticed", [False, True], ids=["cached", "forgotten"])
async def test_a_later_event_makes_a_removed_tenant_again(
    scene: Scene, history: bool, noticed: bool
) -> None:
    """It counts what came after the removal. It is complete if history has nothing else."""
    await scene.removal.remove("acme", history=history)
    if noticed:
        await scene.reporter.report()
    await scene.worker.process(1, values("acme", "other"))
    assert await scene.counted("acme") == N // 2
    generation = await scene.generation("acme")
    assert generation.complete is history
    assert generation.number > 1, "no worker takes it for the one that it knew"
    assert await scene.keys("acme") & {"removed"} == set()
    assert await scene.counted("other") == N

    assert await scene.history.rows("acme") == N // 2 * (1 if history else 2)
    if history:
        asked = question("action", "alltime", today=generation.day)
        answer = await scene.counters.read(asked)
        assert isinstance(answer, CounterPage)
        assert sum(group.total for group in answer.page.groups) == N // 2


async def test_an_idle_commit_does_not_make_a_removed_tenant_again(scene: Scene) -> None:
    """The worker has yet to notice the removal when it moves the watermarks of idle tenants."""
    await scene.worker.process(1, values("other"))
    await scene.removal.remove("acme", history=True)
    await scene.worker.committer.commit("acme", 0, [], 2 * N)
    assert await scene.counters.tenants() == ["other"]
    assert list(scene.worker.committer.tenants.names) == ["other"]


async def test_events_that_a_worker_could_not_count_at_the_removal_are_counted_after_it(
    scene: Scene,
) -> None:
    """Another worker makes the tenant again when the first has counted the events of the others."""
    topic_id, committer = scene.worker.topic_id, scene.worker.committer
    other = CounterCommitter(
        scene.counters, scene.history, now_ms=now_ms, timezone_of=scene.worker._utc
    )
    await scene.removal.remove("acme", history=True)
    await committer.commit("other", 0, [], 2 * N)
    other.start_session(topic_id, await other.counted(topic_id, {0: 0, 1: 0}))
    late = make_event(tenant="acme", occurred_ms=now_ms())
    with pytest.raises(RewindRequired, match=rf"at offset {N} of partition 0"):
        await other.commit("acme", 1, sourced(late), 1)
    other.start_session(topic_id, await other.counted(topic_id, {0: 0, 1: 0}))
    await other.commit("acme", 1, sourced(late), 1)
    late = make_event(tenant="acme", occurred_ms=now_ms())
    await committer.commit("acme", 0, sourced(late, first=N), 2 * N)
    assert await scene.counted("acme") == 2


async def test_groups_of_a_generation_whose_meta_was_lost_are_removed(scene: Scene) -> None:
    await scene.client.delete("is:{acme/0}:1:meta")
    removed = await scene.removal.remove("acme", history=False)
    assert (removed.generations, removed.groups) == (0, 4)
    assert not [key for key in await scene.keys("acme") if key.split(":")[1:2] in (["a"], ["u"])]


async def test_a_removal_is_refused_while_a_rebuild_runs(scene: Scene) -> None:
    async with lease(scene.counters.builds, "acme", "token"):
        with pytest.raises(RebuildError, match=r"acme: another rebuild or removal .* \(process"):
            await scene.removal.remove("acme", history=True)
    assert await list_tenants(scene.worker.pool) == ["acme"]
    assert await scene.counted("acme") == N // 2
    assert await scene.history.rows("acme") == N // 2


@pytest.mark.parametrize("phase", ["counters", "history"])
async def test_an_interrupted_removal_can_be_repeated(scene: Scene, phase: str) -> None:
    def interrupt(now: str, done: int, total: int) -> None:
        if now == phase:
            raise KeyboardInterrupt

    interrupted = TenantRemoval(scene.counters, scene.worker.pool, progress=interrupt)
    with pytest.raises(KeyboardInterrupt):
        await interrupted.remove("acme", history=True)
    if phase == "counters":
        assert await scene.removal.holdings("acme") is not None
        await scene.removal.remove("acme", history=True)
    assert await scene.keys("acme") == {"last", "removed"}
    assert await scene.removal.holdings("acme") is None


async def test_history_is_removed_only_once_it_has_all_that_was_counted(
    scene: Scene, settings: Settings
) -> None:
    """Rows that a worker has yet to store would come after the deletion."""
    impatient = TenantRemoval(scene.counters, scene.worker.pool, stalled_s=0)
    async with history_locked(settings):
        scene.worker.submit(1, values("acme", "other"))

        async def counted() -> bool:
            return await scene.counted("acme") == N

        await eventually_async(counted, message="the events counted")
        with pytest.raises(RemovalError, match=rf"yet to store {N} offsets .* again"):
            await impatient.remove("acme", history=True)
        assert await scene.counters.tenants() == ["other"]
        waiting = asyncio.Event()

        def progress(phase: str, done: int, total: int) -> None:
            if phase == "waiting":
                waiting.set()

        patient = TenantRemoval(scene.counters, scene.worker.pool, progress=progress)
        removing = asyncio.create_task(patient.remove("acme", history=True))
        await waiting.wait()
    removed = await removing
    assert removed.rows == N
    assert await scene.history.rows("acme") == 0
    assert await scene.history.rows("other") == N


async def test_history_is_removed_in_bounded_parts_and_later_events_stay(scene: Scene) -> None:
    """Rows from the end of the removal on are those of the new tenant, in any order of time."""
    await scene.worker.process(1, values("acme"))
    rows = [
        n
        async for n in remove_history(
            scene.worker.pool,
            "acme",
            topic_id=scene.worker.topic_id,
            ends={0: N + 2},
            batch_rows=2,
        )
    ]
    assert sum(rows) == N // 2 + 2
    assert len(rows) > 2
    assert await scene.history.rows("acme") == N - 2
    (left,) = await list_identities(scene)
    assert left == N - 2
    assert [n async for n in remove_history(scene.worker.pool, "acme", topic_id=None, ends={})]
    assert await list_identities(scene) == [0]


async def list_identities(scene: Scene) -> list[int]:
    async with scene.worker.pool.connection() as connection:
        cursor = await connection.execute(
            "SELECT count(*) FROM interaction_identities WHERE tenant_id = 'acme'"
        )
        return [int(n) for (n,) in await cursor.fetchall()]
