"""Equal questions at the same time: one read, and none that began before its question."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from api.joined_reads import JoinedReads


class Reads:
    """Reads that end when they are told to; a result is the number of the read."""

    def __init__(self) -> None:
        self.joined: JoinedReads[str, int] = JoinedReads()
        self.began = 0
        self.ends: list[asyncio.Future[None]] = []

    async def call(self) -> int:
        self.began += 1
        number, end = self.began, asyncio.get_running_loop().create_future()
        self.ends.append(end)
        await end
        return number

    def ask(self, key: str = "a") -> asyncio.Task[int]:
        return asyncio.create_task(self.joined.read(key, self.call))

    async def settle(self) -> None:
        """Let all tasks run as far as they can."""
        for _ in range(10):
            await asyncio.sleep(0)


def check(body: Callable[[Reads], Awaitable[None]]) -> None:
    async def go() -> None:
        reads = Reads()
        await body(reads)
        assert reads.joined._reads == {}, "nothing is left behind"

    asyncio.run(go())


def test_those_that_come_during_a_read_share_the_next_one() -> None:
    async def body(reads: Reads) -> None:
        first = reads.ask()
        await reads.settle()
        later = [reads.ask() for _ in range(3)]
        await reads.settle()
        assert reads.began == 1
        reads.ends[0].set_result(None)
        await reads.settle()
        assert reads.began == 2
        latest = reads.ask()  # the second read has begun: its result may be too old for this one
        await reads.settle()
        reads.ends[1].set_result(None)
        await reads.settle()
        reads.ends[2].set_result(None)
        assert await first == 1
        assert await asyncio.gather(*later) == [2, 2, 2]
        assert await latest == 3

    check(body)


def test_other_keys_are_read_apart() -> None:
    async def body(reads: Reads) -> None:
        asked = [reads.ask("a"), reads.ask("b")]
        await reads.settle()
        assert reads.began == 2
        for end in reads.ends:
            end.set_result(None)
        assert await asyncio.gather(*asked) == [1, 2]

    check(body)


def test_a_failure_is_that_of_the_readers_that_share_it() -> None:
    async def body(reads: Reads) -> None:
        first = reads.ask()
        await reads.settle()
        later = [reads.ask(), reads.ask()]
        await reads.settle()
        reads.ends[0].set_exception(ValueError("first"))
        await reads.settle()
        reads.ends[1].set_exception(ValueError("second"))
        with pytest.raises(ValueError, match="first"):
            await first
        for each in later:
            with pytest.raises(ValueError, match="second"):
                await each

    check(body)


def test_whoever_stops_waiting_stops_nobody_else() -> None:
    async def body(reads: Reads) -> None:
        first = reads.ask()
        await reads.settle()
        gone, later = reads.ask(), reads.ask()
        await reads.settle()
        first.cancel()
        gone.cancel()
        await reads.settle()
        assert reads.began == 2
        reads.ends[1].set_result(None)
        assert await later == 2
        assert first.cancelled() and gone.cancelled()

    check(body)
