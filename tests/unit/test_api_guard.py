"""The background look at the state of Redis: a refused connection is logged once."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from api import guard
from store.records import AccessRefused, CounterReader, Incomplete, StoreUnavailable


def test_a_refused_connection_is_logged_once_and_again_after_it_worked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(guard, "INTERVAL_S", 0)
    refused, away = AccessRefused("Redis: wrong password"), StoreUnavailable("Redis: away")
    answers: list[Exception | None] = [refused, refused, away, refused, None, refused]

    async def look() -> str | None:
        if not answers:
            raise asyncio.CancelledError
        answer = answers.pop(0)
        if answer is not None:
            raise answer
        return None

    async def run() -> list[Any]:
        with capture_logs() as logged, pytest.raises(asyncio.CancelledError):
            await guard.GuardedCounters(cast(CounterReader, None), look).run()
        return [each["error"] for each in logged if each["log_level"] == "error"]

    assert asyncio.run(run()) == ["Redis: wrong password"] * 2


def test_no_read_reaches_counters_that_redis_may_have_evicted() -> None:
    reason: str | None = "evicting"
    reached: list[object] = []

    class Counters:
        async def read(self, asked: object) -> object:
            reached.append(asked)
            return asked

        read_group = read_trend = read

    async def look() -> str | None:
        return reason

    async def run() -> None:
        nonlocal reason
        guarded: Any = guard.GuardedCounters(cast(CounterReader, Counters()), look)
        reads = (guarded.read, guarded.read_group, guarded.read_trend)
        assert [await read("question") for read in reads] == [Incomplete("evicting")] * 3
        assert reached == []
        reason = None
        await guarded.refresh()
        assert [await read("question") for read in reads] == ["question"] * 3

    asyncio.run(run())
