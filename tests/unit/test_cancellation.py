"""A cancellation that a driver drops is raised again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from store.cancellation import cancellable


async def lose() -> str:
    """As `asyncio.wait_for` of Python 3.11 may."""
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        return "done after all"
    return "not cancelled"


async def lose_and_fail() -> None:
    await lose()
    raise ValueError("the connection is gone")


@pytest.mark.parametrize("work", [lose, lose_and_fail])
def test_what_is_cancelled_ends(work: Callable[[], Awaitable[object]]) -> None:
    async def run() -> None:
        async def inside() -> None:
            async with cancellable():
                await work()

        task = asyncio.create_task(inside())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()

    asyncio.run(run())


@pytest.mark.parametrize("work", [lose, lose_and_fail])
def test_what_was_cancelled_while_it_ran_ends(work: Callable[[], Awaitable[object]]) -> None:
    """As Ctrl-C does, whose signal arrives while the task computes."""

    async def run() -> None:
        async def inside() -> None:
            task.cancel()
            async with cancellable():
                await work()

        task = asyncio.create_task(inside())
        await asyncio.wait({task})
        assert task.cancelled()

    asyncio.run(run())


def test_a_timeout_around_it_stays_a_timeout() -> None:
    async def run() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                async with cancellable():
                    await lose()

    asyncio.run(run())


def test_a_timeout_within_it_is_no_cancellation() -> None:
    async def run() -> str:
        async with cancellable():
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.001):
                    await asyncio.sleep(60)
            return "went on"

    assert asyncio.run(run()) == "went on"


def test_who_was_cancelled_before_may_still_clean_up() -> None:
    async def run() -> list[str]:
        cleaned: list[str] = []

        async def inside() -> None:
            try:
                await asyncio.sleep(60)
            finally:
                async with cancellable():
                    await asyncio.sleep(0)
                    cleaned.append("cleaned")

        task = asyncio.create_task(inside())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()
        return cleaned

    assert asyncio.run(run()) == ["cleaned"]


def test_without_a_cancellation_results_and_errors_pass() -> None:
    async def run() -> None:
        async with cancellable():
            await asyncio.sleep(0)
        with pytest.raises(ValueError, match="as it is"):
            async with cancellable():
                raise ValueError("as it is")

    asyncio.run(run())
