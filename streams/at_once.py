"""Calls that run at once, of which none goes on once one has failed."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def all_at_once(*calls: Coroutine[Any, Any, T]) -> list[T]:
    """Return the results of the calls, in order; raise what the first one that fails raises.

    The other calls have ended by then, unlike those of `asyncio.gather`: one that waits for its
    turn must not begin in the read session that follows the failure.
    """
    tasks = [asyncio.create_task(call) for call in calls]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        await end(*tasks)
        raise


async def end(*tasks: asyncio.Task[Any]) -> None:
    """Cancel the tasks that have not ended, and wait until they have."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
