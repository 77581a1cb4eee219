"""Folds: what is pending stays known, and one store that does not answer delays no other."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from store.counters import Committed, Generation
from streams import folds
from streams.folds import Folds


def generation(tenant: str) -> Generation:
    return Generation(tenant, 1, 0, "UTC", True)


class Store:
    """Folds at once, but those of the tenant `gone` never."""

    def __init__(self) -> None:
        self.folded: list[str] = []
        self.asked = asyncio.Event()

    async def fold(self, of: Generation) -> Committed:
        self.asked.set()
        if of.tenant == "gone":
            await asyncio.Event().wait()
        self.folded.append(of.tenant)
        return Committed()


def make_folds(store: Any, monotonic_s: float = 0.0) -> Folds:
    return Folds(store, on_answer=lambda tenant, answer: None, monotonic_s=lambda: monotonic_s)


def test_what_was_pending_when_a_fold_was_cancelled_is_folded_later() -> None:
    async def check() -> None:
        store = Store()
        of_worker = make_folds(store)
        of_worker.note(generation("gone"), 3)
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
        of_worker.note(generation("gone"), 3)
        of_worker.note(generation("here"), 3)
        monkeypatch.setattr(of_worker, "_monotonic_s", lambda: 2.0)
        async with asyncio.timeout(30):
            await of_worker.fold_old()
        assert store.folded == ["here"]

    asyncio.run(check())
