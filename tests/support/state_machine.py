"""State machine test of the commit protocol: any operation in any order (part of the contract).

Two workers read one topic of three partitions. Each has its own cache of generation and watermarks;
batches are sent again, workers resume late, windows roll, generations are rebuilt and swapped.
Whatever happens, the counters of the active generation are the sum over the distinct events of
each partition below that partition's watermark (invariant 1), a refused commit has changed nothing,
and the active generation is complete only while it has counted all that each generation before it
had counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from store.counters import (
    Activated,
    Behind,
    Committed,
    CounterStore,
    Deltas,
    Duplicates,
    Generation,
    Refused,
    Rolled,
)
from store.records import CounterPage, Event, Incomplete
from store.windows import Calendar, Period, window_of
from streams.aggregate import aggregate, by_slot, distinct
from tests.support.contract import LOG, OpenStore, question
from tests.support.events import NOW_MS, TODAY, events, sourced
from tests.support.oracle import groups_of

UTC = Calendar("UTC")
PARTITIONS = 3
RANKED: tuple[Period, ...] = ("daily", "weekly", "monthly")


class Protocol(RuleBasedStateMachine):
    """State machine of the commit protocol. Subclasses set `open_store`."""

    open_store: ClassVar[OpenStore]

    def __init__(self) -> None:
        super().__init__()
        self._runner = asyncio.Runner()
        self._context = type(self).open_store()
        self.store: CounterStore = self.go(self._context.__aenter__())
        self.topic: list[list[Event]] = [[] for _ in range(PARTITIONS)]
        self.seen: list[Event] = []
        self.today = TODAY
        self.tokens = 0
        self.reached: dict[int, int] = {}
        """Partition -> highest watermark that any active generation had."""

    def go(self, call: Awaitable[Any]) -> Any:
        async def wait() -> Any:
            return await call

        return self._runner.run(wait())

    def teardown(self) -> None:
        self.go(self._context.__aexit__(None, None, None))
        self._runner.close()

    @initialize()
    def begin(self) -> None:
        first = self.go(
            self.store.create("acme", day=TODAY, timezone="UTC", complete=True, watermarks=[])
        )
        self.workers: list[tuple[Generation, dict[int, int]]] = [(first, {}), (first, {})]

    # ---- the topic

    @rule(
        partition=st.integers(0, PARTITIONS - 1),
        fresh=st.lists(events(days=range(TODAY - 33, TODAY + 2)), max_size=4),
        again=st.integers(0, 2),
        data=st.data(),
    )
    def produce(self, partition: int, fresh: list[Event], again: int, data: st.DataObject) -> None:
        """Append new events, and some that a producer sends again."""
        self.seen += fresh
        repeats = [data.draw(st.sampled_from(self.seen)) for _ in range(again if self.seen else 0)]
        self.topic[partition] += fresh + repeats

    # ---- a worker

    @rule(
        worker=st.integers(0, 1),
        partition=st.integers(0, PARTITIONS - 1),
        max_events=st.integers(0, 5),
        keep_pending=st.booleans(),
    )
    def commit(self, worker: int, partition: int, max_events: int, keep_pending: bool) -> None:
        """Commit a batch from the worker's cached watermark.

        If it is refused, the worker adopts the stored values and does nothing else.
        """
        _, watermarks = self.workers[worker]
        expected_offset = watermarks.get(partition)
        start = expected_offset or 0
        batch = self.topic[partition][start : start + max_events]
        self._send(worker, partition, expected_offset, batch, keep_pending=keep_pending)

    @rule()
    def fold(self) -> None:
        """Fold what is pending in the active generation, from any worker."""
        self.go(self.store.fold(self.truth()[0]))

    # ---- ranks of customers

    @rule(periods=st.sets(st.sampled_from(RANKED)), customers_max=st.integers(1, 3))
    def build_a_part_of_ranks(self, periods: set[Period], customers_max: int) -> None:
        """Build ranks of a few customers, from any worker; others may never be built."""
        generation = self.truth()[0]
        building = self.go(self.store.ranks.build(generation, periods, customers_max=customers_max))
        assert building.customers <= customers_max
        assert building.left <= set(RANKED)

    @rule(periods=st.sets(st.sampled_from(RANKED), max_size=2))
    def drop_ranks(self, periods: set[Period]) -> None:
        """Drop ranks, those that are being built among them."""
        assert self.go(self.store.ranks.drop(self.truth()[0], periods)) <= periods

    @rule(worker=st.integers(0, 1), partition=st.integers(0, PARTITIONS - 1), data=st.data())
    def commit_again(self, worker: int, partition: int, data: st.DataObject) -> None:
        """Commit an old batch again, from any position below the cached watermark."""
        _, watermarks = self.workers[worker]
        start = data.draw(st.integers(0, watermarks.get(partition, 0)))
        batch = self.topic[partition][start : start + 3]
        self._send(worker, partition, start or None, batch)

    def _send(
        self,
        worker: int,
        partition: int,
        expected_offset: int | None,
        batch: list[Event],
        *,
        keep_pending: bool = False,
    ) -> None:
        generation, watermarks = self.workers[worker]
        start = expected_offset or 0
        kept, _ = distinct(sourced(*batch, first=start))
        kept = list(by_slot(kept))
        truth = self.truth()
        while True:
            answer = self.go(
                self.store.commit(
                    generation,
                    topic_id=LOG,
                    partition=partition,
                    expected_offset=expected_offset,
                    next_offset=start + len(batch),
                    deltas=aggregate(kept, UTC) if kept else Deltas(),
                    keep_pending=keep_pending,
                )
            )
            if not isinstance(answer, Duplicates):
                break
            kept = [e for i, e in enumerate(kept) if i not in set(answer.indexes)]
        right = (
            generation.number == truth[0].number
            and generation.day == truth[0].day
            and expected_offset == truth[1].get(partition)
        )
        assert isinstance(answer, Committed if right else Refused), (answer, truth, expected_offset)
        if isinstance(answer, Committed):
            watermarks[partition] = start + len(batch)
            return
        assert answer == Refused(truth[0].number, truth[0].day, truth[1].get(partition))
        if answer.generation != generation.number:
            watermarks.clear()
        if answer.watermark is None:
            watermarks.pop(partition, None)
        else:
            watermarks[partition] = answer.watermark
        assert answer.generation is not None
        assert answer.day is not None
        self.workers[worker] = (
            generation._replace(number=answer.generation, day=answer.day),
            watermarks,
        )

    # ---- midnight

    @rule(
        worker=st.integers(0, 1),
        days=st.sampled_from((0, 1, 1, 7, 31)),
        max_events=st.integers(1, 9),
    )
    def roll(self, worker: int, days: int, max_events: int) -> None:
        """Roll a part of the due records by any worker; a past day changes nothing."""
        self.today += days
        generation = self.workers[worker][0]
        answer = self.go(
            self.store.roll(generation, self.today, now_ms=NOW_MS, records_max=max_events)
        )
        if isinstance(answer, Rolled):
            assert answer.day == self.today
        else:
            assert generation.number != self.truth()[0].number

    # ---- a rebuild

    @rule(upto=st.integers(0, 100), swap=st.booleans())
    def rebuild(self, upto: int, swap: bool) -> None:
        """Build a generation from the topic up to some offset of each partition, and swap it in."""
        self.tokens += 1
        building = self.go(
            self.store.build(
                "acme",
                day=self.truth()[0].day,
                timezone="UTC",
                token=f"token-{self.tokens}",
                watermarks=[],
            )
        )
        live = self.workers
        self.workers = [(building, {})]
        for partition, records in enumerate(self.topic):
            kept, _ = distinct(sourced(*records[:upto]))
            while True:
                answer = self.go(
                    self.store.commit(
                        building,
                        topic_id=LOG,
                        partition=partition,
                        expected_offset=None,
                        next_offset=min(upto, len(records)),
                        deltas=aggregate(kept, UTC) if kept else Deltas(),
                    )
                )
                if not isinstance(answer, Duplicates):
                    break
                kept = [e for i, e in enumerate(kept) if i not in set(answer.indexes)]
            assert isinstance(answer, Committed)
        self.workers = live
        if not swap:
            self.go(self.store.drop(building))
            return
        active, watermarks = self.truth()
        is_behind = any(
            min(upto, len(self.topic[p])) < offset for p, offset in self.reached.items()
        )
        answer = self.go(self.store.swap(building, now_ms=NOW_MS))
        if is_behind:
            assert isinstance(answer, Behind), (answer, self.reached)
            assert self.truth() == (active, watermarks), "refused, so unchanged"
            answer = self.go(self.store.swap(building, now_ms=NOW_MS, behind=True))
        assert isinstance(answer, Activated), answer
        assert bool(answer.behind) == is_behind
        assert answer == self.go(self.store.swap(building, now_ms=NOW_MS, behind=True))._replace(
            behind=answer.behind
        ), "safe to repeat"

    @rule()
    def rollback(self) -> None:
        """Roll back to the previous generation, whatever it has counted."""
        self.go(self.store.rollback("acme", now_ms=NOW_MS))

    # ---- invariants

    def truth(self) -> tuple[Generation, dict[int, int]]:
        generation = self.go(self.store.generation("acme"))
        return generation, dict(self.go(self.store.watermarks(generation, LOG)))

    @invariant()
    def counters_are_the_distinct_events_below_the_watermarks(self) -> None:
        if not hasattr(self, "workers"):  # before `begin`
            return
        generation, watermarks = self.truth()
        for partition, offset in watermarks.items():
            self.reached[partition] = max(offset, self.reached.get(partition, 0))
        whole = all(watermarks.get(p, 0) >= offset for p, offset in self.reached.items())
        assert generation.complete == whole, "complete, so nothing counted before is missing"
        below = self._below(watermarks)
        for group_by, period in (("action", "alltime"), ("customer", "alltime")):
            answer = self.go(self.store.read(question(group_by, period)))  # type: ignore[arg-type]
            if not whole:
                assert answer == Incomplete("not_complete")
                continue
            assert isinstance(answer, CounterPage)
            if answer.pending:
                assert group_by == "action"
                found = sum(sum(group.counts.values()) for group in answer.page.groups)
                assert found == len(below) - answer.pending, "a page says how much it lacks"
                continue
            want = groups_of(below, group_by, window_of(period, TODAY), UTC)  # type: ignore[arg-type]
            assert list(answer.page.groups) == want

    def _below(self, watermarks: dict[int, int]) -> list[Event]:
        below = {
            event.event_id: event
            for partition, offset in watermarks.items()
            for event in self.topic[partition][:offset]
        }
        return list(below.values())

    @rule(ranked=st.booleans())
    def look_at_the_windows(self, ranked: bool) -> None:
        """Compare each window with the tiles once every due record is rolled.

        Before that, windows are not answered. With `ranked`, after all ranks are built; few
        customers are answered without them, too.
        """
        if not hasattr(self, "workers"):  # before `begin`
            return
        generation, watermarks = self.truth()
        if not generation.complete:
            return
        if (generation.rolled or 0) < generation.day:
            asked = question("customer", "weekly", today=generation.day)
            assert self.go(self.store.read(asked)) == Incomplete("rolling")
        while self.go(self.store.fold(generation)).pending:
            pass
        finished = False
        while not finished:
            answer = self.go(
                self.store.roll(generation, generation.day, now_ms=NOW_MS, records_max=100)
            )
            assert isinstance(answer, Rolled)
            finished = answer.finished
        while ranked and self.go(self.store.ranks.build(generation, RANKED, customers_max=1)).left:
            pass
        for period in RANKED:
            for group_by in ("action", "customer"):
                asked = question(group_by, period, today=generation.day)
                answer = self.go(self.store.read(asked))
                assert isinstance(answer, CounterPage), answer
                window = window_of(period, generation.day)
                want = groups_of(self._below(watermarks), group_by, window, UTC)
                assert list(answer.page.groups) == want
