"""Identities of a rebuild: copies are recognised as the counters recognise them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from store.identity_owners import ENTRY_BYTES, ID_BYTES
from streams.rebuild.identities import BUCKET_LOAD, SeenIdentities, buckets_of

#: Contains the beginning of identities, and must not be taken for one.
OWNER = bytes(4)
#: Few values, so that identities meet, share buckets, and contain each other across boundaries.
IDENTITIES = st.binary(min_size=ID_BYTES, max_size=ID_BYTES) | st.sampled_from(
    [bytes(8), b"\1" * 8, b"\0\0\0\0\0\0\0\1", b"\0\1\0\1\0\1\0\1", b"\1\0\1\0\1\0\1\0"]
)


@given(
    st.lists(st.tuples(IDENTITIES, st.integers(0, 6)), max_size=80),
    st.integers(0, 2),
    st.integers(0, 6),
)
def test_a_copy_is_recognised_within_the_slots_around_it(
    arrivals: list[tuple[bytes, int]], slots_back: int, oldest: int
) -> None:
    seen = SeenIdentities(slots_back)
    model: set[tuple[bytes, int]] = set()
    for identity, slot in arrivals:
        near = range(slot - slots_back, slot + slots_back + 1)
        is_new = not any((identity, other) in model for other in near)
        assert seen.add(identity, slot, OWNER) == is_new
        if is_new:
            model.add((identity, slot))
    kept = {
        (packed[at : at + ENTRY_BYTES], slot)
        for slot, packed in seen.slots(oldest)
        for at in range(0, len(packed), ENTRY_BYTES)
    }
    assert kept == {(identity + OWNER, slot) for identity, slot in model if slot >= oldest}
    seen.forget_before(oldest)
    for identity, slot in model:
        if slot >= oldest:
            assert not seen.add(identity, slot)


@given(st.lists(IDENTITIES, unique=True, max_size=300))
def test_buckets_hold_each_identity_where_the_commit_script_looks_for_it(
    identities: list[bytes],
) -> None:
    buckets = buckets_of(b"".join(identity + OWNER for identity in identities))
    count = len(buckets)
    assert count == max(1, -(-len(identities) // BUCKET_LOAD))
    half = 1
    while half * 2 <= count:
        half *= 2
    for identity in identities:
        # The arithmetic of bucket_indexes in slots.lua.
        low = identity[0] + identity[1] * 256 + identity[2] * 65536 + identity[3] * 16777216
        index = low % (half * 2)
        bucket = buckets[index if index < count else index - half]
        entries = {bucket[at : at + ENTRY_BYTES] for at in range(0, len(bucket), ENTRY_BYTES)}
        assert identity + OWNER in entries
    assert sum(map(len, buckets)) == ENTRY_BYTES * len(identities)
