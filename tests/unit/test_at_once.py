"""Calls at once: after a failure none of them goes on, into the session that follows."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from store.shards import Layout
from streams import tenant_commits
from streams.at_once import all_at_once
from streams.isolation import Isolation
from streams.tenant_commits import TenantCommits
from streams.tenant_state import RewindRequired
from tests.support.events import make_event, sourced


def test_the_results_are_in_order() -> None:
    async def after(turns: int) -> int:
        for _ in range(turns):
            await asyncio.sleep(0)
        return turns

    async def check() -> None:
        assert await all_at_once(after(3), after(1), after(2)) == [3, 1, 2]
        assert await all_at_once() == []

    asyncio.run(check())


@pytest.mark.parametrize("cancelled", [False, True])
def test_no_call_goes_on_after_a_failure_or_a_cancellation(cancelled: bool) -> None:
    async def check() -> None:
        turn, went_on = asyncio.Event(), list[int]()

        async def wait(number: int) -> None:
            await turn.wait()
            went_on.append(number)

        async def fail() -> None:
            if cancelled:
                await asyncio.Event().wait()
            raise ValueError

        calls = asyncio.create_task(all_at_once(wait(1), fail(), wait(2)))
        await asyncio.sleep(0)
        if cancelled:
            calls.cancel()
        with pytest.raises(asyncio.CancelledError if cancelled else ValueError):
            await calls
        turn.set()
        await asyncio.sleep(0)
        assert went_on == []

    asyncio.run(check())


def test_no_shard_is_committed_after_another_one_was_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A commit that waits for its turn would take the session that follows for its own."""
    monkeypatch.setattr(tenant_commits, "COMMITS_MAX", 1)

    async def check() -> None:
        committed: list[str] = []

        async def layout(tenant: str) -> Layout:
            return Layout(tenant, 1, 16)

        async def commit(name: str, *_: object, **__: object) -> set[int]:
            committed.append(name)
            await asyncio.sleep(0)
            raise RewindRequired("the store has less")

        committer: Any = SimpleNamespace(tenants=SimpleNamespace(layout=layout), commit=commit)
        commits = TenantCommits(committer, SimpleNamespace(), Isolation(), events_max=200)
        events = sourced(*(make_event(customer=f"C-{n}") for n in range(40)))
        with pytest.raises(RewindRequired):
            await commits.commit("acme", 0, [], events, 40)
        begun = list(committed)
        assert len(begun) < 16
        for _ in range(50):
            await asyncio.sleep(0)
        assert committed == begun

    asyncio.run(check())
