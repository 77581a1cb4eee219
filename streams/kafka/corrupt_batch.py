"""Value of the record that stands for a batch that the client cannot read."""

from __future__ import annotations


class CorruptBatch(bytes):
    """Bytes of a whole record batch whose records are not known."""

    base_offset: int
    next_offset: int
    """The first offset after the batch."""
    error: str
    """Why it cannot be read."""


def corrupt_batch(
    data: bytes | memoryview, *, base_offset: int, next_offset: int, error: str
) -> CorruptBatch:
    """Return the bytes of a batch, with the offsets that it takes."""
    value = CorruptBatch(data)
    value.base_offset, value.next_offset, value.error = base_offset, next_offset, error
    return value
