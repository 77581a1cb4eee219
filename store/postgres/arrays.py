"""Encoder of long array parameters in PostgreSQL's binary format.

Written for texts and UUIDs alone: 0.2 µs an element; the driver's general encoder takes about 3 µs.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import ClassVar, Self

import psycopg
from psycopg.adapt import Dumper
from psycopg.pq import Format

_length = struct.Struct("!i").pack
_TEXT_OID, _TEXTS_OID = 25, 1009
_UUID_OID, _UUIDS_OID = 2950, 2951


class _Array(bytes):
    """Encoded array of one dimension, without nulls."""

    element_oid: ClassVar[int]

    @classmethod
    def _of(cls, parts: list[bytes]) -> Self:
        # dimensions, has nulls, element type; size, index of the first element
        head = struct.pack("!iiIii", 1, 0, cls.element_oid, len(parts), 1)
        return cls(head + b"".join(parts))


class Texts(_Array):
    """Encoded `text[]`."""

    element_oid = _TEXT_OID

    @classmethod
    def of(cls, values: Iterable[str]) -> Self:
        """Encode `values`. Fast if few distinct values are repeated often."""
        made: dict[str, bytes] = {}
        parts = []
        for value in values:
            part = made.get(value)
            if part is None:
                raw = value.encode()
                part = made[value] = _length(len(raw)) + raw
            parts.append(part)
        return cls._of(parts)


class Uuids(_Array):
    """Encoded `uuid[]`."""

    element_oid = _UUID_OID

    @classmethod
    def of(cls, values: Iterable[bytes]) -> Self:
        """Encode `values`, the 16 bytes of each UUID."""
        length = _length(16)
        return cls._of([length + value for value in values])


class _TextsDumper(Dumper):
    format = Format.BINARY
    oid = _TEXTS_OID

    def dump(self, obj: Texts) -> bytes:
        """Return the bytes as they are."""
        return obj


class _UuidsDumper(Dumper):
    format = Format.BINARY
    oid = _UUIDS_OID

    def dump(self, obj: Uuids) -> bytes:
        """Return the bytes as they are."""
        return obj


psycopg.adapters.register_dumper(Texts, _TextsDumper)
psycopg.adapters.register_dumper(Uuids, _UuidsDumper)
