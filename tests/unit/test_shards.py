"""Shards: which customer is in which one, their names, and one page from those of all."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.records import CounterPage, Event, Grouping, Incomplete, Question
from store.redis.keys import Keys
from store.shard_pages import SHARD_GROUPS_MAX, merge, of_shard
from store.shards import Layout, generation_of, is_shard, shard_of, tenant_of
from store.windows import Calendar, window_of
from tests.support.events import TODAY, events
from tests.support.oracle import groups_of, page_of

UTC = Calendar("UTC")
MONTH = window_of("monthly", TODAY)
#: What is stored by these: a change would send customers to shards that do not know them.
GOLDEN = {
    "C-1": (1, 1, 9, 41),
    "C-1234": (1, 1, 5, 25),
    "é 😀": (1, 1, 1, 45),
    "z" * 128: (1, 3, 3, 7),
}


@pytest.mark.parametrize("customer", GOLDEN)
def test_the_shard_of_a_customer_never_changes(customer: str) -> None:
    assert tuple(shard_of(customer, n) for n in (2, 4, 10, 64)) == GOLDEN[customer]
    assert shard_of(customer, 1) == 0


def test_the_shard_does_not_depend_on_the_hash_seed() -> None:
    code = "from store.shards import shard_of; print([shard_of(f'C-{n}', 64) for n in range(200)])"
    seeds = (
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    )
    assert len(set(seeds)) == 1


def test_customers_are_spread_evenly() -> None:
    sizes = [0] * 16
    for n in range(16_000):
        sizes[shard_of(f"C-{n}", 16)] += 1
    assert min(sizes) > 850
    assert max(sizes) < 1_150


def test_one_shard_has_the_keys_of_a_tenant_as_before() -> None:
    keys = Keys("is")
    assert Layout("acme", 7).names == ["acme"]
    assert keys.active("acme") == "is:{acme/0}:active"
    assert keys.meta("acme", 7) == "is:{acme/0}:7:meta"


def test_each_shard_has_a_slot_and_each_generation_of_it_keys_of_its_own() -> None:
    keys = Keys("is")
    layout = Layout("acme", 7, 3)
    assert layout.names == ["acme", "acme/1@7", "acme/2@7"]
    assert keys.active("acme/2@7") == "is:{acme/2}:7:active"
    assert keys.meta("acme/2@7", 1) == "is:{acme/2}:7:1:meta"
    assert [tenant_of(name) for name in layout.names] == ["acme"] * 3
    assert [is_shard(name) for name in layout.names] == [False, True, True]
    assert generation_of("acme/2@7") == 7


def ask(group_by: Grouping, limit: int, offset: int) -> Question:
    return Question("acme", group_by, "monthly", MONTH, TODAY, "UTC", limit, offset)


def answer(of: Sequence[Event], question: Question) -> CounterPage:
    groups = groups_of(of, question.group_by, question.window, UTC)
    return CounterPage(page_of(groups, question.limit, question.offset), 3, 1)


@given(
    happened=st.lists(events(days=range(TODAY - 32, TODAY + 1)), max_size=60),
    shards=st.sampled_from((1, 2, 4)),
    group_by=st.sampled_from(("action", "treatment", "channel", "customer")),
    limit=st.integers(1, 9),
    offset=st.integers(0, 9),
)
def test_the_pages_of_all_shards_are_the_page_of_all_events(
    happened: list[Event], shards: int, group_by: Grouping, limit: int, offset: int
) -> None:
    question = ask(group_by, limit, offset)
    asked = of_shard(question)
    assert isinstance(asked, Question)
    pages = [
        answer([e for e in happened if shard_of(e.customer, shards) == index], asked)
        for index in range(shards)
    ]
    found = merge(question, pages)
    assert isinstance(found, CounterPage)
    assert found.page == answer(happened, question).page
    assert (found.catalog_version, found.pending) == (3, shards)


def test_more_groups_than_one_script_reads_are_left_to_history() -> None:
    assert of_shard(ask("customer", 500, SHARD_GROUPS_MAX)) == Incomplete("too_many_groups")
    full = answer([], ask("action", 1, 0))
    more = full._replace(page=full.page._replace(total=1))
    assert merge(ask("action", 1, 0), [full, more]) == Incomplete("too_many_groups")
