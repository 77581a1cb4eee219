"""Fetch throttle: fetches to one broker are sent at a minimum interval."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from streams.kafka.consumer import FetchThrottle

INTERVAL_S = 0.5
WORK_S = 0.125


class Time:
    """Clock that only its own `sleep` and the test move."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def clock_s(self) -> float:
        return self.now_s

    async def sleep(self, time_s: float) -> None:
        self.now_s += time_s


class Sender:
    """Test double that records when it was called, in s of `clock_s`."""

    def __init__(self, clock_s: Callable[[], float] = lambda: 0.0) -> None:
        self.sent: list[tuple[int, float]] = []
        self._clock_s = clock_s

    async def __call__(self, assignment: object, node: int, request: object) -> bool:
        self.sent.append((node, self._clock_s()))
        return True


@pytest.mark.anyio
async def test_fetches_to_one_broker_are_an_interval_apart() -> None:
    """The time between two fetches counts: only the rest of the interval is waited for."""
    time = Time()
    sender = Sender(time.clock_s)
    throttle = FetchThrottle(sender, INTERVAL_S, clock_s=time.clock_s, sleep=time.sleep)
    for work_s in (WORK_S, 2 * INTERVAL_S, 0.0):
        assert await throttle(None, 1, None) is True
        time.now_s += work_s
    assert await throttle(None, 1, None) is True
    first_s = sender.sent[0][1]
    assert [at_s - first_s for _, at_s in sender.sent] == [0.0, 0.5, 1.5, 2.0]


@pytest.mark.anyio
async def test_one_broker_does_not_wait_for_another() -> None:
    """The interval is an hour: a request that waits for it would not be sent in time."""
    sender = Sender()
    throttle = FetchThrottle(sender, 3_600.0)
    async with asyncio.timeout(30):
        assert await throttle(None, 1, None) and await throttle(None, 2, None)
    assert [node for node, _ in sender.sent] == [1, 2]


@pytest.mark.anyio
async def test_a_request_cancelled_while_it_waits_is_not_sent() -> None:
    """It returns False, as a cancelled fetch of the client does: there is nothing new."""
    sender = Sender()
    throttle = FetchThrottle(sender, 3_600.0)
    await throttle(None, 1, None)
    waiting = asyncio.create_task(throttle(None, 1, None))
    await asyncio.sleep(0)
    waiting.cancel()
    assert await waiting is False
    assert len(sender.sent) == 1
