"""A rebalance takes partitions from a worker while it seeks, reads or commits them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import IllegalStateError
from faust.types import TP

from store.settings import Settings
from streams.assignment import Rewinder
from streams.faust_app import create_app
from streams.kafka.consumer import BatchConsumer
from streams.tenant_state import RewindRequired

pytestmark = pytest.mark.anyio
TOPIC = "interactions"


class Member:
    """Member of a group, without a broker: Faust's and aiokafka's consumers, and our hooks."""

    def __init__(self) -> None:
        self.client = AIOKafkaConsumer(group_id="group", enable_auto_commit=False)
        self._state = self.client._subscription
        self._state.subscribe({TOPIC})
        self.client._fetcher = SimpleNamespace(seek_to=self._state.seek)
        self.found: list[Sequence[int]] = []
        self.during_find: Callable[[], None] = lambda: None
        self.sessions_ended = 0
        app = create_app(Settings(auth_mode="open", interactions_topic=TOPIC), self)
        app.finalize()
        self.consumer: BatchConsumer = app.consumer
        self.thread = self.consumer._thread
        self.thread._consumer = self.client
        self.thread.call_thread = call_here

    def close(self) -> None:
        """Close what was opened without a broker."""
        self.client._closed = True
        self.thread.thread_loop.close()

    def assign(self, *partitions: int) -> None:
        """Assign these partitions and no others, as the end of a rebalance does."""
        self._state.assign_from_subscribed({TP(TOPIC, partition) for partition in partitions})

    def positions(self) -> dict[int, int]:
        """Return partition -> where the client reads next, of the assigned partitions."""
        assignment = self._state.subscription.assignment
        return {tp.partition: assignment.state_value(tp)._position for tp in assignment.tps}

    # ---- what the app calls

    async def find_start(self, partitions: Sequence[int]) -> Mapping[int, int]:
        self.found.append(partitions)
        self.during_find()
        return dict.fromkeys(partitions, 7)

    async def on_no_partitions(self) -> None:
        self.sessions_ended += 1

    def on_truncated(self, partition: int, end: int) -> None:
        raise AssertionError

    def full_partitions(self) -> Collection[int]:
        return ()

    def submit(self, batch: Any, acknowledge: Callable[[], None]) -> None:
        raise AssertionError

    async def run(self) -> None:
        raise AssertionError


async def call_here(call: Callable[..., Awaitable[Any]], /, *args: Any, **kwargs: Any) -> Any:
    """Call at once what the consumer's thread would be asked to call."""
    return await call(*args, **kwargs)


@pytest.fixture
async def member() -> AsyncIterator[Member]:
    member = Member()
    yield member
    member.close()


async def rewind(member: Member) -> Rewinder:
    """Return a rewinder after a whole rewind."""
    rewinder = Rewinder(lambda: member.consumer, on_rewind=lambda: None)
    before = asyncio.all_tasks()
    rewinder.on_error(RewindRequired("a store has less"))
    await asyncio.gather(*asyncio.all_tasks() - before, return_exceptions=True)
    await asyncio.sleep(0)  # for the callback of the task
    return rewinder


async def test_a_rewind_seeks_all_partitions(member: Member) -> None:
    member.assign(0, 1)
    rewinder = await rewind(member)
    assert not rewinder.failed.done()
    assert member.found == [[0, 1]]
    assert member.positions() == {0: 7, 1: 7}


async def test_a_rewind_of_partitions_that_a_rebalance_takes_ends_nothing(member: Member) -> None:
    member.assign(0, 1)
    member.during_find = lambda: member.assign(2)
    rewinder = await rewind(member)
    assert not rewinder.failed.done(), rewinder.failed.result()


async def test_a_seek_in_a_rebalance_tells_faust_that_another_one_began(member: Member) -> None:
    """Faust then leaves the flow stopped, and seeks after that other one."""
    member.assign(0)
    member.during_find = lambda: member.assign(1)
    with pytest.raises(IllegalStateError):
        await member.consumer.perform_seek()


async def test_a_fetch_that_meets_a_rebalance_ends_nothing(member: Member) -> None:
    """What was fetched while the flow stopped is fetched again: the consumer seeks."""
    member.assign(0, 1)
    member.during_find = lambda: member.assign(2)
    consumer = member.consumer

    async def fetched(timeout: float) -> tuple[dict[TP, list[Any]], None]:
        consumer.stop_flow()
        return {}, None

    consumer._wait_next_records = fetched
    assert [each async for each in consumer.getmany(1.0)] == []
    assert member.found == [[0, 1]]


@pytest.mark.parametrize("offset", [7, 9])
async def test_fetched_records_of_a_partition_that_was_taken_are_dropped(
    member: Member, offset: int
) -> None:
    """Those at the expected offset, and those after a gap, which would need a seek."""
    member.assign(0)
    await member.consumer.perform_seek()
    records = [SimpleNamespace(offset=offset)]
    member.assign(1)
    assert await member.consumer._in_order(TP(TOPIC, 0), records) is None


async def test_a_partition_taken_before_the_seek_past_a_gap_is_dropped(member: Member) -> None:
    member.assign(0)
    await member.consumer.perform_seek()
    records = [SimpleNamespace(offset=9)]

    async def call_after_rebalance(call: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        member.assign(1)
        return await call(*args)

    member.thread.call_thread = call_after_rebalance
    assert await member.consumer._in_order(TP(TOPIC, 0), records) is None


async def test_a_commit_of_partitions_that_were_all_taken_is_none(member: Member) -> None:
    member.assign(0)
    crashes: list[BaseException] = []

    async def crash(reason: BaseException) -> None:
        crashes.append(reason)

    member.thread.crash = crash
    member.assign(1)
    assert await member.thread._commit({TP(TOPIC, 0): 7}) is False
    assert crashes == []


async def rebalance(member: Member, *partitions: int) -> None:
    """Assign these partitions, and return when what follows from it has ended."""

    async def done(assigned: set[TP], generation_id: int) -> None: ...

    consumer = member.consumer
    consumer._on_partitions_assigned = done  # Faust's part
    member.assign(*partitions)
    await consumer.on_partitions_assigned({TP(TOPIC, each) for each in partitions}, 2)
    await asyncio.gather(*consumer._futures)


async def test_a_session_ends_with_its_last_partition(member: Member) -> None:
    await rebalance(member)
    assert member.sessions_ended == 0, "there was none"
    member.assign(0, 1)
    await member.consumer.perform_seek()
    await rebalance(member, 0)
    assert member.sessions_ended == 0
    await rebalance(member)
    assert member.sessions_ended == 1
    await rebalance(member)
    assert member.sessions_ended == 1


async def test_a_session_goes_on_if_the_next_rebalance_gives_partitions(member: Member) -> None:
    """The end of the session waits for a seek that is under way, as the next rebalance does."""
    member.assign(0)
    await member.consumer.perform_seek()
    async with member.consumer._seeking:
        losing = asyncio.create_task(rebalance(member))
        await asyncio.sleep(0)
        member.assign(1)
    await losing
    assert member.sessions_ended == 0


async def test_the_end_of_a_partition_that_was_taken_is_not_known(member: Member) -> None:
    member.assign(0)
    member._state.subscription.assignment.state_value(TP(TOPIC, 0)).highwater = 9
    assert member.consumer.end_offset(0, 7) == 9
    member.assign(1)
    assert member.consumer.end_offset(0, 7) is None
