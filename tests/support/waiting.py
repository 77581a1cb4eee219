"""Waiting for a condition, with a deadline. Tests never sleep for a fixed time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

_POLL_S = 0.05
#: Far more than anything takes alone: other processes may use the same cores.
TIMEOUT_S = 120.0


def eventually(
    condition: Callable[[], T], timeout_s: float = TIMEOUT_S, message: str = "the condition"
) -> T:
    """Call `condition` until it returns a true value, and return that value.

    An AssertionError from `condition` counts as "not yet". Raises AssertionError with `message` and
    the last result after `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        seen = _attempt(condition)
        if seen and not isinstance(seen, AssertionError):
            return seen
        if time.monotonic() > deadline:
            raise _too_late(message, timeout_s, seen)
        time.sleep(_POLL_S)


async def eventually_async(
    condition: Callable[[], Awaitable[T]],
    timeout_s: float = TIMEOUT_S,
    message: str = "the condition",
) -> T:
    """Await `condition` until it returns a true value, as `eventually` does."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            seen: T | AssertionError = await condition()
        except AssertionError as error:
            seen = error
        if seen and not isinstance(seen, AssertionError):
            return seen
        if time.monotonic() > deadline:
            raise _too_late(message, timeout_s, seen)
        await asyncio.sleep(_POLL_S)


def _attempt(condition: Callable[[], T]) -> T | AssertionError:
    try:
        return condition()
    except AssertionError as error:
        return error


def _too_late(message: str, timeout_s: float, seen: object) -> AssertionError:
    error = AssertionError(f"{message}: not within {timeout_s:g} s; last seen: {seen!r}")
    if isinstance(seen, AssertionError):
        error.__cause__ = seen
    return error
