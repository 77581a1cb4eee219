"""Joint reads: equal questions that wait at the same time are answered by one read."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Result = TypeVar("Result")


class _Read(Generic[Result]):
    """A read that has begun, and the one that begins when it ends, if somebody waits for it."""

    __slots__ = ("ended", "following")

    def __init__(self) -> None:
        self.ended: asyncio.Future[None] | None = None
        self.following: asyncio.Task[Result] | None = None


class JoinedReads(Generic[Key, Result]):
    """Reads by key: one in flight, and one that waits for its end. For one event loop.

    A caller never gets the result of a read that began before its call, so no answer is older than
    its question: whoever comes while a read is in flight shares the next one.
    """

    def __init__(self) -> None:
        self._reads: dict[Key, _Read[Result]] = {}

    async def read(self, key: Key, call: Callable[[], Awaitable[Result]]) -> Result:
        """Return the result of `call`, or that of an equal call. Raises what the call raises."""
        running = self._reads.get(key)
        if running is None:
            return await self._run(key, call)
        if running.following is None:
            running.ended = asyncio.get_running_loop().create_future()
            running.following = asyncio.create_task(self._follow(key, running.ended, call))
            running.following.add_done_callback(_retrieve)
        # Shielded: a caller that stops waiting must not cancel the read of the others.
        return await asyncio.shield(running.following)

    async def _run(self, key: Key, call: Callable[[], Awaitable[Result]]) -> Result:
        read: _Read[Result] = _Read()
        self._reads[key] = read
        try:
            return await call()
        finally:
            if read.ended is None:
                del self._reads[key]
            elif not read.ended.done():
                read.ended.set_result(None)

    async def _follow(
        self, key: Key, ended: asyncio.Future[None], call: Callable[[], Awaitable[Result]]
    ) -> Result:
        await ended
        # Callers that came before this line share this read; later ones share the next.
        return await self._run(key, call)


def _retrieve(task: asyncio.Task[object]) -> None:
    """Retrieve a failure that no caller waits for, or asyncio would log it."""
    if not task.cancelled():
        task.exception()
