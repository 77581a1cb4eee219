"""Strict reader: the definition of a valid event; it names the rule that was broken.

Which shape a JSON object has: it is a bare payload if it has a `customerId` and an `offerId` or
`actionId`, unless it has both a string under `type` and an object under `payload`. Otherwise it is
an envelope if it has `type` or `payload`, else a bare payload. So a bare payload may have an
unknown field named `type` or `payload`, and an envelope of another type is skipped whatever it
contains.

Decisions where the contract is silent:

- The two names of one field (`offerId` and `actionId`) may both be given if they agree; an event
  that contradicts itself is rejected.
- Of an envelope only `type`, `timestamp` and `payload` are read; its other fields are dropped.
- Group ids (creative, channel) obey the rule of `offerId`: an empty id is rejected, not treated as
  absent.
- JSON nested deeper than 64 levels is malformed, so that the result never depends on the depth of
  the caller's stack.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

import msgspec

from store.records import DEFAULT_TENANT, Event, is_tenant
from streams.decode.event import (
    EVENT_TYPE,
    ID_CHARS_MAX,
    TEXT_CHARS_MAX,
    build_event,
)
from streams.decode.fast import PAYLOAD_FIELDS
from streams.decode.rejection import InvalidEventError, Reason, Skipped

NESTING_MAX: Final = 64
#: Known fields of a payload; any other field goes to `context`.
_KNOWN_FIELDS: Final = PAYLOAD_FIELDS | {"actionId", "treatmentId"}


def _exact_number(number: str) -> Decimal | float:
    """Return the number with all its digits, as a float only where Decimal cannot hold it."""
    try:
        return Decimal(number)
    except ArithmeticError:  # an exponent of 19 or more digits
        value = float(number)
        if math.isfinite(value):
            return value
        raise ValueError("number out of range") from None


# Numbers in unknown fields keep their digits: read as Decimal, written as JSON numbers.
_read_any: Final = msgspec.json.Decoder(float_hook=_exact_number).decode
_write_any: Final = msgspec.json.Encoder(decimal_format="number").encode


def read_strict(value: bytes) -> Event | Skipped:
    """Return the event, or Skipped for another event type.

    Raises InvalidEventError with the first rule that is broken.
    """
    document = _parse(value)
    payload: object = document
    fallback: object = None
    if _is_envelope(document):
        kind = document.get("type")
        if not isinstance(kind, str):
            raise InvalidEventError(Reason.BAD_FIELD, _expected("type", "a string", kind))
        if kind != EVENT_TYPE:
            return Skipped(kind)
        payload, fallback = document.get("payload"), document.get("timestamp")
    if not isinstance(payload, dict):
        raise InvalidEventError(Reason.BAD_FIELD, _expected("payload", "an object", payload))
    return _read_payload(payload, fallback)


def _parse(value: bytes) -> dict[str, Any]:
    """Return the JSON object. Raises InvalidEventError with the reason MALFORMED."""
    too_deep = InvalidEventError(Reason.MALFORMED, f"JSON nested deeper than {NESTING_MAX}")
    try:
        document = _read_any(value)
    except RecursionError:
        raise too_deep from None
    except UnicodeDecodeError as error:
        raise InvalidEventError(Reason.MALFORMED, f"not UTF-8: {error.reason}") from None
    except ValueError as error:
        raise InvalidEventError(Reason.MALFORMED, f"not JSON: {error}") from None
    if not isinstance(document, dict):
        raise InvalidEventError(
            Reason.MALFORMED, f"must be a JSON object, is {_json_type(document)}"
        )
    if (
        value.count(b"[") + value.count(b"{") > NESTING_MAX
        and _nesting_depth(document) > NESTING_MAX
    ):
        raise too_deep
    return document


def _is_envelope(document: Mapping[str, Any]) -> bool:
    """Return whether the object is an envelope, by the rule at the top of this module."""
    has_type_and_payload = isinstance(document.get("type"), str) and isinstance(
        document.get("payload"), dict
    )
    is_payload = "customerId" in document and ("offerId" in document or "actionId" in document)
    return has_type_and_payload or (
        not is_payload and ("type" in document or "payload" in document)
    )


def _read_payload(payload: dict[str, Any], fallback_timestamp: object) -> Event:
    """Return the event of a payload; `fallback_timestamp` is the envelope's."""
    outcome = _text(payload, "outcomeTypeKey", 1, ID_CHARS_MAX)
    interaction_type = _text(payload, "interactionType", 1, ID_CHARS_MAX)
    outcome = interaction_type if outcome is None else outcome
    if outcome is None:
        raise InvalidEventError(Reason.BAD_FIELD, "outcomeTypeKey or interactionType is required")
    timestamp = payload.get("timestamp")
    if timestamp is None:
        timestamp = fallback_timestamp
    if not isinstance(timestamp, str):
        detail = _expected("timestamp", "an ISO 8601 string with an offset or Z", timestamp)
        raise InvalidEventError(Reason.BAD_TIMESTAMP, detail)
    return build_event(
        timestamp,
        _tenant(payload),
        _required("customerId", _text(payload, "customerId", 1, ID_CHARS_MAX)),
        _required("offerId", _aliased_text(payload, "offerId", "actionId")),
        _aliased_text(payload, "creativeId", "treatmentId"),
        _text(payload, "channelId", 1, ID_CHARS_MAX),
        outcome,
        _text(payload, "interactionId", 1, TEXT_CHARS_MAX),
        _text(payload, "direction", 0, TEXT_CHARS_MAX),
        _text(payload, "campaignId", 0, TEXT_CHARS_MAX),
        _text(payload, "recommendationId", 0, TEXT_CHARS_MAX),
        _number(payload, "conversionValue"),
        _context(payload),
    )


