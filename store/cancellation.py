"""A cancellation that must not get lost."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def cancellable() -> Iterator[None]:
    """Ends with CancelledError where the task was cancelled inside and nobody noticed.

    Python 3.11's `asyncio.wait_for`, which the drivers use, drops a cancellation that comes just
    when what it waits for is done. A task that goes on for ever would then never end, and whoever
    cancelled it and waits for it would neither."""
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
