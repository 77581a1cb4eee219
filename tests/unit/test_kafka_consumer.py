"""Fetches are sent in measured steps."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise

import pytest

from streams.kafka.consumer import FetchThrottle

EVERY_S = 0.05


class Sender:
    """Notes when it was asked to send."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, float]] = []

    async def __call__(self, assignment: object, node: int, request: object) -> bool:
        self.sent.append((node, time.monotonic()))
        return True


@pytest.mark.anyio
async def test_a_broker_is_asked_again_no_sooner_than_after_the_step() -> None:
    sender = Sender()
    paced = FetchThrottle(sender, EVERY_S)
    for _ in range(3):
        assert await paced(None, 1, None) is True
    times = [at for _, at in sender.sent]
    assert len(times) == 3
    assert all(b - a >= EVERY_S * 0.99 for a, b in pairwise(times))


@pytest.mark.anyio
async def test_one_broker_does_not_wait_for_another() -> None:
    """The step is an hour: the second broker's request would not be sent in time."""
    sender = Sender()
    paced = FetchThrottle(sender, 3_600.0)
    async with asyncio.timeout(30):
        assert await paced(None, 1, None) and await paced(None, 2, None)
    assert [node for node, _ in sender.sent] == [1, 2]


@pytest.mark.anyio
async def test_a_request_that_is_taken_back_while_it_waits_is_not_sent() -> None:
    """As a fetch of the client's own that is cancelled: it answers that there is nothing new."""
    sender = Sender()
    paced = FetchThrottle(sender, 3_600.0)
    await paced(None, 1, None)
    waiting = asyncio.create_task(paced(None, 1, None))
    await asyncio.sleep(0)
    waiting.cancel()
    assert await waiting is False
    assert len(sender.sent) == 1
