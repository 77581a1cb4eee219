"""Fast reader: a strict msgspec Struct that fits nearly every event.

This is a hot path: it runs once per event, in about 6 µs with the construction of the event. Keep
its shape (positional arguments, no helper calls) unless a measurement shows a faster one.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from store.records import DEFAULT_TENANT, Event, is_tenant
from streams.decode.event import ID_CHARS_MAX, TEXT_CHARS_MAX, build_event

_Id = Annotated[str, Meta(min_length=1, max_length=ID_CHARS_MAX)]
_Identity = Annotated[str, Meta(min_length=1, max_length=TEXT_CHARS_MAX)]
_Text = Annotated[str, Meta(max_length=TEXT_CHARS_MAX)]


class _Payload(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    customerId: _Id
    offerId: _Id
    interactionId: _Identity | None = None
    tenantId: str = DEFAULT_TENANT
    creativeId: _Id | None = None
    channelId: _Id | None = None
    interactionType: _Id | None = None
    outcomeTypeKey: _Id | None = None
    direction: _Text | None = None
    campaignId: _Text | None = None
    recommendationId: _Text | None = None
    conversionValue: float | None = None
    timestamp: str | None = None


class _Envelope(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    type: Literal["interaction.recorded.v1"]
    payload: _Payload
    timestamp: str | None = None


PAYLOAD_FIELDS: Final = frozenset(_Payload.__struct_fields__)

_BACKSLASH: Final = ord("\\")
_is_tenant: Final = lru_cache(maxsize=1_024)(is_tenant)

_read_envelope: Final = msgspec.json.Decoder(_Envelope).decode
_read_payload: Final = msgspec.json.Decoder(_Payload).decode


def read_fast(value: bytes) -> Event | None:
    r"""Return the event if it is valid and has no unknown fields and no \u escapes, else None.

    None says nothing about validity: `strict` decides. Raises InvalidEventError where only the
    timestamp is invalid.
    """
    # May be a NUL, which only the strict reader checks for. One byte is found ten times as fast.
    if _BACKSLASH in value and b"\\u" in value:
        return None
    fallback: str | None = None
    try:
        # No value fits both, so this only saves an attempt that fails, which costs up to 1 µs.
        if value.startswith(b'{"type"') or value.endswith(b"}}"):
            envelope = _read_envelope(value)
            payload, fallback = envelope.payload, envelope.timestamp
        else:
            payload = _read_payload(value)
    except (ValueError, RecursionError):
        return _read_other(value)
    return _event_of(payload, fallback)


def _read_other(value: bytes) -> Event | None:
    """Return the event of a shape that its bytes do not show, as `read_fast` does."""
    try:
        envelope = _read_envelope(value)
        return _event_of(envelope.payload, envelope.timestamp)
    except (ValueError, RecursionError):
        pass
    try:
        return _event_of(_read_payload(value), None)
    except (ValueError, RecursionError):
        return None


def _event_of(payload: _Payload, fallback: str | None) -> Event | None:
    outcome = payload.outcomeTypeKey or payload.interactionType
    timestamp = payload.timestamp if payload.timestamp is not None else fallback
    if outcome is None or timestamp is None or not _is_tenant(payload.tenantId):
        return None
    return build_event(
        timestamp,
        payload.tenantId,
        payload.customerId,
        payload.offerId,
        payload.creativeId,
        payload.channelId,
        outcome,
        payload.interactionId,
        payload.direction,
        payload.campaignId,
        payload.recommendationId,
        payload.conversionValue,
        None,
    )
