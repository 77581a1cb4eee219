"""Offsets that retention took: each store's gaps are noted, and the remedy fits the store."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

import pytest
from structlog.testing import capture_logs

from cli.embedded.server import free_port
from store import metrics
from store.counters import Missing, Position
from store.offsets import Gap, offsets_in
from store.postgres.history import HistoryWriter
from store.postgres.pool import make_pool
from store.records import Incomplete
from store.settings import Settings
from streams.commit import CounterCommitter
from streams.history_session import HistoryBatch
from streams.history_sink import HistorySink
from streams.isolation import Isolation
from streams.kafka.consumer import Batch
from streams.lost_offsets import LostOffsets
from streams.tenant_state import RewindRequired
from tests.support.contract import LOG, question
from tests.support.events import NOW_MS, TODAY, encode, make_event, sourced
from tests.support.pipeline_fixture import PipelineFixture, Record, open_pipeline
from tests.support.stores import Stores, some_events
from tests.support.waiting import eventually_async
from tests.support.worker_fixture import now_ms

HOLE = Gap(LOG, 0, 10, 30)
COUNTERS, HISTORY = "counters lack offsets", "history lacks offsets"
NEITHER, UNKNOWN = "retention took offsets that neither", "retention took offsets while"


class LossFixture:
    """Tenant `acme` of 40 events, of which each store has some; offsets 10 to 29 are lost."""

    def __init__(self, stores: Stores) -> None:
        self.stores = stores
        self.events = some_events(40)
        self.committer = self._new_committer()

    def _new_committer(self) -> CounterCommitter:
        async def utc(tenant: str) -> str:
            return "UTC"

        return CounterCommitter(
            self.stores.counters, self.stores.history, now_ms=lambda: NOW_MS, timezone_of=utc
        )

    async def count(self, end: int, *, others: Sequence[str] = ()) -> None:
        """Count up to `end`, and as much for tenants of one event each; start a session there."""
        self.committer.start_session(LOG, {0: 0})
        await self.committer.commit("acme", 0, sourced(*self.events[:end]), end)
        for tenant in others:
            await self.committer.commit(tenant, 0, sourced(make_event(tenant=tenant)), end)
        self.committer.start_session(LOG, {0: min(end, HOLE.first_offset)})

    async def store_in_partition_1(self, n: int) -> None:
        """Store `n` events of the tenant that these counters have not counted."""
        await self.stores.history.write(
            topic="t",
            topic_id=LOG,
            partition=1,
            expected_offset=None,
            next_offset=n,
            events=sourced(*some_events(n)),
        )

    async def gaps_before_start(
        self, earliest: Mapping[int, int], stored: Mapping[int, int] | None
    ) -> Sequence[Gap]:
        """Note gaps as a worker does that all partitions are assigned to."""
        await self.committer.counted(LOG, earliest)
        return await self.lost().note_before_start(
            LOG, list(earliest), earliest, stored, self.committer.unread
        )

    def lost(self, history: HistoryWriter | None = None) -> LostOffsets:
        return LostOffsets(
            self.stores.counters, history or self.stores.history, self.committer.tenants
        )

    async def missing(self, tenant: str = "acme") -> Missing:
        generation = await self.stores.counters.generation(tenant)
        assert generation is not None
        missing = await self.stores.counters.missing(generation)
        assert generation.complete == (missing == Missing([], [], False))
        return missing

    async def read(self) -> object:
        return await self.stores.counters.read(question("action", "alltime"))


def with_fixture(
    redis_url: str, database_url: str, go: Callable[[LossFixture], Awaitable[None]]
) -> None:
    """Run the scenario `go` on empty stores."""

    async def run() -> None:
        async with Stores(Settings(redis_url=redis_url, database_url=database_url)) as stores:
            await go(LossFixture(stores))

    asyncio.run(run())


def lost_to(store: str) -> float:
    value: float = metrics.LOST_OFFSETS.labels(store)._value.get()
    return value


@pytest.mark.parametrize(
    ("counted", "stored", "gap", "lines"),
    [
        pytest.param(10, 40, HOLE, {COUNTERS: (10, 20)}, id="history has all"),
        pytest.param(30, 10, None, {HISTORY: (10, 20)}, id="counters have all"),
        pytest.param(10, 10, None, {NEITHER: (10, 20)}, id="neither has any"),
        pytest.param(
            15,
            20,
            HOLE._replace(first_offset=15),
            {COUNTERS: (15, 5), NEITHER: (20, 10)},
            id="history has more than the counters",
        ),
        pytest.param(
            25,
            15,
            None,
            {HISTORY: (15, 10), NEITHER: (25, 5)},
            id="counters have more",
        ),
    ],
)
def test_the_store_that_lacks_lost_offsets_is_named_with_its_remedy(
    redis_url: str,
    database_url: str,
    counted: int,
    stored: int,
    gap: Gap | None,
    lines: dict[str, tuple[int, int]],
) -> None:
    async def go(fixture: LossFixture) -> None:
        await fixture.count(counted, others=["elsewhere"])
        await fixture.stores.store(fixture.events[:stored], None)
        before = lost_to("counters")
        lost = fixture.lost()
        with capture_logs() as logged:
            await lost.note(HOLE)
            await lost.note(HOLE)  # after a rewind
        found = {entry["event"]: (entry["first"], entry["lost"]) for entry in logged}
        assert len(logged) == len(lines)
        for start, values in lines.items():
            assert [found[event] for event in found if event.startswith(start)] == [values]
        assert (await fixture.missing()).gaps == ([gap] if gap else [])
        assert (await fixture.missing("elsewhere")).gaps == []
        uncounted = HOLE.next_offset - counted
        assert lost_to("counters") - before == uncounted
        incidents = await fixture.stores.counters.reports.incidents()
        assert incidents.lost_offsets == uncounted
        assert isinstance(await fixture.read(), Incomplete) == (gap is not None)

    with_fixture(redis_url, database_url, go)


def test_a_gap_is_left_when_the_counters_were_rebuilt(redis_url: str, database_url: str) -> None:
    async def go(fixture: LossFixture) -> None:
        await fixture.count(10)
        await fixture.stores.store(fixture.events, None)
        await fixture.lost().note(HOLE)
        await fixture.committer.commit("acme", 0, sourced(*fixture.events[30:], first=30), 40)
        assert not await fixture.committer.tenants.try_mark_complete("acme")
        assert (await fixture.missing()).gaps == [HOLE], "history has its rows"
        await fixture.stores.rebuild()
        assert await fixture.missing() == Missing([], [], False)

    with_fixture(redis_url, database_url, go)


def test_a_gap_noted_while_history_was_unavailable_is_checked_later(
    redis_url: str, database_url: str
) -> None:
    """It is closed for a tenant without rows in it, once history has passed it."""

    async def go(fixture: LossFixture) -> None:
        await fixture.count(10, others=["elsewhere"])
        dead = Settings(database_url=f"postgresql://nobody@127.0.0.1:{free_port()}/none")
        async with make_pool(dead, max_size=1) as pool:
            with capture_logs() as logged:
                await fixture.lost(HistoryWriter(pool)).note(HOLE)
        assert [entry["event"].startswith(UNKNOWN) for entry in logged] == [True]
        tenants = fixture.committer.tenants
        for tenant in ("acme", "elsewhere"):
            assert (await fixture.missing(tenant)).gaps == [HOLE], "history may have its rows"
            assert not await tenants.try_mark_complete(tenant), "history has not passed it"
        await fixture.stores.store(fixture.events, None)
        assert not await tenants.try_mark_complete("acme")
        assert (await fixture.missing()).gaps == [HOLE]
        assert await tenants.try_mark_complete("elsewhere")
        assert await fixture.missing("elsewhere") == Missing([], [], False)

    with_fixture(redis_url, database_url, go)


def test_a_closed_gap_does_not_complete_counters_that_started_empty(
    redis_url: str, database_url: str
) -> None:
    """Counters of an older version that started empty have no field that says so."""

    async def go(fixture: LossFixture) -> None:
        counters = fixture.stores.counters
        created = await counters.create(
            "acme", day=TODAY, timezone="UTC", complete=False, watermarks=[]
        )
        await fixture.stores.client.hdel(f"is:{{acme/0}}:{created.number}:meta", "unproven")
        assert await counters.note_gap(created, HOLE)
        assert await fixture.missing() == Missing([], [HOLE], True)
        assert not await counters.close_gaps(created, [HOLE])
        assert await fixture.missing() == Missing([], [], True)

    with_fixture(redis_url, database_url, go)


def test_offsets_that_were_counted_meanwhile_are_no_gap(redis_url: str, database_url: str) -> None:
    """A worker that was frozen finds them deleted; its successor has counted them."""

    async def go(fixture: LossFixture) -> None:
        await fixture.count(10)
        await fixture.stores.store(fixture.events, None)
        frozen = fixture.lost()
        await fixture.committer.tenants.get("acme")
        successor = fixture._new_committer()
        successor.start_session(LOG, {0: 10})
        await successor.commit("acme", 0, sourced(*fixture.events[10:], first=10), 40)
        await frozen.note(HOLE)
        assert await fixture.missing() == Missing([], [], False)

    with_fixture(redis_url, database_url, go)


def test_a_generation_activated_after_the_gap_was_noted_meets_it_again(
    redis_url: str, database_url: str
) -> None:
    """The one before has counted half of the lost offsets; history has them all."""

    async def go(fixture: LossFixture) -> None:
        await fixture.stores.store(fixture.events[:15], None)
        await fixture.stores.rebuild()  # generation 1, at 15
        await fixture.stores.store(fixture.events[15:], 15)
        await fixture.stores.rebuild()  # generation 2, at 40
        committer = fixture.committer
        committer.start_session(LOG, {0: 10})  # of a tenant that is behind
        await fixture.lost().note(HOLE)
        assert await fixture.missing() == Missing([], [], False)
        await fixture.stores.counters.rollback("acme", now_ms=NOW_MS)
        active = await fixture.stores.counters.generation("acme")
        assert active is not None
        with pytest.raises(RewindRequired):
            await committer.tenants.adopt_generation(active)
        with pytest.raises(RewindRequired):
            await committer.commit("acme", 0, sourced(*fixture.events[30:], first=30), 40)
        committer.start_session(LOG, {0: 15})
        await fixture.lost().note(HOLE._replace(first_offset=15))
        assert (await fixture.missing()).gaps == [HOLE._replace(first_offset=15)]

    with_fixture(redis_url, database_url, go)


@pytest.mark.anyio
async def test_gaps_of_history_are_noted_in_the_transaction_that_passes_them(
    settings: Settings,
) -> None:
    """Nothing was read before: both stores lack them. The next gap is history's second one."""
    async with open_pipeline(settings) as fixture:
        before = lost_to("history")
        submit_after(fixture, 7, first=0)
        submit_after(fixture, 3, first=8)
        writer = fixture.history._writer

        async def noted() -> bool:
            found = await writer.gaps()
            assert found == [Gap(fixture.topic_id, 0, 0, 7), Gap(fixture.topic_id, 0, 8, 11)]
            return True

        await eventually_async(noted, message="two gaps of history")
        await fixture.pipeline.close()
        assert await writer.positions(fixture.topic_id) == {0: 12}
        assert lost_to("history") - before == 10
        generation = await fixture.counters.generation("acme")
        assert generation is not None
        assert generation.complete, "counters and history hold the same events"


