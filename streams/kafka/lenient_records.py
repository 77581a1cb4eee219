r"""Batches that the client cannot read: it fails on them, at each attempt, and so would a worker.

- Records whose header names are not UTF-8, which Kafka allows and the client does not. Such a batch
  is read again by the client's own reader in Python, with header names in which other bytes are
  written as \xff.
- Corrupt batches: wrong checksum, broken compression or broken records. One record stands for all
  of such a batch, with the batch's last offset and a `CorruptBatch` as its value. Where the
  checksum is wrong, the batch is fetched once more before: the network may have changed it.

All other batches are read as before. A batch whose length or magic byte is wrong, or whose end is
not known, is an error of the client as before: what follows it cannot be found.

Leans on `aiokafka.consumer.fetcher.MemoryRecords`, which is replaced, and `_DefaultRecordBatchPy`
with its `_buffer` and `_maybe_uncompress`.
"""

from __future__ import annotations

import hashlib
import struct
from collections import deque
from collections.abc import Iterator
from typing import Any, Final, NamedTuple, SupportsIndex

from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException, UnsupportedCodecError
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords

from streams.kafka.corrupt_batch import corrupt_batch

#: Offset of a batch's length, and what it does not count: first offset (int64) and length (int32).
_LENGTH_AT: Final = 8
_OVERHEAD: Final = 12
_MAGIC_AT: Final = 16
_COUNT_AT: Final = 57
_MAGIC: Final = 2
_CODEC_MAX: Final = 4

#: Digests of the last batches with a wrong checksum, of all consumers of this process.
_seen: Final[deque[bytes]] = deque(maxlen=1_000)


class LenientRecords:
    """The client's `MemoryRecords` of one partition in a fetch answer."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._records: Any = MemoryRecords(data)
        self._at = 0
        self._ended = False

    def size_in_bytes(self) -> int:
        """Return the number of bytes."""
        return int(self._records.size_in_bytes())

    def has_next(self) -> bool:
        """Return whether there is a next batch."""
        return not self._ended and bool(self._records.has_next())

    def next_batch(self) -> Any:
        """Return the next batch, or None."""
        batch = self._records.next_batch()
        if batch is None:
            return None
        data, self._at = self._batch_at(self._at)
        if data[_MAGIC_AT] != _MAGIC or batch.validate_crc():
            return _LenientBatch(batch, data)
        # The next fetch tells which transactions were aborted after this batch. This one may have
        # been the marker of one.
        self._ended = True
        digest = hashlib.sha256(data).digest()
        if digest not in _seen:
            _seen.append(digest)
            return _EmptyBatch(batch.base_offset)
        return _CorruptBatch(batch, data, self._next_offset(batch, data), "wrong checksum")

    def _batch_at(self, at: int) -> tuple[memoryview, int]:
        """Return the bytes of the batch at an index, and the index of the next one."""
        (length,) = struct.unpack_from(">i", self._data, at + _LENGTH_AT)
        end = at + _OVERHEAD + length
        return memoryview(self._data)[at:end], end

    def _next_offset(self, batch: Any, data: memoryview) -> int:
        """Return the first offset after a batch with a wrong checksum.

        The next batch tells, if its checksum is right. The header of the batch itself is trusted
        only where it has a record for each offset.
        """
        following = self._records.next_batch() if self._records.has_next() else None
        if (
            following is not None
            and self._data[self._at + _MAGIC_AT] == _MAGIC
            and following.validate_crc()
            and following.base_offset > batch.base_offset
        ):
            return int(following.base_offset)
        (count,) = struct.unpack_from(">i", data, _COUNT_AT)
        if 0 < count == batch.next_offset - batch.base_offset:
            return int(batch.next_offset)
        raise CorruptRecordException(
            f"wrong checksum of the batch at offset {batch.base_offset}, whose end is not known"
        )


class _LenientBatch:
    """A batch of the client, with all of its records read at once."""

    def __init__(self, batch: Any, data: memoryview) -> None:
        self._batch = batch
        self._data = data
        self._iterator: Iterator[Any] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def validate_crc(self) -> bool:
        """Return True: it was validated before."""
        return self._data[_MAGIC_AT] == _MAGIC or bool(self._batch.validate_crc())

    def __iter__(self) -> Iterator[Any]:
        try:
            return iter(list(self._batch))
        except UnicodeDecodeError:
            return self._with_other_names()
        except MemoryError:
            raise
        except Exception as error:
            return self._unreadable(error)

    def __next__(self) -> Any:
        if self._iterator is None:
            self._iterator = iter(self)
        return next(self._iterator)

    def _with_other_names(self) -> Iterator[Any]:
        again: Any = _DefaultRecordBatchPy(self._data)
        again._maybe_uncompress()
        again._buffer = _Buffer(again._buffer)
        try:
            return iter(list(again))
        except CorruptRecordException as error:
            return self._unreadable(error)

    def _unreadable(self, error: Exception) -> Iterator[Any]:
        """Return the record that stands for the batch; raise errors that are not about it."""
        batch = self._batch
        is_known_codec = batch.compression_type <= _CODEC_MAX
        if isinstance(error, UnsupportedCodecError) and is_known_codec:
            raise error  # a library is missing
        if self._data[_MAGIC_AT] != _MAGIC or batch.is_control_batch:
            raise error
        why = f"{type(error).__name__}: {error}"
        return iter(_CorruptBatch(batch, self._data, int(batch.next_offset), why))


class _EmptyBatch:
    """Batch without records, after which the client fetches again from `next_offset`."""

    producer_id = None
    is_control_batch = True

    def __init__(self, next_offset: int) -> None:
        self.base_offset = self.next_offset = next_offset

    def validate_crc(self) -> bool:
        return True


class _CorruptBatch:
    """Batch with one record that stands for all of a batch that cannot be read."""

    producer_id = None
    is_control_batch = False

    def __init__(self, batch: Any, data: memoryview, next_offset: int, error: str) -> None:
        self.base_offset, self.next_offset = int(batch.base_offset), next_offset
        value = corrupt_batch(
            data, base_offset=self.base_offset, next_offset=next_offset, error=error
        )
        self._record = _StandIn(
            next_offset - 1, int(batch.max_timestamp), int(batch.timestamp_type), value
        )

    def validate_crc(self) -> bool:
        return True

    def __iter__(self) -> Iterator[Any]:
        return iter([self._record])


class _StandIn(NamedTuple):
    """Record of `_CorruptBatch`, with the fields of the client's."""

    offset: int
    timestamp: int
    timestamp_type: int
    value: bytes
    key: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()
    checksum: None = None


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
