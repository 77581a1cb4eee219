"""Calls of one script that share round trips."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import Any, Final, NamedTuple

from redis.asyncio import RedisCluster
from redis.exceptions import NoScriptError, RedisError

from store.records import StoreUnavailable
from store.redis.client import Client, Script, redis_errors

#: Calls that are sent together, and bytes of their arguments, unless one call alone has more. Redis
#: runs them one after another before it serves others. Commits of this size take 3 to 5 ms.
CALLS_MAX: Final = 16
BYTES_MAX: Final = 8_192
#: Pipelines in flight: while Redis runs one, the calls of the next are made.
PIPELINES_MAX: Final = 2


class _Call(NamedTuple):
    key: str
    args: tuple[str | int | bytes, ...]
    answer: asyncio.Future[list[Any]]

    @property
    def bytes(self) -> int:
        """Size of the arguments, without those that are numbers."""
        return sum(len(arg) for arg in self.args if not isinstance(arg, int))


class PipelinedScript:
    """Script whose calls are sent in pipelines, when many are made at once.

    A round trip of its own costs a call about 100 µs of this process, more than the script of a few
    events. Calls are independent: each has its own answer or error. A call that is cancelled before
    it was sent is not sent. For one client and one event loop.
    """

    def __init__(self, script: Script, *, calls_max: int = CALLS_MAX) -> None:
        """`calls_max`: maximum calls that are sent together."""
        self._script = script
        self._calls_max = calls_max
        self._waiting: deque[_Call] = deque()
        self._pipelines: set[asyncio.Task[None]] = set()

    async def __call__(self, client: Client, key: str, *args: str | int | bytes) -> list[Any]:
        """Run the script with the one key that routes it. Raises StoreUnavailable."""
        if isinstance(client, RedisCluster):  # the keys of a pipeline may be on several nodes
            return await self._script(client, key, *args)
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[Any]] = loop.create_future()
        self._waiting.append(_Call(key, args, answer))
        if len(self._waiting) == 1:
            loop.call_soon(self._send, client)  # after other tasks have made their calls
        return await answer

    def _send(self, client: Client) -> None:
        while self._waiting and len(self._pipelines) < PIPELINES_MAX:
            if calls := self._next():
                pipeline = asyncio.create_task(self._run(client, calls))
                self._pipelines.add(pipeline)
                pipeline.add_done_callback(lambda done: self._on_done(done, client))

    def _next(self) -> list[_Call]:
        """Take the calls of the next pipeline; leave out those that were cancelled."""
        calls: list[_Call] = []
        size = 0
        while self._waiting and len(calls) < self._calls_max:
            if self._waiting[0].answer.done():
                self._waiting.popleft()
                continue
            size += self._waiting[0].bytes
            if calls and size > BYTES_MAX:
                break
            calls.append(self._waiting.popleft())
        return calls

    def _on_done(self, pipeline: asyncio.Task[None], client: Client) -> None:
        self._pipelines.discard(pipeline)
        self._send(client)

    async def _run(self, client: Client, calls: list[_Call]) -> None:
        """Send the calls, and give each its answer."""
        try:
            answers = await self._answers(client, calls)
        except asyncio.CancelledError:  # the loop ends
            for call in calls:
                call.answer.cancel()
            raise
        for call, answer in zip(calls, answers, strict=True):
            if call.answer.done():
                continue
            if isinstance(answer, Exception):
                call.answer.set_exception(answer)
            else:
                call.answer.set_result(answer)

    async def _answers(self, client: Client, calls: list[_Call]) -> list[Any]:
        """Return the answer of each call, or the error that its caller gets."""
        if len(calls) > 1:
            # Another error is one of the program, perhaps because of one call: all are sent again,
            # alone, and only that one fails.
            with contextlib.suppress(Exception):
                try:
                    return await self._pipeline(client, calls)
                except StoreUnavailable as error:
                    return [StoreUnavailable(str(error)) for _ in calls]
        return [await self._alone(client, call) for call in calls]

    async def _pipeline(self, client: Client, calls: list[_Call]) -> list[Any]:
        async with redis_errors():
            pipeline = client.pipeline(transaction=False)
            for call in calls:
                pipeline.evalsha(self._script.sha, 1, call.key, *call.args)
            answers = await pipeline.execute(raise_on_error=False)
        return [
            await self._checked(client, call, answer)
            for call, answer in zip(calls, answers, strict=True)
        ]

    async def _checked(self, client: Client, call: _Call, answer: Any) -> Any:
        if isinstance(answer, NoScriptError):
            return await self._alone(client, call)
        try:
            async with redis_errors():
                if isinstance(answer, RedisError):
                    raise answer
        except StoreUnavailable as error:
            return error
        return answer

    async def _alone(self, client: Client, call: _Call) -> Any:
        try:
            return await self._script(client, call.key, *call.args)
        except Exception as error:
            return error
