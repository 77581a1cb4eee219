"""Isolation: only the records that fail are rejected, and not more than a few of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.records import StoreUnavailable
from streams.isolation import Isolation
from streams.tenant_state import RewindRequired

pytestmark = pytest.mark.anyio


class Step:
    """Step that fails on some items, and with all of them after `bug` is set."""

    def __init__(self, bad: set[int]) -> None:
        self.bad = bad
        self.processed: list[int] = []
        self.rejected: list[int] = []

    async def process(self, items: Sequence[int]) -> None:
        if self.bad & set(items):
            raise ValueError(f"cannot process {items}")
        self.processed += items

    async def reject(self, item: int, error: Exception) -> None:
        assert str(error) == f"cannot process {[item]}"
        self.rejected.append(item)


@given(st.integers(0, 40).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, 50)))))
def test_only_the_items_that_fail_are_rejected_and_all_keep_their_order(
    case: tuple[int, set[int]],
) -> None:
    n, bad = case
    step = Step(bad)
    asyncio.run(Isolation().run(list(range(n)), step.process, step.reject))
    assert step.rejected == [i for i in range(n) if i in bad]
    assert step.processed == [i for i in range(n) if i not in bad]


@pytest.mark.parametrize("error", [StoreUnavailable("Redis: gone"), RewindRequired("behind")])
async def test_errors_that_are_not_about_the_items_are_raised(error: Exception) -> None:
    step = Step(set())

    async def process(items: Sequence[int]) -> None:
        raise error

    with pytest.raises(type(error)):
        await Isolation().run([1, 2, 3], process, step.reject)
    assert step.rejected == []


async def test_a_step_that_fails_without_items_is_an_error() -> None:
    async def process(items: Sequence[int]) -> None:
        raise ValueError("always")

    with pytest.raises(ValueError, match="always"):
        await Isolation().run([], process, Step(set()).reject)


def test_too_many_failures_are_an_error_of_the_program() -> None:
    isolation = Isolation(failures_max=2, window_records=100)
    for _ in range(5):
        isolation.note_records(50)
        isolation.note_failure(ValueError("few"), partition=0, offset=1)
    with pytest.raises(ValueError, match="many"):
        isolation.note_failure(ValueError("many"), partition=0, offset=2)
