"""How a batch is divided into commits."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streams.commit_batch import split_evenly


@given(n=st.integers(1, 2_000), most=st.integers(1, 300))
def test_slices_are_all_records_in_order_and_as_few_and_even_as_can_be(n: int, most: int) -> None:
    records = list(range(n))
    found = list(split_evenly(records, most))
    assert [record for part in found for record in part] == records
    assert len(found) == -(-n // most)
    assert max(map(len, found)) - min(map(len, found)) <= 1
    assert all(0 < len(part) <= most for part in found)
