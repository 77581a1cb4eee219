"""Contract suite of a counter store, run against every implementation."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from store.counters import (
    Activated,
    Behind,
    Committed,
    CounterStore,
    Duplicates,
    Fewer,
    Generation,
    Refused,
    Rolled,
    Shortfall,
    TenantOverview,
)
from store.records import GROUPINGS, CounterPage, Event, Grouping, Incomplete, Question
from store.windows import DAY_MS, PERIODS, Calendar, Period, Window, exact_window, window_of
from streams.aggregate import aggregate, by_slot, distinct
from tests.support.events import NOW_MS, OUTCOMES, TODAY, events, make_event, sourced
from tests.support.oracle import groups_of, page_of

LOG = "0b0c3a52-8b1e-4a53-9d1f-0d7a4a1f0c11"
UTC = Calendar("UTC")

OpenStore = Callable[[], AbstractAsyncContextManager[CounterStore]]


def question(
    group_by: Grouping, period: Period, *, today: int = TODAY, limit: int = 100, offset: int = 0
) -> Question:
    return Question("acme", group_by, period, window_of(period, today), today, "UTC", limit, offset)


def exact_question(
    group_by: Grouping, days: int, *, today: int = TODAY, limit: int = 100, offset: int = 0
) -> Question:
    """Return a question on an exact window of `days` days, which no period has."""
    window = exact_window(days, today)
    return Question("acme", group_by, None, window, today, "UTC", limit, offset)


@dataclasses.dataclass
class Writer:
    """Minimal worker: caches generation and watermarks, commits and rolls."""

    store: CounterStore
    generation: Generation
    watermarks: dict[int, int] = dataclasses.field(default_factory=dict)

    async def commit(self, batch: Sequence[Event], *, partition: int = 0) -> Any:
        first = self.watermarks.get(partition)
        start = first or 0
        kept, _ = distinct(sourced(*batch, first=start))
        kept = list(by_slot(kept))
        while True:
            answer = await self.store.commit(
                self.generation,
                topic_id=LOG,
                partition=partition,
                expected_offset=first,
                next_offset=start + len(batch),
                deltas=aggregate(kept, Calendar(self.generation.timezone)),
            )
            if isinstance(answer, Duplicates):
                kept = [e for i, e in enumerate(kept) if i not in set(answer.indexes)]
                continue
            if isinstance(answer, Committed):
                self.watermarks[partition] = start + len(batch)
            return answer

    async def roll(self, day: int, *, records_max: int = 1_000) -> None:
        while True:
            answer = await self.store.roll(
                self.generation, day, now_ms=NOW_MS, records_max=records_max
            )
            assert isinstance(answer, Rolled)
            self.generation = self.generation._replace(day=answer.day)
            if answer.finished:
                return


async def start(store: CounterStore, *, day: int = TODAY, complete: bool = True) -> Writer:
    return Writer(
        store,
        await store.create("acme", day=day, timezone="UTC", complete=complete, watermarks=[]),
    )


async def assert_counts(store: CounterStore, counted: Sequence[Event], today: int) -> None:
    """Compare every grouping, period and page of the store with the expected counts."""
    for group_by in GROUPINGS:
        for period in PERIODS:
            groups = groups_of(counted, group_by, window_of(period, today), UTC)
            for limit, offset in ((100, 0), (2, 1), (3, len(groups))):
                answer = await store.read(
                    question(group_by, period, today=today, limit=limit, offset=offset)
                )
                assert isinstance(answer, CounterPage), (answer, group_by, period)
                assert answer.page == page_of(groups, limit, offset), (group_by, period, offset)


#: Windows that are a period plus some tiles, minus some, and tiles alone.
EXACT_DAYS = (2, 3, 4, 6, 8, 13, 19, 20, 30)


async def assert_counts_exact(
    store: CounterStore, counted: Sequence[Event], today: int, days: Sequence[int] = EXACT_DAYS
) -> None:
    """Do the same as `assert_counts` for exact windows."""
    for group_by in GROUPINGS:
        for n in days:
            groups = groups_of(counted, group_by, exact_window(n, today), UTC)
            for limit, offset in ((100, 0), (2, 1), (3, len(groups))):
                answer = await store.read(
                    exact_question(group_by, n, today=today, limit=limit, offset=offset)
                )
                assert isinstance(answer, CounterPage), (answer, group_by, n)
                assert answer.page == page_of(groups, limit, offset), (group_by, n, offset)


class CounterStoreContract:
    """Tests of the contract. Subclasses define `open_store`, which yields an empty store."""

    @pytest.fixture
    def open_store(self) -> OpenStore:
        raise NotImplementedError

    @pytest.fixture
    def open_limited_store(self) -> Callable[[int], AbstractAsyncContextManager[CounterStore]]:
        """Return a function that opens a store with a maximum of groups per grouping."""
        raise NotImplementedError

    def check(self, open_store: OpenStore, body: Callable[[CounterStore], Awaitable[None]]) -> None:
        async def go() -> None:
            async with open_store() as store:
                await body(store)

        asyncio.run(go())

    # ---- counting

    @settings(
        max_examples=40,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    @given(data=st.data())
    def test_counts_are_the_sum_of_the_distinct_events_on_every_day(
        self, open_store: OpenStore, data: st.DataObject
    ) -> None:
        """Commit batches, duplicates, late and early events and rolls in any order.

        Each answer equals the expected counts over the distinct events.
        """

        async def body(store: CounterStore) -> None:
            today = TODAY
            writer = await start(store, day=today)
            counted: list[Event] = []
            for _ in range(data.draw(st.integers(1, 6))):
                today += data.draw(st.sampled_from((0, 0, 1, 2, 6, 7, 30, 31, 40)))
                await writer.roll(today, records_max=data.draw(st.sampled_from((1, 3, 100))))
                fresh = data.draw(st.lists(events(days=range(today - 40, today + 4)), max_size=12))
                again = data.draw(st.lists(st.sampled_from(counted), max_size=3) if counted
                                  else st.just([]))  # fmt: skip
                batch = data.draw(st.permutations(fresh + again))
                partition = data.draw(st.integers(0, 2))
                assert isinstance(await writer.commit(batch, partition=partition), Committed)
                counted += fresh
                await assert_counts(store, counted, today)
                days = data.draw(st.sets(st.integers(2, 30), min_size=2, max_size=3))
                await assert_counts_exact(store, counted, today, sorted(days - {7}))

        self.check(open_store, body)

    def test_a_window_of_any_number_of_days_is_exact(self, open_store: OpenStore) -> None:
        """Count one interaction a day, in a group of all days and in groups of that day.

        A window of n days has n interactions of the former, and none of the day before.
        """

        async def body(store: CounterStore) -> None:
            writer = await start(store)
            counted = []
            for age in range(-1, 33):
                at_ms = NOW_MS - age * DAY_MS
                for customer in ("C-all", f"C-only-{age}", f"C-{age % 5}"):
                    counted.append(
                        make_event(
                            customer=customer,
                            offer=f"off_{age % 7}",
                            outcome=OUTCOMES[age % len(OUTCOMES)],
                            occurred_ms=at_ms,
                        )
                    )
            await writer.commit(counted)
            days = [n for n in range(1, 32) if n not in (1, 7, 31)]
            await assert_counts_exact(store, counted, TODAY, days)
            for n in days:
                answer = await store.read(exact_question("customer", n))
                assert isinstance(answer, CounterPage)
                first = answer.page.groups[0]
                assert (first.id, first.total) == ("C-all", n)
                assert first.unique_actions == min(n, 7)
            await writer.roll(TODAY + 1, records_max=7)
            await assert_counts_exact(store, counted, TODAY + 1, days)

        self.check(open_store, body)

    def test_events_ahead_of_the_window_day_are_counted_on_their_days(
        self, open_store: OpenStore
    ) -> None:
        """Count events of several days after the window day, as a worker does after a pause.

        Some have the same customer and offer. Each enters the windows on its day.
        """

        async def body(store: CounterStore) -> None:
            writer = await start(store)
            counted = [
                make_event(offer=offer, occurred_ms=NOW_MS + ahead * DAY_MS)
                for ahead, offer in ((3, "a"), (1, "a"), (2, "b"), (1, "b"), (3, "x:y"), (2, "x:y"))
            ]
            for event in counted:
                await writer.commit([event])
            for today in (TODAY, TODAY + 2, TODAY + 3, TODAY + 9, TODAY + 34):
                await writer.roll(today)
                await assert_counts(store, counted, today)
                await assert_counts_exact(store, counted, today)

        self.check(open_store, body)

    def test_ties_in_an_exact_window_come_in_ascending_order_of_id(
        self, open_store: OpenStore
    ) -> None:
        """Sort ids that differ in the last characters, or only in length.

        Their totals differ in the period from which the window is computed.
        """

        async def body(store: CounterStore) -> None:
            writer = await start(store)
            ids = ["é", "b", "a", "B", "😀", "_", "ab", "aB", "z" * 127, "z" * 128, "y" * 127 + "z"]
            old = [
                make_event(offer=id_, occurred_ms=NOW_MS - 25 * DAY_MS)
                for place, id_ in enumerate(ids)
                for _ in range(place % 3)
            ]
            await writer.commit(old + [make_event(offer=id_) for id_ in ids])
            for days in (3, 6, 8, 20):
                answer = await store.read(exact_question("action", days))
                assert isinstance(answer, CounterPage)
                assert [g.id for g in answer.page.groups] == sorted(ids)

        self.check(open_store, body)

    def test_ties_come_in_ascending_order_of_id(self, open_store: OpenStore) -> None:
        async def body(store: CounterStore) -> None:
            writer = await start(store)
            await writer.commit([make_event(offer=o) for o in ("é", "b", "a", "B", "😀", "_")])
            answer = await store.read(question("action", "daily"))
            assert isinstance(answer, CounterPage)
            assert [g.id for g in answer.page.groups] == ["B", "_", "a", "b", "é", "😀"]

        self.check(open_store, body)

    def test_more_identities_than_one_bucket_are_each_counted_once(
        self, open_store: OpenStore
    ) -> None:
        """Grow identity buckets while they are filled; no identity is lost."""

        async def body(store: CounterStore) -> None:
            writer = await start(store)
            batch = [make_event(identity=f"id-{i}") for i in range(3_000)]
            for i in range(0, 3_000, 500):
                await writer.commit(batch[i : i + 500])
            for i in range(0, 3_000, 500):
                await writer.commit(batch[i : i + 500], partition=1)
            await assert_counts(store, batch, TODAY)

        self.check(open_store, body)

    # ---- compare and set

    def test_a_writer_with_another_watermark_is_refused_and_told_the_true_one(
        self, open_store: OpenStore
    ) -> None:
        async def body(store: CounterStore) -> None:
            writer, zombie = await start(store), await start(store)
            batch = [make_event() for _ in range(3)]
            assert await writer.commit(batch) == Committed()
            assert await zombie.commit([make_event()]) == Refused(1, TODAY, 3)
            zombie.watermarks[0] = 7
            assert await zombie.commit([make_event()]) == Refused(1, TODAY, 3)
            await assert_counts(store, batch, TODAY)

        self.check(open_store, body)

    def test_a_writer_with_another_window_day_is_refused(self, open_store: OpenStore) -> None:
        async def body(store: CounterStore) -> None:
            writer, other = await start(store), await start(store)
            await other.roll(TODAY + 1)
            assert await writer.commit([make_event()]) == Refused(1, TODAY + 1, None)
            await assert_counts(store, [], TODAY + 1)

        self.check(open_store, body)

    def test_a_writer_with_another_generation_is_refused(self, open_store: OpenStore) -> None:
        async def body(store: CounterStore) -> None:
            writer = await start(store)
            writer.generation = writer.generation._replace(number=9)
            assert await writer.commit([make_event()]) == Refused(1, TODAY, None)
            await assert_counts(store, [], TODAY)

        self.check(open_store, body)

    def test_a_writer_without_a_generation_is_told_that_there_is_none(
        self, open_store: OpenStore
    ) -> None:
        async def body(store: CounterStore) -> None:
            writer = Writer(store, Generation("acme", 1, TODAY, "UTC", True))
            assert await writer.commit([make_event()]) == Refused(None, None, None)
            assert await store.generation("acme") is None

        self.check(open_store, body)

    def test_watermarks_belong_to_their_log(self, open_store: OpenStore) -> None:
        async def body(store: CounterStore) -> None:
            writer = await start(store)
            await writer.commit([make_event()], partition=2)
            assert await store.watermarks(writer.generation, LOG) == {2: 1}
            assert await store.watermarks(writer.generation, "another") == {}

        self.check(open_store, body)

    # ---- when counters answer

    def test_counters_that_are_not_complete_answer_nothing(self, open_store: OpenStore) -> None:
        async def body(store: CounterStore) -> None:
            assert await store.read(question("action", "daily")) == Incomplete("no_generation")
            writer = await start(store, complete=False)
            await writer.commit([make_event()])
            assert await store.read(question("action", "alltime")) == Incomplete("not_complete")
            await store.mark_complete(writer.generation)
            assert isinstance(await store.read(question("action", "alltime")), CounterPage)

        self.check(open_store, body)

    def test_a_generation_that_is_behind_is_complete_once_it_has_caught_up(
        self, open_store: OpenStore
    ) -> None:
        """It is refused, or activated and answers when its last partition has caught up."""

        async def body(store: CounterStore) -> None:
            live = await start(store)
            batch = [make_event(offer=f"off_{i}") for i in range(9)]
            await live.commit(batch[:6], partition=0)
            await live.commit(batch[6:8], partition=1)
            behind = Writer(store, await self._building(store, "t"))
            await behind.commit(batch[:4], partition=0)
            missing = [Shortfall((LOG, 0), 4, 6), Shortfall((LOG, 1), 0, 2)]
            assert await store.swap(behind.generation, now_ms=NOW_MS) == Behind(missing)
            await assert_counts(store, batch[:8], TODAY)
            answer = await store.swap(behind.generation, now_ms=NOW_MS, behind=True)
            assert answer == Activated(2, 1, missing)
            active = Writer(store, behind.generation._replace(build_token=""), behind.watermarks)
            for part, partition in ((batch[4:6], 0), (batch[6:7], 1), (batch[7:9], 1)):
                asked = await store.read(question("action", "alltime"))
                assert asked == Incomplete("not_complete"), part
                await active.commit(part, partition=partition)
            await assert_counts(store, batch, TODAY)

        self.check(open_store, body)

    def test_a_rollback_is_complete_once_it_has_counted_what_came_since(
        self, open_store: OpenStore
    ) -> None:
        async def body(store: CounterStore) -> None:
            first = await start(store)
            batch = [make_event(offer=f"off_{i}") for i in range(5)]
            await first.commit(batch[:2])
            second = Writer(store, await self._building(store, "t"))
            await second.commit(batch[:2])
            assert await store.swap(second.generation, now_ms=NOW_MS) == Activated(2, 1, [])
            second.generation = second.generation._replace(build_token="")
            await second.commit(batch[2:4])
            back = await store.rollback("acme", now_ms=NOW_MS)
            assert back == Activated(1, 2, [Shortfall((LOG, 0), 2, 4)])
            assert await store.read(question("action", "alltime")) == Incomplete("not_complete")
            await first.commit(batch[2:5])
            await assert_counts(store, batch, TODAY)

        self.check(open_store, body)

    def test_counters_that_started_empty_stay_incomplete_when_rolled_back_to(
        self, open_store: OpenStore
    ) -> None:
        """Reaching the other generation's watermarks does not give them what history has."""

        async def body(store: CounterStore) -> None:
            first = await start(store, complete=False)
            await first.commit([make_event()])
            second = Writer(store, await self._building(store, "t"))
            more = [make_event(), make_event()]
            await second.commit(more)
            assert isinstance(await store.swap(second.generation, now_ms=NOW_MS), Activated)
            await assert_counts(store, more, TODAY)
            await store.rollback("acme", now_ms=NOW_MS)
            await first.commit([make_event()])
            assert await store.read(question("action", "alltime")) == Incomplete("not_complete")
            await store.mark_complete(first.generation)
            assert isinstance(await store.read(question("action", "alltime")), CounterPage)

        self.check(open_store, body)

    def test_fewer_events_than_the_offsets_behind_explain_are_refused(
        self, open_store: OpenStore
    ) -> None:
        """Reaching what it is behind by would complete it without the rest."""

        async def body(store: CounterStore) -> None:
            live = await start(store)
            batch = [make_event(offer=f"off_{i}") for i in range(6)]
            await live.commit(batch)
            building = await self._building(store, "t")
            answer = await store.commit(
                building,
                topic_id=LOG,
                partition=0,
                expected_offset=None,
                next_offset=4,
                deltas=aggregate(sourced(*batch[:3]), UTC),
            )
            assert answer == Committed()
            assert await store.swap(building, now_ms=NOW_MS, behind=True) == Fewer(3, 6)
            await assert_counts(store, batch, TODAY)
            done = await store.swap(building, now_ms=NOW_MS, behind=True, fewer=True)
            assert done == Activated(2, 1, [Shortfall((LOG, 0), 4, 6)])

        self.check(open_store, body)

    def test_a_generation_with_fewer_events_is_refused(self, open_store: OpenStore) -> None:
        async def body(store: CounterStore) -> None:
            live = await start(store)
            batch = [make_event(offer=f"off_{i}") for i in range(3)]
            await live.commit(batch)
            building = await self._building(store, "t")
            answer = await store.commit(
                building,
                topic_id=LOG,
                partition=0,
                expected_offset=None,
                next_offset=3,
                deltas=aggregate(sourced(*batch[:2]), UTC),
            )
            assert answer == Committed()
            assert await store.swap(building, now_ms=NOW_MS) == Fewer(2, 3)
            await assert_counts(store, batch, TODAY)
            done = await store.swap(building, now_ms=NOW_MS, fewer=True)
            assert done == Activated(2, 1, [])
            await assert_counts(store, batch[:2], TODAY)

        self.check(open_store, body)

    @staticmethod
    async def _building(store: CounterStore, token: str) -> Generation:
        return await store.build("acme", day=TODAY, timezone="UTC", token=token, watermarks=[])

    def test_another_day_or_zone_than_the_stores_is_not_answered(
        self, open_store: OpenStore
    ) -> None:
        async def body(store: CounterStore) -> None:
            await start(store)
            for period in ("daily", "weekly", "monthly"):
                asked = question("action", period, today=TODAY + 1)
                assert await store.read(asked) == Incomplete("other_day")
            exact = exact_question("action", 5, today=TODAY + 1)
            assert await store.read(exact) == Incomplete("other_day")
            for asked in (question("action", "alltime"), exact_question("action", 5)):
                asked = asked._replace(timezone="Asia/Tokyo")
                assert await store.read(asked) == Incomplete("other_timezone")

        self.check(open_store, body)

    def test_windows_are_not_answered_while_a_roll_is_under_way(
        self, open_store: OpenStore
    ) -> None:
        """Never mix rolled and unrolled records in a response."""

        async def body(store: CounterStore) -> None:
            writer = await start(store)
            batch = [make_event(customer=f"C-{i}") for i in range(5)]
            await writer.commit(batch)
            answer = await store.roll(writer.generation, TODAY + 7, now_ms=NOW_MS, records_max=1)
            assert answer == Rolled(TODAY + 7, False, 1)
            writer.generation = writer.generation._replace(day=TODAY + 7)
            asked = question("customer", "weekly", today=TODAY + 7)
            assert await store.read(asked) == Incomplete("rolling")
            exact = exact_question("customer", 8, today=TODAY + 7)
            assert await store.read(exact) == Incomplete("rolling")
            await writer.roll(TODAY + 7)
            await assert_counts(store, batch, TODAY + 7)
            await assert_counts_exact(store, batch, TODAY + 7)

        self.check(open_store, body)

    def test_a_window_that_would_take_too_long_is_not_answered(self, open_store: OpenStore) -> None:
        """Compute an exact window for few groups only; other groupings are answered.

        No read may block the store for more than some milliseconds.
        """

        async def body(store: CounterStore) -> None:
            writer = await start(store)
            batch = [make_event(customer=f"C-{i}", offer=f"off_{i % 9}") for i in range(1_000)]
            for i in range(0, 1_000, 500):
                await writer.commit(batch[i : i + 500])
            for days in EXACT_DAYS:
                asked = exact_question("customer", days)
                assert await store.read(asked) == Incomplete("too_many_groups")
                assert isinstance(await store.read(exact_question("action", days)), CounterPage)

        self.check(open_store, body)

    def test_a_window_beyond_the_tiles_is_not_answered(self, open_store: OpenStore) -> None:
        async def body(store: CounterStore) -> None:
            await start(store)
            for window in (
                exact_window(32, TODAY),
                exact_window(3, TODAY - 1),
                Window(None, TODAY),
                Window(TODAY - 2, None),
            ):
                asked = exact_question("action", 2)._replace(window=window)
                assert await store.read(asked) == Incomplete("no_period")

        self.check(open_store, body)

    # ---- limits

    def test_groups_beyond_the_limit_count_as_one_and_are_not_answered(
        self, open_limited_store: Callable[[int], AbstractAsyncContextManager[CounterStore]]
    ) -> None:
        """Count all groups beyond the limit as one.

        The grouping is no longer answered, since every answer would be wrong. Other groupings are
        answered, and existing groups are still counted.
        """

        async def body(store: CounterStore) -> None:
            writer = await start(store)
            batch = [make_event(customer=f"C-{i % 3}", offer=f"off_{i % 2}") for i in range(6)]
            assert await writer.commit(batch) == Committed()
            await assert_counts(store, batch, TODAY)
            more = [make_event(customer=f"C-{i}", offer="off_0", outcome="click") for i in range(9)]
            assert await writer.commit(more) == Committed([("customer", 6)])
            more += (late := [make_event(customer="C-1"), make_event(customer="C-8")])
            assert await writer.commit(late) == Committed([("customer", 1)])
            for period in PERIODS:
                assert await store.read(question("customer", period)) == Incomplete("capped")
            assert await store.read(exact_question("customer", 5)) == Incomplete("capped")
            await self._assert_answers(store, [*batch, *more], ("action", "treatment", "channel"))
            overview = await self._overview(store)
            assert overview.groups == {"action": 3, "treatment": 1, "channel": 1, "customer": 4}
            assert overview.overflow == {"customer": 7}

        self.check(lambda: open_limited_store(3), body)

    def test_with_actions_beyond_the_limit_customers_are_not_answered_either(
        self, open_limited_store: Callable[[int], AbstractAsyncContextManager[CounterStore]]
    ) -> None:
        """Customers are not answered either: some of their offers are counted as one."""

        async def body(store: CounterStore) -> None:
            writer = await start(store)
            batch = [make_event(offer=f"off_{i}", creative=f"cr_{i % 2}") for i in range(2_000)]
            for i in range(0, 2_000, 500):
                await writer.commit(batch[i : i + 500])
            assert await store.read(question("action", "alltime")) == Incomplete("capped")
            assert await store.read(question("customer", "alltime")) == Incomplete("capped")
            await self._assert_answers(store, batch, ("treatment", "channel"))
            overview = await self._overview(store)
            assert overview.groups == {"action": 6, "treatment": 2, "channel": 1, "customer": 1}
            assert overview.overflow == {"action": 1_995}

        self.check(lambda: open_limited_store(5), body)

    def test_a_limit_that_was_reached_stays_told_in_its_generation_only(
        self, open_limited_store: Callable[[int], AbstractAsyncContextManager[CounterStore]]
    ) -> None:
        """A generation rebuilt after the limit was raised answers everything."""

        async def body(store: CounterStore) -> None:
            writer = await start(store)
            batch = [make_event(channel=f"ch_{i}") for i in range(3)]
            assert await writer.commit(batch) == Committed([("channel", 1)])
            await writer.roll(TODAY + 40)
            today = question("channel", "alltime", today=TODAY + 40)
            assert await store.read(today) == Incomplete("capped")
            building = await store.build(
                "acme", day=TODAY + 40, timezone="UTC", token="t", watermarks=[]
            )
            rebuilt = Writer(store, building)
            assert await rebuilt.commit([*batch[:2], batch[1]]) == Committed()
            swapped = await store.swap(building, now_ms=NOW_MS, fewer=True)
            assert swapped == Activated(building.number, writer.generation.number, [])
            await assert_counts(store, batch[:2], TODAY + 40)

        self.check(lambda: open_limited_store(2), body)

    @staticmethod
    async def _assert_answers(
        store: CounterStore, counted: Sequence[Event], groupings: Sequence[Grouping]
    ) -> None:
        for group_by in groupings:
            for period in PERIODS:
                groups = groups_of(counted, group_by, window_of(period, TODAY), UTC)
                answer = await store.read(question(group_by, period))
                assert isinstance(answer, CounterPage), (answer, group_by, period)
                assert answer.page == page_of(groups, 100, 0)

    @staticmethod
    async def _overview(store: CounterStore) -> TenantOverview:
        (overview,) = await store.overview()
        return overview
