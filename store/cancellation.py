"""Protection of a task's cancellation from being lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


@asynccontextmanager
async def cancellable() -> AsyncIterator[None]:
    """Raise CancelledError if a cancellation was dropped inside the block, or is due at its start.

    Python 3.11's `asyncio.wait_for`, which the drivers use, drops a cancellation that arrives at
    the moment when the awaited call completes. So it drops one that was requested while the task
    ran, as Ctrl-C does. A task with an endless loop would then never end, and the code that
    cancelled it and awaits it would wait forever.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task else 0
    if before:  # delivered already, and this cleans up, or due at the next await: this one
        await asyncio.sleep(0)
    try:
        yield
    except Exception as error:
        if task and task.cancelling() > before:
            raise asyncio.CancelledError from error
        raise
    if task and task.cancelling() > before:
        raise asyncio.CancelledError
