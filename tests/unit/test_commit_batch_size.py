"""Sizes of commit batches: small ones for few tenants, large ones for many."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streams.commit_batch_size import COMMITS_PER_BATCH_MAX, CommitBatchSize, split_batch


def test_one_tenant_has_one_commit_per_commit_batch() -> None:
    size = CommitBatchSize(200)
    size.note([200])
    assert size.records == 200


def test_a_tenant_with_nearly_all_events_keeps_commit_batches_small() -> None:
    """Else its events would be many commits, one after another."""
    size = CommitBatchSize(200)
    size.note([190, *[1] * 10])
    assert size.records == 200


def test_ten_tenants_alike_have_nearly_full_commits() -> None:
    size = CommitBatchSize(200)
    size.note([20] * 10)
    assert size.records == 1_500
    size.note([150] * 10)
    assert size.records == 1_500, "it stays there"


def test_a_commit_batch_has_a_limit() -> None:
    size = CommitBatchSize(200)
    size.note([1] * 5_000)
    assert size.records == 200 * COMMITS_PER_BATCH_MAX


def test_a_commit_batch_without_events_changes_nothing() -> None:
    size = CommitBatchSize(200)
    size.note([1] * 100)
    before = size.records
    size.note([])
    assert size.records == before


@given(
    records=st.integers(0, 3_000),
    events_max=st.integers(1, 300),
    tenants=st.lists(st.lists(st.integers(1, 50), max_size=20), min_size=1, max_size=8),
)
def test_all_records_are_in_one_part_each_in_order(
    records: int, events_max: int, tenants: list[list[int]]
) -> None:
    size = CommitBatchSize(events_max)
    seen: list[int] = []
    for number, part in enumerate(split_batch(range(records), size)):
        assert 0 < len(part) <= size.records
        seen += part
        size.note(tenants[number % len(tenants)])
    assert seen == list(range(records))
