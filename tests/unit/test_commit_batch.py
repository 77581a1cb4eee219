"""Division of a fetched batch into commit batches."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streams.commit_batch import split_evenly


@given(n=st.integers(1, 2_000), size_max=st.integers(1, 300))
def test_commit_batches_have_all_records_in_order_and_are_few_and_even(
    n: int, size_max: int
) -> None:
    """There are as few batches as possible, and their sizes differ by one at most."""
    records = list(range(n))
    batches = list(split_evenly(records, size_max))
    assert [record for batch in batches for record in batch] == records
    assert len(batches) == -(-n // size_max)
    assert max(map(len, batches)) - min(map(len, batches)) <= 1
    assert all(0 < len(batch) <= size_max for batch in batches)