def submit_after(fixture: PipelineFixture, lost: int, *, first: int) -> None:
    """Submit a batch of one event, after `lost` offsets that retention took."""
    record = Record(first + lost, encode(make_event(occurred_ms=now_ms())), now_ms())
    fixture.pipeline.submit(Batch(0, first, [record], None, lost), lambda: None)


def test_offsets_in_overlapping_gaps_count_once() -> None:
    gaps = [Gap("a", 0, 5, 10), Gap("a", 0, 0, 7), Gap("a", 1, 5, 10), Gap("b", 1, 9, 10)]
    assert offsets_in(gaps) == 10 + 5 + 1
    assert offsets_in([Gap("a", 0, 0, 10), Gap("a", 0, 2, 3), Gap("a", 0, 9, 11)]) == 11
    assert offsets_in([]) == 0


@pytest.mark.parametrize("unavailable", [False, True])
def test_a_generation_that_never_read_a_partition_lacks_what_retention_took_of_it(
    redis_url: str, database_url: str, unavailable: bool
) -> None:
    """It is older than the first event of the partition, and a rollback has activated it.

    Reading starts at the earliest offset, so no batch begins with a gap.
    """

    async def go(fixture: LossFixture) -> None:
        await fixture.count(10, others=["elsewhere"])
        await fixture.store_in_partition_1(30)
        stored = None if unavailable else await fixture.stores.history.positions(LOG)
        with capture_logs() as logged:
            assert await fixture.gaps_before_start({0: 0, 1: 20}, stored) == []
        line = UNKNOWN if unavailable else COUNTERS
        assert [entry["event"][: len(line)] for entry in logged] == [line]
        assert (await fixture.missing()).gaps == [Gap(LOG, 1, 0, 20)]
        await fixture.committer.tenants.try_mark_complete("elsewhere")
        assert (await fixture.missing("elsewhere")).gaps == []
        assert not await fixture.committer.tenants.try_mark_complete("acme")

    with_fixture(redis_url, database_url, go)


