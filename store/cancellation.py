"""Protection of a task's cancellation from being lost."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def cancellable() -> Iterator[None]:
    """Raise CancelledError at the end if a cancellation inside the block was dropped.

    Python 3.11's `asyncio.wait_for`, which the drivers use, drops a cancellation that arrives at
    the moment when the awaited call completes. A task with an endless loop would then never end,
    and the code that cancelled it and awaits it would wait forever.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task else 0
    try:
        yield
    except Exception as error:
        if task and task.cancelling() > before:
            raise asyncio.CancelledError from error
        raise
    if task and task.cancelling() > before:
        raise asyncio.CancelledError
