"""Fetch throttle: fetches to one broker are sent at a minimum interval."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise

import pytest

from streams.kafka.consumer import FetchThrottle

INTERVAL_S = 0.05


class Sender:
    """Test double that records when it was called."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, float]] = []

    async def __call__(self, assignment: object, node: int, request: object) -> bool:
        self.sent.append((node, time.monotonic()))
        return True


@pytest.mark.anyio
async def test_fetches_to_one_broker_are_an_interval_apart() -> None:
    sender = Sender()
    throttle = FetchThrottle(sender, INTERVAL_S)
    for _ in range(3):
        assert await throttle(None, 1, None) is True
    times = [at for _, at in sender.sent]
    assert len(times) == 3
    assert all(b - a >= INTERVAL_S * 0.99 for a, b in pairwise(times))


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
