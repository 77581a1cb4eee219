"""Batches that the client cannot read, through the client's own reader of a fetch answer."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

import pytest
from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import READ_COMMITTED, PartitionRecords
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c

from streams.kafka import lenient_records
from streams.kafka.corrupt_batch import CorruptBatch
from streams.kafka.lenient_records import LenientRecords

GZIP = 1
CRC_AT, ATTRIBUTES_AT, DELTA_AT, RECORDS_AT = 17, 21, 23, 61


@pytest.fixture(autouse=True)
def nothing_seen() -> Iterator[None]:
    lenient_records._seen.clear()
    yield
    lenient_records._seen.clear()


def batch(base_offset: int, n: int, *, compression: int = 0) -> bytearray:
    """Return a batch of `n` records with the offsets from `base_offset` on."""
    builder = DefaultRecordBatchBuilder(
        magic=2, compression_type=compression, is_transactional=False,
        producer_id=-1, producer_epoch=-1, base_sequence=-1, batch_size=100_000,
    )  # fmt: skip
    for i in range(n):
        builder.append(i, timestamp=1_000 + i, key=None, value=b"v%d" % i * 20, headers=[])
    data = bytearray(builder.build())
    struct.pack_into(">q", data, 0, base_offset)
    return data


def signed(data: bytearray) -> bytearray:
    """Return the batch with the checksum that it should have."""
    struct.pack_into(">I", data, CRC_AT, calc_crc32c(bytes(data[ATTRIBUTES_AT:])))
    return data


def flip(at: int) -> Callable[[bytearray], bytearray]:
    def flipped(data: bytearray) -> bytearray:
        data[at] ^= 0xFF
        return data

    return flipped


def read(*batches: bytearray, fetched_at: int = 10) -> tuple[list[tuple[int, bytes]], int]:
    """Return offset and value of each record of a fetch answer, and where to fetch from next."""
    data = b"".join(batches)
    found = PartitionRecords(
        TopicPartition("t", 0), LenientRecords(data), [], fetched_at, None, None, True,
        READ_COMMITTED,
    )  # fmt: skip
    records = [(record.offset, record.value) for record in found]
    return records, found.next_fetch_offset


def corrupt_in(records: list[tuple[int, bytes]]) -> CorruptBatch:
    """Return the only corrupt batch, which is the last record."""
    (found,) = [value for _, value in records if isinstance(value, CorruptBatch)]
    assert records[-1][1] is found
    assert records[-1][0] == found.next_offset - 1
    return found


@pytest.mark.parametrize("at", [CRC_AT, ATTRIBUTES_AT, RECORDS_AT, RECORDS_AT + 30])
def test_a_batch_with_a_wrong_checksum_is_fetched_again_and_then_passed(at: int) -> None:
    good, bad, after = batch(10, 3), flip(at)(batch(13, 4)), batch(17, 2)
    records, position = read(good, bad, after)
    assert ([offset for offset, _ in records], position) == ([10, 11, 12], 13)
    records, position = read(bad, after, fetched_at=13)
    found = corrupt_in(records)
    assert (found.base_offset, found.next_offset, position) == (13, 17, 17)
    assert (bytes(found), found.error) == (bytes(bad), "wrong checksum")
    records, _ = read(after, fetched_at=17)
    assert [offset for offset, _ in records] == [17, 18]


def test_a_batch_that_only_the_network_changed_is_read() -> None:
    assert read(flip(RECORDS_AT)(batch(10, 3))) == ([], 10)
    records, position = read(batch(10, 3))
    assert ([offset for offset, _ in records], position) == ([10, 11, 12], 13)


def test_the_end_of_a_batch_comes_from_the_next_one_if_its_own_is_wrong() -> None:
    """It is compacted perhaps: its last offset is not that of its last record."""
    bad = flip(DELTA_AT + 3)(batch(10, 3))
    read(bad, batch(20, 1))
    records, position = read(bad, batch(20, 1))
    assert (corrupt_in(records).next_offset, position) == (20, 20)


def test_a_batch_whose_end_is_not_known_is_an_error() -> None:
    bad = flip(DELTA_AT + 3)(batch(10, 3))
    assert read(bad) == ([], 10)
    for following in ([], [flip(RECORDS_AT)(batch(20, 1))]):
        with pytest.raises(CorruptRecordException, match="offset 10, whose end is not known"):
            read(bad, *following)


@pytest.mark.parametrize(
    ("compression", "damage"),
    [
        (GZIP, flip(RECORDS_AT)),
        (GZIP, flip(RECORDS_AT + 20)),
        (0, flip(RECORDS_AT)),
        (0, flip(ATTRIBUTES_AT + 1)),  # an unknown compression, of a control batch
    ],
)
def test_a_batch_that_its_producer_broke_is_passed_at_once(
    compression: int, damage: Callable[[bytearray], bytearray]
) -> None:
    data = damage(batch(13, 4, compression=compression))
    data[ATTRIBUTES_AT + 1] &= 0x07
    bad, after = signed(data), batch(17, 1)
    records, position = read(batch(10, 3), bad, after)
    (found,) = [value for _, value in records if isinstance(value, CorruptBatch)]
    assert [offset for offset, _ in records] == [10, 11, 12, 16, 17]
    assert (found.base_offset, found.next_offset, position) == (13, 17, 18)
    assert bytes(found) == bytes(bad)
