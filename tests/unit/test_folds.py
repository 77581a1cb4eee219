"""Folds: when they are made, what stays known, and that a store without answer delays no other."""

from __future__ import annotations

import asyncio
from typing import Any
from unittest.mock import patch

import pytest

from store.counters import Committed, Generation
from streams import folds
from streams.folds import Folds

pytestmark = pytest.mark.anyio


def generation(tenant: str) -> Generation:
    return Generation(tenant, 1, 0, "UTC", True)


class Store:
    """Folds at once, but those of the tenant `silent` never."""

    def __init__(self) -> None:
        self.silent = "gone"
        self.folded: list[str] = []
        self.asked = asyncio.Event()

    async def fold(self, of: Generation) -> Committed:
        self.asked.set()
        if of.tenant == self.silent:
            await asyncio.Event().wait()
        self.folded.append(of.tenant)
        return Committed()


def make_folds(store: Any, monotonic_s: float = 0.0) -> Folds:
    return Folds(store, lambda tenant, answer: None, lambda: monotonic_s)


class Often:
    """Folds every 0.1 s, with a clock of its own; `visible`: names of commits, as they appear."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.store = Store()
        self.visible: list[str] = []
        store: Any = self.store
        self.folds = Folds(store, lambda *_: None, lambda: self.now_s, every_s=0.1)

    async def commit(self, name: str, pending: int, *, more: bool = False) -> None:
        await self.folds.after_commit(
            generation("here"), pending, lambda: self.visible.append(name), more=more
        )


async def test_commits_that_follow_closely_are_folded_together() -> None:
    often = Often()
    assert not often.folds.is_soon(generation("here"))
    await often.commit("first", 0)
    assert often.visible == ["first"], "it has changed its groups"
    often.now_s += 0.09
    assert often.folds.is_soon(generation("here"))
    assert not often.folds.is_soon(generation("another"))
    await often.commit("second", 2)
    await often.commit("third", 5)
    assert often.store.folded == [], "not by each commit"
    assert often.visible == ["first"]
    await often.folds.fold_due()
    assert often.store.folded == ["here"], "once for both"
    assert often.visible == ["first", "second", "third"]
    await often.folds.fold_due()
    assert often.store.folded == ["here"], "nothing is left"


async def test_groups_are_changed_by_the_commit_itself_where_commits_are_rare() -> None:
    often = Often()
    await often.commit("first", 0)
    often.now_s += 0.09
    await often.commit("second", 2)
    await often.folds.fold_due()
    often.now_s += 0.09
    assert often.folds.is_soon(generation("here")), "since the fold"
    often.now_s += 0.02
    assert not often.folds.is_soon(generation("here"))


async def test_a_backlog_is_folded_when_it_ends_or_is_much() -> None:
    often = Often()
    await often.commit("waits", 10, more=True)
    assert often.visible == ["waits"], "its lag says what the groups lack"
    await often.folds.fold_due()
    assert often.store.folded == [], "records wait"
    await often.commit("much", folds.PENDING_EVENTS_MAX, more=True)
    assert often.store.folded == ["here"]
    await often.commit("waits", 10, more=True)
    await often.folds.end_backlog()
    await often.folds.fold_due()
    assert often.store.folded == ["here", "here"]


async def test_what_another_worker_left_pending_is_due() -> None:
    often = Often()
    often.folds.note_found(generation("here"), 0)
    await often.folds.fold_due()
    assert often.store.folded == []
    often.folds.note_found(generation("here"), 3)
    await often.folds.fold_due()
    assert often.store.folded == ["here"]


async def test_events_are_visible_only_after_a_fold_that_succeeds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(folds, "FOLD_TIMEOUT_S", 0.01)
    often = Often()
    often.store.silent = "here"
    await often.commit("first", 1)
    await often.folds.fold_due()
    assert often.visible == []
    often.store.silent = ""
    await often.commit("second", 2)
    await often.folds.fold_old()
    assert often.visible == ["first", "second"]


async def test_a_tenant_without_answers_delays_others_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its commits may succeed, where the script fails: they leave more pending."""
    monkeypatch.setattr(folds, "FOLD_TIMEOUT_S", 0.2)
    often = Often()
    often.store.silent = "gone"
    gone = generation("gone")
    await often.folds.after_commit(gone, 1, lambda: None, more=False)
    await often.folds.fold_due()
    again = asyncio.create_task(often.folds.fold_old())
    for n in range(1, 4):
        await often.folds.after_commit(gone, n + 1, lambda: None, more=False)
        await often.commit(f"{n}", 1)
        async with asyncio.timeout(0.1):
            await often.folds.fold_due()
        assert len(often.visible) == n
    await again
    often.store.silent = ""
    await often.folds.fold_old()
    assert often.store.folded.count("gone") == 1


async def test_a_stop_waits_for_folds_that_have_begun() -> None:
    """They would be cancelled after it, with a part of their calls made."""
    often = Often()
    answers = [Committed(pending=5), Committed()]
    goes_on = asyncio.Event()

    async def fold(of: Generation) -> Committed:
        await goes_on.wait()
        return answers.pop(0)

    with patch.object(often.store, "fold", fold):
        await often.commit("first", 10)
        begun = asyncio.create_task(often.folds.fold_due())
        await asyncio.sleep(0.01)
        stop = asyncio.create_task(often.folds.fold_all())
        await asyncio.sleep(0.01)
        assert not stop.done()
        goes_on.set()
        await stop
        assert answers == []
        await begun


async def test_many_tenants_without_an_answer_leave_others_their_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(folds, "FOLD_TIMEOUT_S", 0.02)
    store = Store()
    fold = store.fold

    async def fold_or_not(of: Generation) -> Committed:
        if of.tenant.startswith("gone"):
            await asyncio.Event().wait()
        return await fold(of)

    monkeypatch.setattr(store, "fold", fold_or_not)
    of_worker = make_folds(store)
    for n in range(3 * folds.FOLDS_MAX):
        of_worker.note_found(generation(f"gone-{n}"), 1)
    of_worker.note_found(generation("here"), 1)
    await of_worker.fold_due()
    assert store.folded == ["here"]


def test_what_was_pending_when_a_fold_was_cancelled_is_folded_later() -> None:
    async def check() -> None:
        store = Store()
        of_worker = make_folds(store)
        of_worker.note_found(generation("gone"), 3)
        fold = asyncio.create_task(of_worker.fold_all())
        await store.asked.wait()
        fold.cancel()
        await asyncio.gather(fold, return_exceptions=True)
        store.asked.clear()
        again = asyncio.create_task(of_worker.fold_all())
        async with asyncio.timeout(5):
            await store.asked.wait()
        again.cancel()

    asyncio.run(check())


def test_a_fold_that_gets_no_answer_ends_so_that_the_next_ones_begin(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(folds, "PENDING_MAX_S", 0.5)
    monkeypatch.setattr(folds, "FOLD_TIMEOUT_S", 0.01)

    async def check() -> None:
        store = Store()
        of_worker = make_folds(store, monotonic_s=1.0)
        of_worker.note_found(generation("gone"), 3)
        of_worker.note_found(generation("here"), 3)
        monkeypatch.setattr(of_worker, "_monotonic_s", lambda: 2.0)
        async with asyncio.timeout(30):
            await of_worker.fold_old()
        assert store.folded == ["here"]

    asyncio.run(check())
