r"""Records whose header names are not UTF-8, which Kafka allows and the client does not.

The client fails on the whole batch, at each attempt: one such record would end every worker that
reads its partition. Here such a batch is read again by the client's own reader in Python, with
header names in which other bytes are written as \xff. All other batches are read as before.

Leans on `aiokafka.consumer.fetcher.MemoryRecords`, which is replaced, and `_DefaultRecordBatchPy`
with its `_buffer` and `_maybe_uncompress`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, Final, SupportsIndex

from aiokafka.consumer import fetcher
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords

#: Offset of a batch's length, and what it does not count: first offset (int64) and length (int32).
_LENGTH_AT: Final = 8
_OVERHEAD: Final = 12


class LenientRecords:
    """The client's `MemoryRecords` of one partition in a fetch answer."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._records: Any = MemoryRecords(data)
        self._at = 0

    def size_in_bytes(self) -> int:
        """Return the number of bytes."""
        return int(self._records.size_in_bytes())

    def has_next(self) -> bool:
        """Return whether there is a next batch."""
        return bool(self._records.has_next())

    def next_batch(self) -> Any:
        """Return the next batch, or None."""
        batch = self._records.next_batch()
        if batch is None:
            return None
        (length,) = struct.unpack_from(">i", self._data, self._at + _LENGTH_AT)
        first, self._at = self._at, self._at + _OVERHEAD + length
        return _LenientBatch(batch, memoryview(self._data)[first : self._at])


class _LenientBatch:
    """A batch of the client, with all of its records read at once."""

    def __init__(self, batch: Any, data: memoryview) -> None:
        self._batch = batch
        self._data = data
        self._iterator: Iterator[Any] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __iter__(self) -> Iterator[Any]:
        try:
            return iter(list(self._batch))
        except UnicodeDecodeError:
            again: Any = _DefaultRecordBatchPy(self._data)
            again._maybe_uncompress()
            again._buffer = _Buffer(again._buffer)
            return iter(list(again))

    def __next__(self) -> Any:
        if self._iterator is None:
            self._iterator = iter(self)
        return next(self._iterator)


class _Buffer(bytes):
    """Bytes of a batch, whose parts can always be decoded."""

    def __getitem__(self, at: SupportsIndex | slice) -> Any:
        part = super().__getitem__(at)
        return _Part(part) if isinstance(part, bytes) else part


class _Part(bytes):
    def decode(self, encoding: str = "utf-8", errors: str = "backslashreplace") -> str:
        return super().decode(encoding, errors)


def install() -> None:
    """Let all consumers of this process read such records. Safe to repeat."""
    fetcher.MemoryRecords = LenientRecords