def _text(payload: Mapping[str, Any], name: str, chars_min: int, chars_max: int) -> str | None:
    """Return a string field of a length in characters within the bounds; None if absent or null."""
    text = payload.get(name)
    if text is None:
        return None
    allowed = f"a string of {chars_min} to {chars_max} characters"
    if not isinstance(text, str):
        raise InvalidEventError(Reason.BAD_FIELD, _expected(name, allowed, text))
    if not chars_min <= len(text) <= chars_max:
        raise InvalidEventError(Reason.BAD_FIELD, f"{name} must be {allowed}, has {len(text)}")
    if "\0" in text:
        raise InvalidEventError(Reason.BAD_FIELD, f"{name} must not contain the character U+0000")
    return text


def _required(name: str, text: str | None) -> str:
    if text is None:
        allowed = f"a string of 1 to {ID_CHARS_MAX} characters"
        raise InvalidEventError(Reason.BAD_FIELD, f"{name} is required, {allowed}")
    return text


def _aliased_text(payload: Mapping[str, Any], name: str, legacy: str) -> str | None:
    """Return the value of a field that also has a legacy name; both may be given if equal."""
    text = _text(payload, name, 1, ID_CHARS_MAX)
    other = _text(payload, legacy, 1, ID_CHARS_MAX)
    if text is not None and other is not None and text != other:
        raise InvalidEventError(
            Reason.BAD_FIELD, f"{name} and {legacy} are two names of one field, but differ"
        )
    return other if text is None else text


def _tenant(payload: Mapping[str, Any]) -> str:
    tenant = payload.get("tenantId")
    if tenant is None:
        return DEFAULT_TENANT
    if not isinstance(tenant, str) or not is_tenant(tenant):
        allowed = "1 to 64 of the characters A-Z a-z 0-9 _ . -"
        raise InvalidEventError(Reason.BAD_FIELD, f"tenantId must be {allowed}")
    return tenant


def _number(payload: Mapping[str, Any], name: str) -> float | None:
    """Return a finite number field; None if absent or null."""
    number = payload.get(name)
    if number is None:
        return None
    if isinstance(number, bool) or not isinstance(number, int | float | Decimal):
        raise InvalidEventError(Reason.BAD_FIELD, _expected(name, "a number", number))
    try:
        value = float(number)
    except OverflowError:
        value = math.inf
    if not math.isfinite(value):
        raise InvalidEventError(Reason.BAD_FIELD, f"{name} must be a number within ±1.8e308")
    return value


def _context(payload: Mapping[str, Any]) -> bytes | None:
    """Return the unknown fields as a JSON object; None if there are none."""
    unknown = {name: payload[name] for name in payload if name not in _KNOWN_FIELDS}
    return _write_any(unknown) if unknown else None


def _expected(name: str, allowed: str, got: object) -> str:
    return f"{name} must be {allowed}, is {'missing or null' if got is None else _json_type(got)}"


def _json_type(value: object) -> str:
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "an array"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, str):
        return "a string"
    return "null" if value is None else "a number"


def _nesting_depth(document: object) -> int:
    """Return how deep arrays and objects are nested, without recursion."""
    depth, level = 0, [document]
    while nested := [value for value in level if isinstance(value, dict | list)]:
        depth += 1
        level = [
            inner
            for value in nested
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
    return depth
