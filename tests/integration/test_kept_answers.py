"""Answers that are kept: after whatever changes counters, they are the bytes of a fresh answer.

Two complete applications ask the same Redis. One keeps answers, the other one keeps none.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from store import metrics
from store.audit import Correction
from store.catalog_document import CatalogDocument, OfferItem
from store.counters import Committed, Generation, Rolled
from store.records import GROUPINGS, Event
from store.settings import Settings
from store.shards import by_shard
from store.windows import DAY_MS, PERIODS, Period
from streams.aggregate import aggregate
from tests.support.events import NOW_MS, make_event, sourced
from tests.support.reader_pair import ReaderPair, Tenant, open_reader_pair

TOPIC_ID = "0b0c3a52-8b1e-4a53-9d1f-0d7a4a1f0c11"
QUERIES = (
    *(f"groupBy={g}&days={days}" for g in GROUPINGS for days in (1, 7, 30, 365)),
    *(f"groupBy={g}&days={days}&window=exact" for g in GROUPINGS for days in (3, 12)),
    "limit=1&offset=1&days=365",
    "groupBy=customer&limit=2&offset=1&days=7",
)
EXAMPLES, EXAMPLES_LONG = 15, 75
_serial = itertools.count()


def kept() -> float:
    """Return how many answers of this process were sent again."""
    value: float = metrics.API_ANSWER_CACHE.labels("kept")._value.get()
    return value


#: Number of a generation, name of a shard, partition.
Place = tuple[int, str, int]


class Scene:
    """A tenant, whatever may change its counters, and the two readers."""

    def __init__(self, pair: ReaderPair, fresh: httpx.AsyncClient, tenant: Tenant) -> None:
        self.pair, self.fresh, self.tenant = pair, fresh, tenant
        self.name = tenant.name
        self.offsets: dict[Place, int] = {}
        self._snapshot: tuple[dict[bytes, bytes], dict[Place, int]] | None = None

    async def check(self, queries: Sequence[str]) -> None:
        """Compare the readers: with what was kept before, and with what is kept now."""
        for query in queries:
            for _ in range(2):
                given = await self.tenant.ask(query)
                fresh = await self.tenant.ask(query, of=self.fresh)
                assert given.status_code == fresh.status_code == 200, given.text
                assert given.content == fresh.content, query
                assert _headers(given) == _headers(fresh), query

    async def shards(self) -> Mapping[str, Generation]:
        """Return the active generation of each shard."""
        return {
            each.tenant: each async for each in self.pair.counters.active_generations([self.name])
        }

    # --- what changes counters

    async def commit(self, events: Sequence[Event], *, partition: int, pending: bool) -> None:
        shards = await self.shards()
        if not shards:
            return
        layout = shards[self.name].layout
        for name, of_shard in by_shard(layout, sourced(*events)).items():
            batch = [each.event for each in of_shard]
            await self._commit(shards[name], batch, partition=partition, pending=pending)

    async def _commit(
        self, generation: Generation, batch: Sequence[Event], *, partition: int, pending: bool
    ) -> None:
        place = (generation.number, generation.tenant, partition)
        first = self.offsets.get(place)
        answer = await self.pair.counters.commit(
            generation,
            topic_id=TOPIC_ID,
            partition=partition,
            expected_offset=first,
            next_offset=(first or 0) + len(batch),
            deltas=aggregate(sourced(*batch, first=first or 0), self.tenant.calendar),
            keep_pending=pending,
        )
        assert isinstance(answer, Committed) and not answer.damaged, answer
        self.offsets[place] = (first or 0) + len(batch)

    async def fold(self) -> None:
        for generation in (await self.shards()).values():
            await self.pair.counters.fold(generation)

    async def roll(self, *, days: int, records_max: int) -> None:
        """Move the clock, and begin the roll; end it with more than one record."""
        self.pair.now_ms += days * DAY_MS
        today = self.tenant.calendar.day_of(self.pair.now_ms)
        for generation in (await self.shards()).values():
            while True:
                answer = await self.pair.counters.roll(
                    generation, today, now_ms=self.pair.now_ms, records_max=records_max
                )
                assert isinstance(answer, Rolled)
                if answer.finished or records_max == 1:
                    break

    async def swap(self, events: Sequence[Event]) -> None:
        """Activate a generation with other events up to the same offsets."""
        active = await self.pair.counters.generation(self.name)
        if active is None or active.shards > 1:
            return
        building = await self.pair.counters.build(
            self.name, day=active.day, timezone=active.timezone, token="t", watermarks=[]
        )
        for partition in (0, 1):
            counted = self.offsets.get((active.number, self.name, partition))
            if counted is not None:
                batch = [copy_of(event, self.name) for event in events]
                await self._commit(building, batch, partition=partition, pending=False)
                await self._advance(building, partition, counted)
        swapped = await self.pair.counters.swap(
            building, now_ms=self.pair.now_ms, behind=True, fewer=True
        )
        assert swapped is not None

    async def _advance(self, building: Generation, partition: int, offset: int) -> None:
        """Move the watermark without events, as for records of other tenants."""
        place = (building.number, building.tenant, partition)
        answer = await self.pair.counters.commit(
            building,
            topic_id=TOPIC_ID,
            partition=partition,
            expected_offset=self.offsets[place],
            next_offset=max(offset, self.offsets[place]),
            deltas=aggregate([], self.tenant.calendar),
        )
        assert isinstance(answer, Committed)
        self.offsets[place] = max(offset, self.offsets[place])

    async def rollback(self) -> None:
        await self.pair.counters.rollback(self.name, now_ms=self.pair.now_ms)

    async def adjust(self, offer: str, n: int) -> None:
        """Correct the count of an action, as the repair of an audit does."""
        audited = self.pair.counters.audited()
        chunk = await audited.read(self.name, "action", [])
        if chunk is None:
            return
        day = chunk.generation.day
        correction = Correction(offer, {"impression": n}, {(day, "impression"): n}, {})
        await audited.adjust(self.name, chunk.generation, "action", [correction])

    async def rank(self, periods: frozenset[Period], *, builds: bool) -> None:
        for generation in (await self.shards()).values():
            if builds:
                await self.pair.counters.ranks.build(generation, periods, customers_max=2)
            else:
                await self.pair.counters.ranks.drop(generation, periods)

    async def catalog(self, offer: str, name: str) -> None:
        await self.tenant.import_catalog(
            CatalogDocument(tenant=self.name, offers=[OfferItem(id=offer, name=name)])
        )

    async def mark_evicted(self) -> None:
        generation = await self.pair.counters.generation(self.name)
        if generation is not None:
            await self.pair.counters.mark_evicted(generation, self.pair.now_ms)

    # --- lost writes

    async def snapshot(self) -> None:
        """Copy all keys of the tenant, as a replica has them that gets nothing from now on."""
        dumped = {key: await self.pair.client.dump(key) for key in await self._keys()}
        self._snapshot = dumped, dict(self.offsets)

    async def lose(self) -> None:
        """Put the copy in place of the keys, as a failover to that replica does."""
        if self._snapshot is None:
            return
        dumped, offsets = self._snapshot
        if keys := await self._keys():
            await self.pair.client.delete(*keys)
        for key, value in dumped.items():
            await self.pair.client.restore(key, 0, value)
        self.offsets = dict(offsets)

    async def _keys(self) -> list[bytes]:
        pattern = f"{self.pair.settings.redis_prefix}:{{{self.name}/*"
        return [key async for key in self.pair.client.scan_iter(match=pattern, count=1_000)]


def copy_of(event: Event, tenant: str) -> Event:
    """Return a new event of `tenant` with the same contents: a world may be tried again."""
    return make_event(
        tenant=tenant,
        customer=event.customer,
        offer=event.offer,
        outcome=event.outcome,
        occurred_ms=event.occurred_ms,
    )


def _headers(response: httpx.Response) -> dict[str, str]:
    """Return the headers of an answer, without those of the request."""
    return {k: v for k, v in response.headers.items() if k != "x-request-id"}


async def open_scene(pair: ReaderPair, **options: Any) -> Scene:
    tenant = await pair.tenant(f"t{next(_serial)}", "UTC", **options)
    return Scene(pair, await pair.uncached(), tenant)


# --- any sequence of changes

offers = st.sampled_from(("o1", "o2", "o3"))
events = st.lists(
    st.builds(
        make_event,
        customer=st.sampled_from(("C-1", "C-2", "C-3", "C-4")),
        offer=offers,
        outcome=st.sampled_from(("impression", "click", "convert", "dismiss")),
        occurred_ms=st.sampled_from((0, 1, 6, 8, 40)).map(lambda days: NOW_MS - days * DAY_MS),
    ),
    min_size=1,
    max_size=4,
)
periods = st.frozensets(st.sampled_from(PERIODS[:-1]), min_size=1)
steps = st.one_of(
    st.tuples(st.just("commit"), events, st.sampled_from((0, 1)), st.booleans()),
    st.tuples(st.just("commit"), events, st.sampled_from((0, 1)), st.booleans()),
    st.tuples(st.just("fold")),
    st.tuples(st.just("roll"), st.sampled_from((0, 0, 1, 6)), st.sampled_from((1, 100, 100))),
    st.tuples(st.just("swap"), events),
    st.tuples(st.just("rollback")),
    st.tuples(st.just("adjust"), offers, st.sampled_from((1, 2))),
    st.tuples(st.just("rank"), periods, st.booleans()),
    st.tuples(st.just("catalog"), offers, st.sampled_from(("Gold", "Silver"))),
    st.tuples(st.just("mark_evicted")),
    st.tuples(st.just("snapshot")),
    st.tuples(st.just("lose")),
)
worlds = st.tuples(
    st.booleans(),
    st.sampled_from((1, 1, 2)),
    st.lists(st.tuples(steps, st.lists(st.sampled_from(QUERIES), max_size=6)), max_size=10),
)


async def run(scene: Scene, step: Sequence[Any]) -> None:
    """Make one change."""
    match step:
        case ("commit", batch, partition, pending):
            copies = [copy_of(event, scene.name) for event in batch]
            await scene.commit(copies, partition=partition, pending=pending)
        case ("roll", days, records_max):
            await scene.roll(days=days, records_max=records_max)
        case ("swap", batch):
            await scene.swap(batch)
        case ("rank", of, builds):
            await scene.rank(of, builds=builds)
        case (name, *arguments):
            await getattr(scene, name)(*arguments)


@pytest.mark.timeout(900)  # after a failure, Hypothesis searches for the smallest world
@pytest.mark.parametrize(
    "examples", [EXAMPLES, pytest.param(EXAMPLES_LONG, marks=pytest.mark.long)]
)
def test_an_answer_that_is_kept_is_the_fresh_one_after_any_changes(
    redis_url: str, database_url: str, examples: int
) -> None:
    stores = Settings(auth_mode="open", redis_url=redis_url, database_url=database_url)

    async def check(pair: ReaderPair, world: Any) -> None:
        all_ranks, shards, changes = world
        pair.now_ms = NOW_MS
        scene = await open_scene(pair, all_ranks=all_ranks, shards=shards)
        for step, queries in changes:
            await run(scene, step)
            await scene.check(queries)
        await scene.check(QUERIES)

    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        pair = runner.run(stack.enter_async_context(open_reader_pair(stores)))

        @settings(
            max_examples=examples,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        )
        @given(worlds)
        def go(world: Any) -> None:
            runner.run(check(pair, world))

        before = kept()
        try:
            go()
        finally:
            runner.run(stack.aclose())
    assert kept() - before > examples * len(QUERIES) / 4, "answers were kept, and compared"


# --- single changes


@pytest.fixture
def with_scene(redis_url: str, database_url: str) -> Callable[..., None]:
    """Return a function that runs a test body on a scene of two actions."""
    stores = Settings(auth_mode="open", redis_url=redis_url, database_url=database_url)

    def go(body: Callable[[Scene], Any], **options: Any) -> None:
        async def with_pair() -> None:
            async with open_reader_pair(stores) as pair:
                scene = await open_scene(pair, **options)
                first = [event_of(scene, offer=offer) for offer in ("o1", "o1", "o2")]
                await scene.commit(first, partition=0, pending=False)
                await body(scene)

        asyncio.run(with_pair())

    return go


def event_of(scene: Scene, **values: Any) -> Event:
    return make_event(tenant=scene.name, **values)


def test_an_answer_is_kept_until_something_changes(with_scene: Callable[..., None]) -> None:
    async def body(scene: Scene) -> None:
        await scene.check(QUERIES)
        before = kept()
        for query in QUERIES:
            await scene.tenant.ask(query)
        assert kept() - before == len(QUERIES)
        await scene.commit([event_of(scene)], partition=0, pending=False)
        before = kept()
        await scene.tenant.ask(QUERIES[0])
        assert kept() == before

    with_scene(body)


def test_pending_deltas_change_the_lag_of_actions_and_the_answers_about_customers(
    with_scene: Callable[..., None],
) -> None:
    async def body(scene: Scene) -> None:
        actions, customers = "days=365", "days=365&groupBy=customer"
        await scene.check([actions, customers])
        before = kept()
        await scene.commit([event_of(scene)], partition=0, pending=True)
        await scene.tenant.ask(actions)
        assert kept() - before == 1
        await scene.tenant.ask(customers)
        assert kept() - before == 1
        await scene.check([actions, customers])
        await scene.fold()
        before = kept()
        await scene.tenant.ask(customers)
        assert kept() - before == 1
        await scene.tenant.ask(actions)
        assert kept() - before == 1
        await scene.check([actions, customers])

    with_scene(body)


@pytest.mark.parametrize("shards", [1, 2])
def test_a_lost_commit_that_is_made_again_with_other_events_is_noticed(
    with_scene: Callable[..., None], shards: int
) -> None:
    """Offsets, numbers of events and of commits are the same again, and the contents are not."""

    async def body(scene: Scene) -> None:
        await scene.snapshot()
        lost = [event_of(scene, offer="o1", customer=f"C-{i}") for i in range(8)]
        others = [event_of(scene, offer="o2", customer=f"C-{i}") for i in range(8)]
        await scene.commit(lost, partition=0, pending=False)
        await scene.check(QUERIES)
        await scene.lose()
        await scene.commit(others, partition=0, pending=False)
        await scene.check(QUERIES)

    with_scene(body, shards=shards)


def test_an_older_version_that_is_restored_is_answered(with_scene: Callable[..., None]) -> None:
    async def body(scene: Scene) -> None:
        await scene.check(QUERIES)
        await scene.snapshot()
        await scene.commit([event_of(scene)], partition=0, pending=False)
        await scene.check(QUERIES)
        await scene.lose()
        await scene.check(QUERIES)

    with_scene(body)


def test_counters_that_begin_again_under_the_same_number_are_noticed(
    with_scene: Callable[..., None],
) -> None:
    """All keys are gone, and the same offsets are counted again, with other events."""

    async def body(scene: Scene) -> None:
        await scene.check(QUERIES)
        generation = await scene.pair.counters.generation(scene.name)
        assert generation is not None
        await scene.pair.client.flushdb()
        again = await scene.pair.counters.create(
            scene.name,
            day=generation.day,
            timezone="UTC",
            complete=True,
            watermarks=[],
        )
        assert again.number == generation.number
        await scene.check(QUERIES)
        scene.offsets.clear()
        others = [event_of(scene, offer=offer) for offer in ("o2", "o2", "o1")]
        await scene.commit(others, partition=0, pending=False)
        await scene.check(QUERIES)

    with_scene(body)


def test_a_commit_of_a_worker_that_sets_no_stamp_is_noticed(
    with_scene: Callable[..., None],
) -> None:
    """Workers of the version before go on while readers are upgraded."""

    async def body(scene: Scene) -> None:
        await scene.check(QUERIES)
        meta = f"{scene.pair.settings.redis_prefix}:{{{scene.name}/0}}:1:meta"
        stamps = await scene.pair.client.hmget(meta, "stamp", "stamp_u")
        assert all(stamps)
        for pending in (False, True):
            await scene.commit([event_of(scene)], partition=0, pending=pending)
            await scene.pair.client.hset(
                meta, mapping=dict(zip(("stamp", "stamp_u"), stamps, strict=True))
            )
            await scene.check(QUERIES)
        await scene.fold()
        await scene.pair.client.hset(meta, "stamp", stamps[0])
        await scene.check(QUERIES)
        await scene.pair.client.hdel(meta, "stamp", "stamp_u")
        before = kept()
        await scene.check(QUERIES)
        assert kept() == before, "without a stamp nothing is kept"

    with_scene(body)


def test_no_answer_is_older_than_its_question(with_scene: Callable[..., None]) -> None:
    """Others ask the same meanwhile: what was counted before a question is in its answer."""

    async def body(scene: Scene) -> None:
        query, done = "days=365", asyncio.Event()

        async def keep_asking() -> None:
            while not done.is_set():
                await scene.tenant.ask(query)

        others = [asyncio.create_task(keep_asking()) for _ in range(4)]
        try:
            for n in range(4, 60):
                await scene.commit([event_of(scene)], partition=0, pending=False)
                answers = await asyncio.gather(*(scene.tenant.ask(query) for _ in range(3)))
                for answer in answers:
                    rows = answer.json()["summary"]
                    assert sum(row["total"] for row in rows) == n
        finally:
            done.set()
            for task in others:
                with suppress(asyncio.CancelledError):
                    await task

    with_scene(body)


def test_equal_questions_of_two_tenants_are_answered_apart(
    with_scene: Callable[..., None],
) -> None:
    async def body(scene: Scene) -> None:
        other = await open_scene(scene.pair)
        await other.commit([event_of(other, offer="o9")], partition=0, pending=False)
        for _ in range(2):
            answers = await asyncio.gather(
                *(each.tenant.ask("days=365") for each in (scene, other, scene, other))
            )
            ids = [[row["id"] for row in answer.json()["summary"]] for answer in answers]
            assert ids == [["o1", "o2"], ["o9"]] * 2

    with_scene(body)
