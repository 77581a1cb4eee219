"""Recorded events: key, event time, and a copy with shifted times. Pure.

A value that cannot be parsed is passed on unchanged; the worker decides what to do with it.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Final

import msgspec

from store.windows import INSTANT_MAX_MS, INSTANT_MIN_MS
from streams.decode.timestamps import format_ms, parse_ms

# Decimal, so that numbers keep all their digits.
_read: Final = msgspec.json.Decoder(float_hook=Decimal).decode
_write: Final = msgspec.json.Encoder(decimal_format="number").encode


def key_of(value: bytes) -> bytes | None:
    """Return the customer id of an event, enveloped or bare; None if it has none."""
    _, payload = _parts(value)
    customer = payload.get("customerId")
    return customer.encode() if isinstance(customer, str) else None


def instant_of(value: bytes) -> int | None:
    """Return the event time in ms since 1970; None if the event has no valid one."""
    envelope, payload = _parts(value)
    timestamp = payload.get("timestamp")
    return _instant(envelope.get("timestamp") if timestamp is None else timestamp)


def shifted(value: bytes, delta_ms: int) -> bytes:
    """Return the event with each of its timestamps `delta_ms` later."""
    envelope, payload = _parts(value)
    times = [(part, _instant(part.get("timestamp"))) for part in (envelope, payload)]
    if envelope is payload:
        del times[1]
    if all(instant is None for _, instant in times):
        return value
    for part, instant in times:
        if instant is not None:
            part["timestamp"] = format_ms(instant + delta_ms)
    return _write(envelope)


def _parts(value: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return envelope and payload of an event; the same object twice for a bare event."""
    try:
        document = _read(value)
    except (ValueError, RecursionError, ArithmeticError):
        return {}, {}
    if not isinstance(document, dict):
        return {}, {}
    payload = document.get("payload")
    return document, payload if isinstance(payload, dict) else document


def _instant(timestamp: object) -> int | None:
    try:
        instant = parse_ms(timestamp) if isinstance(timestamp, str) else None
    except ValueError:
        return None
    if instant is None or not INSTANT_MIN_MS <= instant <= INSTANT_MAX_MS:
        return None
    return instant
