"""Decoding of the topic's records for a rebuild, by the rules that the worker has."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from store.records import Event, SourcedEvent
from store.settings import Settings
from streams.commit_batch import judged_at_ms
from streams.decode.decoder import Decoder
from streams.decode.rejection import Skipped


@dataclasses.dataclass
class Tally:
    """Records that were read but not counted."""

    rejected: int = 0
    """Malformed, with a bad field or an unregistered type: dead letters of the worker."""
    skipped: int = 0
    """Of another event type."""
    others: int = 0
    """Of tenants that are not rebuilt."""
    copies: int = 0
    """With an identity that was read before."""


class RecordReader:
    """Turns records into events of some tenants, without catalogs, dead letters or metrics."""

    def __init__(
        self, settings: Settings, types: Mapping[str, Collection[str]], tally: Tally
    ) -> None:
        """`types`: tenant -> keys of its outcome types."""
        self._decode = Decoder(
            future_tolerance_s=settings.future_tolerance_s,
            event_bytes_max=settings.event_bytes_max,
            id_chars_max=settings.id_chars_max,
        ).decode
        self._types = types
        self._tally = tally

    def events(self, records: Sequence[Any], now_ms: int) -> Iterator[SourcedEvent]:
        """Yield the events of the tenants, in order."""
        for event, record in self.pairs(records, now_ms):
            yield SourcedEvent(event, record.offset, record.timestamp)

    def pairs(self, records: Sequence[Any], now_ms: int) -> Iterator[tuple[Event, Any]]:
        """Yield each event of the tenants with its record. For the hot path: cheap tuples."""
        decode, types_of, tally = self._decode, self._types, self._tally
        for record in records:
            event = decode(record.value, judged_at_ms(record, now_ms))
            if isinstance(event, Event):
                types = types_of.get(event.tenant)
                if types is None:
                    tally.others += 1
                elif event.outcome in types:
                    yield event, record
                else:
                    tally.rejected += 1
            elif isinstance(event, Skipped):
                tally.skipped += 1
            else:
                tally.rejected += 1
