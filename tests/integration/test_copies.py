"""Copies that a worker meets: known without a question to the store, and never beyond it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from store import metrics
from store.counters import Committed, Duplicates, Position, Refused
from store.records import CounterPage, Event
from store.redis.counters import RedisCounters
from store.settings import Settings
from store.windows import DAY_MS
from streams.commit import CounterCommitter
from tests.support.contract import LOG, question
from tests.support.events import NOW_MS, TODAY, sourced
from tests.support.stores import Stores, some_events


class CountedCalls(RedisCounters):
    """Counters that keep the answers to commits."""

    def __init__(self, client: Any) -> None:
        super().__init__(client, "is")
        self.answers: list[Committed | Duplicates | Refused] = []
        self.lookups = 0

    async def commit(self, *args: Any, **kwargs: Any) -> Committed | Duplicates | Refused:
        answer = await super().commit(*args, **kwargs)
        self.answers.append(answer)
        return answer

    async def owned_by_others(self, tenant: str, identities: Sequence[Any]) -> Sequence[int]:
        self.lookups += 1
        return await super().owned_by_others(tenant, identities)


class Scene:
    """A committer of a worker on real stores."""

    def __init__(self, stores: Stores) -> None:
        self.stores = stores
        self.counters = CountedCalls(stores.client)
        self.committer = CounterCommitter(
            self.counters,
            stores.history,
            now_ms=lambda: NOW_MS,
            timezone_of=self._utc,
            dedup_horizon_h=48,
        )

    async def start(self) -> None:
        """Start a session, as after a rewind."""
        starts = await self.committer.counted(LOG, {0: 0, 1: 0})
        self.committer.start_session(LOG, starts, {0: 0, 1: 0})

    async def commit(
        self,
        partition: int,
        first: int,
        *events: Event,
        recorded_ms: int = NOW_MS,
        stored_offset: int = 0,
    ) -> tuple[set[int], int]:
        """Commit the events; return the copies among them, and the number of calls."""
        self.counters.answers.clear()
        batch = sourced(*events, first=first, recorded_ms=recorded_ms)
        end = first + len(events)
        copies = await self.committer.commit(
            "acme", partition, batch, end, stored_offset=stored_offset
        )
        return copies, len(self.counters.answers)

    async def total(self) -> int:
        answer = await self.counters.read(question("action", "alltime"))
        assert isinstance(answer, CounterPage)
        return sum(group.total for group in answer.page.groups)

    async def _utc(self, tenant: str) -> str:
        return "UTC"


pytestmark = pytest.mark.anyio


@pytest.fixture
async def scene(redis_url: str, database_url: str) -> Any:
    async with Stores(Settings(redis_url=redis_url, database_url=database_url)) as stores:
        scene = Scene(stores)
        await scene.start()
        yield scene


async def test_a_batch_with_a_copy_of_a_counted_event_is_sent_once(scene: Scene) -> None:
    events = some_events(10)
    assert await scene.commit(0, 0, *events) == (set(), 1)
    before = metrics.DUPLICATES._value.get()
    other = msgspec.structs.replace(events[3], offer="other")
    assert await scene.commit(1, 0, other, *some_events(5), events[4]) == ({0, 6}, 1)
    assert metrics.DUPLICATES._value.get() == before + 2
    assert await scene.total() == 15


@pytest.mark.parametrize("case", ["one batch", "one session", "two sessions"])
async def test_history_takes_copies_of_what_it_has_passed(scene: Scene, case: str) -> None:
    """History has passed offset 5 and may lack the first events: they were dead letters then.

    Their types were registered since, and the counters, which were behind, count them. So their
    copies are left to history.
    """
    events = some_events(5)
    if case == "one batch":
        assert await scene.commit(0, 0, *events, *events, stored_offset=5) == (set(), 1)
    else:
        assert await scene.commit(0, 0, *events, stored_offset=5) == (set(), 1)
        if case == "two sessions":
            await scene.start()
        copies, _ = await scene.commit(0, 5, *events, stored_offset=5)
        assert copies == set()
    assert await scene.total() == 5


async def test_a_session_knows_only_what_it_has_counted_itself(scene: Scene) -> None:
    """What was counted before may be gone: Redis may have lost its tail."""
    events = some_events(10)
    await scene.commit(0, 0, *events)
    await scene.start()
    assert await scene.commit(0, 10, events[3]) == ({10}, 2)
    await scene.stores.client.flushall()
    await scene.start()
    assert await scene.commit(0, 10, *some_events(2), events[3]) == (set(), 1)


async def test_another_generation_is_asked_itself(scene: Scene) -> None:
    """The worker has counted the event, and the generation that is active now has not."""
    events = some_events(4)
    await scene.commit(0, 0, *events)
    building = await scene.counters.build(
        "acme",
        day=TODAY,
        timezone="UTC",
        token="t",
        watermarks=[Position(LOG, 0, 4), Position(LOG, 1, 0)],
    )
    await scene.counters.swap(building, now_ms=NOW_MS, fewer=True, writes=None)
    copies, _ = await scene.commit(1, 0, events[0])
    assert (copies, await scene.total()) == (set(), 1)


@pytest.mark.parametrize("days", [2, 3])
async def test_the_memory_ends_where_the_store_forgets(scene: Scene, days: int) -> None:
    events = some_events(2)
    await scene.commit(0, 0, *events)
    copies, calls = await scene.commit(1, 0, events[0], recorded_ms=NOW_MS + days * DAY_MS)
    assert (copies, calls) == (({0}, 1) if days == 2 else (set(), 1))
    assert await scene.total() == (2 if days == 2 else 3)


async def test_of_events_that_are_read_again_only_the_counted_ones_are_stored(
    scene: Scene,
) -> None:
    events = some_events(6)
    await scene.commit(0, 0, *events[:4])
    await scene.commit(1, 0, *events[2:])
    await scene.start()
    assert await scene.commit(1, 0, *events[2:]) == ({0, 1}, 0)
    assert await scene.commit(0, 0, *events[:4]) == (set(), 0)
    lookups = scene.counters.lookups
    batch = sourced(*events[:4])
    assert await scene.committer.commit("acme", 0, batch, 4, stored_offset=4) == set()
    assert scene.counters.lookups == lookups, "history has them: nothing is asked"


async def test_identities_of_older_versions_are_known_and_have_no_owner(scene: Scene) -> None:
    """Without a rebuild. History takes what it takes today: it may lack the original."""
    event, *more = some_events(30)
    await scene.commit(0, 0, *more)
    slot = NOW_MS // DAY_MS
    home = "is:{acme/0}:1:"
    await scene.stores.client.hset(home + f"ids:{slot}", "0", event.event_id[:8])
    await scene.stores.client.hset(home + "meta", f"d:{slot}", "1")
    assert await scene.commit(1, 0, event, more[0]) == ({1}, 2)
    assert await scene.total() == 29
    await scene.start()
    assert await scene.commit(1, 0, event, more[0]) == ({1}, 0)


async def test_after_a_truncation_owners_may_be_gone(scene: Scene) -> None:
    """The counted record was lost with the tail, perhaps before history stored it."""
    events = some_events(6)
    await scene.commit(0, 0, *events)
    await scene.committer.reset(0, 3, 3)
    await scene.start()
    copies, _ = await scene.commit(0, 3, *some_events(2), events[4])
    assert copies == set()
    assert await scene.total() == 8


async def test_in_a_new_topic_owners_of_the_old_one_are_gone(scene: Scene) -> None:
    events = some_events(6)
    await scene.commit(0, 0, *events)
    new = "00000000-0000-0000-0000-0000000000ff"
    scene.committer.start_session(new, await scene.committer.counted(new, {0: 0}), {0: 0})
    batch = sourced(*some_events(2), events[5])
    assert await scene.committer.commit("acme", 0, batch, 3) == set()
    assert await scene.total() == 8
