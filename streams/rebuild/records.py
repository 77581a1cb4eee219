"""Decoding of the topic's records for a rebuild, by the rules that the worker has."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from store.records import Event, SourcedEvent
from store.settings import Settings
from streams.commit_batch import judged_at_ms, recorded_ms
from streams.decode.decoder import make_decoder


class RecordReader:
    """Turns records into events of some tenants, without catalogs, dead letters or metrics."""

    def __init__(self, settings: Settings, types: Mapping[str, Collection[str]]) -> None:
        """`types`: tenant -> keys of its outcome types."""
        self._decode = make_decoder(settings).decode
        self._types = types

    def events(self, records: Sequence[Any], now_ms: int) -> Iterator[SourcedEvent]:
        """Yield the events of the tenants, in order."""
        for event, record in self.pairs(records, now_ms):
            yield SourcedEvent(event, record.offset, recorded_ms(record, now_ms))

    def pairs(self, records: Sequence[Any], now_ms: int) -> Iterator[tuple[Event, Any]]:
        """Yield each event of the tenants with its record. For the hot path: cheap tuples.

        The worker has rejected or skipped the other records, and counted them in its metrics.
        """
        decode, types_of = self._decode, self._types
        for record in records:
            event = decode(record.value, judged_at_ms(record, now_ms))
            if isinstance(event, Event) and event.outcome in types_of.get(event.tenant, ()):
                yield event, record
