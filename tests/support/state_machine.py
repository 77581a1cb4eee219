"""The commit protocol under a machine that does anything in any order (a part of the contract).

Two workers read one log of three partitions. Each believes what it believed last; batches are sent
again, workers wake up late, windows roll, generations are rebuilt and swapped. Whatever happens:
the counters of the active generation are the sum over the distinct events of each partition below
that partition's watermark (invariant 1), and a commit that was refused changed nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from store.counters import Committed, CounterStore, Deltas, Duplicates, Generation, Refused, Rolled
from store.records import CounterPage, Event, Incomplete
from store.windows import Calendar, window_of
from streams.aggregate import aggregate, by_slot, distinct
from tests.support.contract import LOG, OpenStore, question
from tests.support.events import NOW_MS, TODAY, events, sourced
from tests.support.oracle import groups_of

UTC = Calendar("UTC")
PARTITIONS = 3


class Protocol(RuleBasedStateMachine):
    """Subclasses set `open_store`."""

    open_store: ClassVar[OpenStore]

    def __init__(self) -> None:
        super().__init__()
        self._runner = asyncio.Runner()
        self._context = type(self).open_store()
        self.store: CounterStore = self.go(self._context.__aenter__())
        self.topic_id: list[list[Event]] = [[] for _ in range(PARTITIONS)]
        self.seen: list[Event] = []
        self.today = TODAY
        self.tokens = 0

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
        self.believes: list[tuple[Generation, dict[int, int]]] = [(first, {}), (first, {})]

    # ---- the log

    @rule(
        partition=st.integers(0, PARTITIONS - 1),
        fresh=st.lists(events(days=range(TODAY - 33, TODAY + 2)), max_size=4),
        again=st.integers(0, 2),
        data=st.data(),
    )
    def produce(self, partition: int, fresh: list[Event], again: int, data: st.DataObject) -> None:
        """New events, and some that a producer sends once more."""
        self.seen += fresh
        repeats = [data.draw(st.sampled_from(self.seen)) for _ in range(again if self.seen else 0)]
        self.topic_id[partition] += fresh + repeats

    # ---- a worker

    @rule(
        worker=st.integers(0, 1), partition=st.integers(0, PARTITIONS - 1), most=st.integers(0, 5)
    )
    def commit(self, worker: int, partition: int, most: int) -> None:
        """A batch from where the worker believes the store to be; when refused it takes the
        store's values, and does nothing else this time."""
        _, watermarks = self.believes[worker]
        expected_offset = watermarks.get(partition)
        start = expected_offset or 0
        batch = self.topic_id[partition][start : start + most]
        self._send(worker, partition, expected_offset, batch)

    @rule(worker=st.integers(0, 1), partition=st.integers(0, PARTITIONS - 1), data=st.data())
    def commit_again(self, worker: int, partition: int, data: st.DataObject) -> None:
        """A batch that was sent before, by a worker that slept since: from any older position."""
        _, watermarks = self.believes[worker]
        start = data.draw(st.integers(0, watermarks.get(partition, 0)))
        batch = self.topic_id[partition][start : start + 3]
        self._send(worker, partition, start or None, batch)

    def _send(
        self, worker: int, partition: int, expected_offset: int | None, batch: list[Event]
    ) -> None:
        generation, watermarks = self.believes[worker]
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
        self.believes[worker] = (
            generation._replace(number=answer.generation, day=answer.day),
            watermarks,
        )

    # ---- midnight

    @rule(worker=st.integers(0, 1), days=st.sampled_from((0, 1, 1, 7, 31)), most=st.integers(1, 9))
    def roll(self, worker: int, days: int, most: int) -> None:
        """Any worker rolls, a part only; a day of the past changes nothing."""
        self.today += days
        generation = self.believes[worker][0]
        answer = self.go(self.store.roll(generation, self.today, now_ms=NOW_MS, records_max=most))
        if isinstance(answer, Rolled):
            assert answer.day == self.today
        else:
            assert generation.number != self.truth()[0].number

    # ---- a rebuild

    @rule(upto=st.integers(0, 100), swap=st.booleans())
    def rebuild(self, upto: int, swap: bool) -> None:
        """A generation built from the log, up to some offset of each partition, and swapped in."""
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
        live = self.believes
        self.believes = [(building, {})]
        for partition, records in enumerate(self.topic_id):
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
        self.believes = live
        if swap:
            assert self.go(self.store.swap(building))
            assert not self.go(self.store.swap(building)), "only once"
        else:
            self.go(self.store.drop(building))

    @rule()
    def rollback(self) -> None:
        """Back to the generation before, whatever it has counted."""
        self.go(self.store.rollback("acme"))

    # ---- what must hold

    def truth(self) -> tuple[Generation, dict[int, int]]:
        generation = self.go(self.store.generation("acme"))
        return generation, dict(self.go(self.store.watermarks(generation, LOG)))

    @invariant()
    def counters_are_the_distinct_events_below_the_watermarks(self) -> None:
        if not hasattr(self, "believes"):
            return
        _, watermarks = self.truth()
        below = self._below(watermarks)
        for group_by, period in (("action", "alltime"), ("customer", "alltime")):
            answer = self.go(self.store.read(question(group_by, period)))  # type: ignore[arg-type]
            assert isinstance(answer, CounterPage)
            want = groups_of(below, group_by, window_of(period, TODAY), UTC)  # type: ignore[arg-type]
            assert list(answer.page.groups) == want

    def _below(self, watermarks: dict[int, int]) -> list[Event]:
        below = {
            event.event_id: event
            for partition, offset in watermarks.items()
            for event in self.topic_id[partition][:offset]
        }
        return list(below.values())

    @rule()
    def look_at_the_windows(self) -> None:
        """Once every due record is rolled, each window is what the tiles say; before that it is
        not answered."""
        if not hasattr(self, "believes"):
            return
        generation, watermarks = self.truth()
        if (generation.rolled or 0) < generation.day:
            asked = question("customer", "weekly", today=generation.day)
            assert self.go(self.store.read(asked)) == Incomplete("rolling")
        finished = False
        while not finished:
            answer = self.go(
                self.store.roll(generation, generation.day, now_ms=NOW_MS, records_max=100)
            )
            assert isinstance(answer, Rolled)
            finished = answer.finished
        for period in ("daily", "weekly", "monthly"):
            for group_by in ("action", "customer"):
                asked = question(group_by, period, today=generation.day)
                answer = self.go(self.store.read(asked))
                assert isinstance(answer, CounterPage), answer
                window = window_of(period, generation.day)
                want = groups_of(self._below(watermarks), group_by, window, UTC)
                assert list(answer.page.groups) == want