def test_a_gap_of_a_partition_that_history_never_had_is_closed(
    redis_url: str, database_url: str
) -> None:
    async def go(fixture: LossFixture) -> None:
        await fixture.count(10)
        assert await fixture.gaps_before_start({0: 0, 1: 20}, {}) == []
        assert (await fixture.missing()).gaps == [], "history has nothing of the partition"
        await fixture.gaps_before_start({0: 0, 1: 20}, None)
        assert (await fixture.missing()).gaps == [Gap(LOG, 1, 0, 20)]
        assert await fixture.committer.tenants.try_mark_complete("acme")
        assert await fixture.missing() == Missing([], [], False)

    with_fixture(redis_url, database_url, go)


def test_a_history_that_starts_empty_lacks_what_retention_took(
    redis_url: str, database_url: str
) -> None:
    """PostgreSQL was lost, and the topic no longer has all that the counters counted."""

    async def go(fixture: LossFixture) -> None:
        generation = await fixture.stores.counters.create(
            "acme", day=TODAY, timezone="UTC", complete=True, watermarks=[Position(LOG, 0, 5)]
        )
        assert generation.complete
        with capture_logs() as logged:
            gaps = await fixture.gaps_before_start({0: 20}, {})
        assert gaps == [HOLE._replace(first_offset=5, next_offset=20)]
        assert [entry["event"][: len(HISTORY)] for entry in logged] == [HISTORY]
        assert await fixture.gaps_before_start({0: 20}, {0: 7}) == [], "the batch begins with it"
        assert await fixture.gaps_before_start({0: 5}, {}) == [], "nothing is lost"
        sink = HistorySink(
            fixture.stores.history,
            topic="t",
            buffer_events=10,
            batch_events=10,
            buffer_bytes=1_000,
            isolation=Isolation(),
            on_behind=lambda behind: pytest.fail(str(behind)),
        )
        await sink.start_session(LOG, {0: None}, gaps)
        writing = asyncio.create_task(sink.run())
        batch = HistoryBatch(sourced(make_event(), first=29), 30, lambda: None)
        await sink.put(0, batch)
        await sink.drain()
        writing.cancel()
        assert await fixture.stores.history.gaps() == gaps

    with_fixture(redis_url, database_url, go)
