"""From the bytes of one Kafka record to an event, or to why it is none. No I/O, no clock.

Two readers give the same answer. The quick one is a strict msgspec Struct that fits nearly every
event; whatever it does not fit, unknown fields included, is read again by the thorough one, which
is the definition: it knows every rule and says which one was broken.

Which shape a JSON object has: it is a bare payload when it has a `customerId` and an offer of its
own, unless it has both a string under `type` and an object under `payload`; else it is an envelope
when it has `type` or `payload`; else a bare payload. So a bare payload may have a field `type` or
`payload` that we do not know, and an envelope of another type is skipped whatever it holds.

Decided here, where the contract is silent:
- The two names of one thing (`offerId` and `actionId`) may both be given when they agree; an event
  that contradicts itself is rejected.
- Of an envelope only `type`, `timestamp` and `payload` are read; its other fields are dropped.
- Groups' ids (creative, channel) obey the rule of `offerId`: an empty one is rejected, not counted
  as absent.
- JSON nested deeper than 64 is malformed, so that the answer never hangs on the caller's stack.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from enum import StrEnum
from hashlib import blake2b
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec
from msgspec import Meta

from store.records import DEFAULT_TENANT, Event, is_tenant
from store.windows import INSTANT_MAX_MS, INSTANT_MIN_MS
from streams.decode.timestamps import parse_ms

EVENT_TYPE: Final = "interaction.recorded.v1"

ID_CHARS_MAX: Final = 128
TEXT_CHARS_MAX: Final = 256
NESTING_MAX: Final = 64
DETAIL_CHARS_MAX: Final = 300


class Reason(StrEnum):
    """Why an event is a dead letter. A closed set: it labels a metric."""

    MALFORMED = "malformed"
    TOO_LARGE = "too_large"
    BAD_FIELD = "bad_field"
    BAD_TIMESTAMP = "bad_timestamp"
    FUTURE_TIMESTAMP = "future_timestamp"
    UNREGISTERED_TYPE = "unregistered_type"
    TOO_MANY_TENANTS = "too_many_tenants"


class Skipped(NamedTuple):
    """An event of another type: none of ours."""

    type: str


class Rejected(NamedTuple):
    """A dead letter. `detail` names the field and what is allowed: at most 300 printable
    characters."""

    reason: Reason
    detail: str


def rejected(reason: Reason, detail: str) -> Rejected:
    """A `Rejected` whose detail is made safe to show: bounded, printable."""
    clean = "".join(c if c.isprintable() else "?" for c in detail[: DETAIL_CHARS_MAX + 1])
    if len(clean) > DETAIL_CHARS_MAX:
        clean = clean[: DETAIL_CHARS_MAX - 1] + "…"
    return Rejected(reason, clean)


def unregistered_type(event: Event) -> Rejected:
    """For a valid event whose outcome type its tenant has not registered."""
    return rejected(
        Reason.UNREGISTERED_TYPE,
        f"outcomeTypeKey {event.outcome!r} is not a registered outcome type of tenant "
        f"{event.tenant}",
    )


def too_many_tenants(event: Event, tenants_max: int) -> Rejected:
    """For a valid event of a tenant that there is no room for."""
    return rejected(
        Reason.TOO_MANY_TENANTS,
        f"tenant {event.tenant} is new, and there are {tenants_max} tenants already; TENANTS_MAX "
        "says how many there may be",
    )


def identity(
    *,
    tenant: str,
    interaction_id: str | None,
    customer: str,
    offer: str,
    creative: str | None,
    channel: str | None,
    outcome: str,
    recommendation: str | None,
    occurred_ms: int,
) -> bytes:
    """The 16 bytes that two events share exactly when they are the same interaction: of tenant and
    interaction id where there is one, else of all that tells interactions apart."""
    # Length before text, so that no two lists of fields read the same; "-" is null.
    if interaction_id is not None:
        text = f"i{len(tenant)}:{tenant}{len(interaction_id)}:{interaction_id}"
    else:
        text = (
            f"d{len(tenant)}:{tenant}{len(customer)}:{customer}{len(offer)}:{offer}"
            f"{'-' if creative is None else f'{len(creative)}:{creative}'}"
            f"{'-' if channel is None else f'{len(channel)}:{channel}'}"
            f"{len(outcome)}:{outcome}"
            f"{'-' if recommendation is None else f'{len(recommendation)}:{recommendation}'}"
            f"{occurred_ms}"
        )
    return blake2b(text.encode(), digest_size=16).digest()


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


def _exactly(number: str) -> Decimal | float:
    try:
        return Decimal(number)
    except ArithmeticError:  # an exponent of 19 digits and more
        value = float(number)
        if math.isfinite(value):
            return value
        raise ValueError("number out of range") from None


#: Fields of a payload that have a meaning; any other goes to `context`.
_KNOWN: Final = frozenset(_Payload.__struct_fields__) | {"actionId", "treatmentId"}

_read_envelope: Final = msgspec.json.Decoder(_Envelope).decode
_read_payload: Final = msgspec.json.Decoder(_Payload).decode
# Numbers of unknown fields keep their digits: as Decimal in, as a number out.
_read_any: Final = msgspec.json.Decoder(float_hook=_exactly).decode
_write_any: Final = msgspec.json.Encoder(decimal_format="number").encode


class _Broken(Exception):
    """A rule that an event breaks."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class Decoder:
    """Turns records into events. Holds settings only, so one serves all partitions."""

    def __init__(
        self, *, future_tolerance_s: int, event_bytes_max: int, id_chars_max: int = ID_CHARS_MAX
    ) -> None:
        self._future_tolerance_s = future_tolerance_s
        self._event_bytes_max = event_bytes_max
        self._id_chars_max = id_chars_max

    def decode(self, value: bytes | None, now_ms: int) -> Event | Skipped | Rejected:
        """Never raises. The event is valid but for its outcome type, which the caller holds
        against those that the tenant has registered (`unregistered_type`)."""
        if value is None:
            return rejected(Reason.MALFORMED, "the record has no value")
        if len(value) > self._event_bytes_max:
            return rejected(
                Reason.TOO_LARGE,
                f"{len(value)} bytes; an event has at most {self._event_bytes_max}",
            )
        try:
            event = _quickly(value) or _thoroughly(value)
            if isinstance(event, Event):
                self._check_future(event.occurred_ms, now_ms)
                if self._id_chars_max < ID_CHARS_MAX:
                    self._check_ids(event)
        except _Broken as broken:
            return rejected(broken.reason, str(broken))
        return event

    def _check_ids(self, event: Event) -> None:
        """By a limit that is stricter than the one every event is held to."""
        for name, value in (
            ("customerId", event.customer),
            ("offerId", event.offer),
            ("creativeId", event.creative),
            ("channelId", event.channel),
            ("outcomeTypeKey", event.outcome),
        ):
            if value is not None and len(value) > self._id_chars_max:
                raise _Broken(
                    Reason.BAD_FIELD,
                    f"{name} has {len(value)} characters; ID_CHARS_MAX allows {self._id_chars_max}",
                )

    def _check_future(self, occurred_ms: int, now_ms: int) -> None:
        if occurred_ms > now_ms + self._future_tolerance_s * 1_000:
            ahead_s = (occurred_ms - now_ms) // 1_000
            raise _Broken(
                Reason.FUTURE_TIMESTAMP,
                f"timestamp is {ahead_s} s ahead of the clock; at most "
                f"{self._future_tolerance_s} s are allowed",
            )


