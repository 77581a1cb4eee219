"""Observations of a batch: the same samples as one by one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from store.metrics import BatchHistogram

BUCKETS = (0.1, 0.5, 1.0)
#: Multiples of a power of 2, whose sums are exact; those of 0.5 and 1.0 are bounds.
AMOUNTS = st.lists(st.integers(0, 32).map(lambda n: n / 16), max_size=20)


@given(AMOUNTS)
def test_all_at_once_are_as_one_by_one(amounts: list[float]) -> None:
    samples = []
    for at_once in (True, False):
        registry = CollectorRegistry()
        histogram = BatchHistogram("h", "A test.", ["kind"], buckets=BUCKETS, registry=registry)
        child = histogram.labels("a")
        if at_once:
            child.observe_all(amounts)
        else:
            for amount in amounts:
                child.observe(amount)
        (metric,) = registry.collect()
        samples.append(
            [(s.name, s.labels, s.value) for s in metric.samples if s.name != "h_created"]
        )
    assert samples[0] == samples[1]
    assert samples[0][-2][2] == len(amounts)