# --- the quick reader -----------------------------------------------------------------------------


def _quickly(value: bytes) -> Event | None:
    """The event, if it is a flawless one without unknown fields or escapes; else None."""
    if b"\\u" in value:  # could be a NUL, which only the thorough reader looks for
        return None
    fallback: str | None = None
    try:
        envelope = _read_envelope(value)
        payload, fallback = envelope.payload, envelope.timestamp
    except (ValueError, RecursionError):
        try:
            payload = _read_payload(value)
        except (ValueError, RecursionError):
            return None
    outcome = payload.outcomeTypeKey or payload.interactionType
    timestamp = payload.timestamp if payload.timestamp is not None else fallback
    if outcome is None or timestamp is None or not is_tenant(payload.tenantId):
        return None
    return _event(
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


# --- the thorough reader --------------------------------------------------------------------------


def _thoroughly(value: bytes) -> Event | Skipped:
    """The event, by every rule. Raises _Broken."""
    document = _parse(value)
    payload: object = document
    fallback: object = None
    if _is_envelope(document):
        kind = document.get("type")
        if not isinstance(kind, str):
            raise _Broken(Reason.BAD_FIELD, _expected("type", "a string", kind))
        if kind != EVENT_TYPE:
            return Skipped(kind)
        payload, fallback = document.get("payload"), document.get("timestamp")
    if not isinstance(payload, dict):
        raise _Broken(Reason.BAD_FIELD, _expected("payload", "an object", payload))
    return _event_of(payload, fallback)


def _parse(value: bytes) -> dict[str, Any]:
    too_deep = _Broken(Reason.MALFORMED, f"JSON nested deeper than {NESTING_MAX}")
    try:
        document = _read_any(value)
    except RecursionError:
        raise too_deep from None
    except UnicodeDecodeError as error:
        raise _Broken(Reason.MALFORMED, f"not UTF-8: {error.reason}") from None
    except ValueError as error:
        raise _Broken(Reason.MALFORMED, f"not JSON: {error}") from None
    if not isinstance(document, dict):
        raise _Broken(Reason.MALFORMED, f"must be a JSON object, is {_kind(document)}")
    if value.count(b"[") + value.count(b"{") > NESTING_MAX and _nesting(document) > NESTING_MAX:
        raise too_deep
    return document


def _is_envelope(document: Mapping[str, Any]) -> bool:
    has_type_and_payload = isinstance(document.get("type"), str) and isinstance(
        document.get("payload"), dict
    )
    is_payload = "customerId" in document and ("offerId" in document or "actionId" in document)
    return has_type_and_payload or (
        not is_payload and ("type" in document or "payload" in document)
    )


def _event_of(payload: dict[str, Any], fallback_timestamp: object) -> Event:
    outcome = _text(payload, "outcomeTypeKey", 1, ID_CHARS_MAX)
    interaction_type = _text(payload, "interactionType", 1, ID_CHARS_MAX)
    outcome = interaction_type if outcome is None else outcome
    if outcome is None:
        raise _Broken(Reason.BAD_FIELD, "outcomeTypeKey or interactionType is required")
    timestamp = payload.get("timestamp")
    if timestamp is None:
        timestamp = fallback_timestamp
    if not isinstance(timestamp, str):
        detail = _expected("timestamp", "an ISO 8601 string with an offset or Z", timestamp)
        raise _Broken(Reason.BAD_TIMESTAMP, detail)
    return _event(
        timestamp,
        _tenant(payload),
        _required("customerId", _text(payload, "customerId", 1, ID_CHARS_MAX)),
        _required("offerId", _named_twice(payload, "offerId", "actionId")),
        _named_twice(payload, "creativeId", "treatmentId"),
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
    text = payload.get(name)
    if text is None:
        return None
    allowed = f"a string of {chars_min} to {chars_max} characters"
    if not isinstance(text, str):
        raise _Broken(Reason.BAD_FIELD, _expected(name, allowed, text))
    if not chars_min <= len(text) <= chars_max:
        raise _Broken(Reason.BAD_FIELD, f"{name} must be {allowed}, has {len(text)}")
    if "\0" in text:
        raise _Broken(Reason.BAD_FIELD, f"{name} must not contain the character U+0000")
    return text


def _required(name: str, text: str | None) -> str:
    if text is None:
        allowed = f"a string of 1 to {ID_CHARS_MAX} characters"
        raise _Broken(Reason.BAD_FIELD, f"{name} is required, {allowed}")
    return text


def _named_twice(payload: Mapping[str, Any], name: str, legacy: str) -> str | None:
    text = _text(payload, name, 1, ID_CHARS_MAX)
    other = _text(payload, legacy, 1, ID_CHARS_MAX)
    if text is not None and other is not None and text != other:
        raise _Broken(
            Reason.BAD_FIELD, f"{name} and {legacy} are two names of one field, but differ"
        )
    return other if text is None else text


def _tenant(payload: Mapping[str, Any]) -> str:
    tenant = payload.get("tenantId")
    if tenant is None:
        return DEFAULT_TENANT
    if not isinstance(tenant, str) or not is_tenant(tenant):
        allowed = "1 to 64 of the characters A-Z a-z 0-9 _ . -"
        raise _Broken(Reason.BAD_FIELD, f"tenantId must be {allowed}")
    return tenant


def _number(payload: Mapping[str, Any], name: str) -> float | None:
    number = payload.get(name)
    if number is None:
        return None
    if isinstance(number, bool) or not isinstance(number, int | float | Decimal):
        raise _Broken(Reason.BAD_FIELD, _expected(name, "a number", number))
    try:
        value = float(number)
    except OverflowError:
        value = math.inf
    if not math.isfinite(value):
        raise _Broken(Reason.BAD_FIELD, f"{name} must be a number within ±1.8e308")
    return value


def _context(payload: Mapping[str, Any]) -> bytes | None:
    unknown = {name: payload[name] for name in payload if name not in _KNOWN}
    return _write_any(unknown) if unknown else None


def _expected(name: str, allowed: str, got: object) -> str:
    return f"{name} must be {allowed}, is {'missing or null' if got is None else _kind(got)}"


def _kind(value: object) -> str:
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "an array"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, str):
        return "a string"
    return "null" if value is None else "a number"


def _nesting(document: object) -> int:
    depth, level = 0, [document]
    while nested := [value for value in level if isinstance(value, dict | list)]:
        depth += 1
        level = [
            inner
            for value in nested
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
    return depth


# --- what both readers share ----------------------------------------------------------------------


def _event(
    timestamp: str,
    tenant: str,
    customer: str,
    offer: str,
    creative: str | None,
    channel: str | None,
    outcome: str,
    interaction_id: str | None,
    direction: str | None,
    campaign: str | None,
    recommendation: str | None,
    conversion_value: float | None,
    context: bytes | None,
) -> Event:
    try:
        occurred_ms = parse_ms(timestamp)
    except ValueError as error:
        raise _Broken(Reason.BAD_TIMESTAMP, f"timestamp {timestamp[:64]!r} {error}") from None
    if not INSTANT_MIN_MS <= occurred_ms <= INSTANT_MAX_MS:
        raise _Broken(
            Reason.BAD_TIMESTAMP, f"timestamp {timestamp!r} is outside the years 1970 to 9998"
        )
    return Event(
        event_id=identity(
            tenant=tenant,
            interaction_id=interaction_id,
            customer=customer,
            offer=offer,
            creative=creative,
            channel=channel,
            outcome=outcome,
            recommendation=recommendation,
            occurred_ms=occurred_ms,
        ),
        tenant=tenant,
        customer=customer,
        offer=offer,
        creative=creative,
        channel=channel,
        outcome=outcome,
        occurred_ms=occurred_ms,
        interaction_id=interaction_id,
        direction=direction,
        campaign=campaign,
        recommendation=recommendation,
        conversion_value=conversion_value,
        context=context,
    )
