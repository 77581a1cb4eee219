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

from store.records import Event
from streams.decode.event import ID_CHARS_MAX
from streams.decode.fast import read_fast
from streams.decode.rejection import InvalidEventError, Reason, Rejected, Skipped, rejected
from streams.decode.strict import read_strict


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
            event = read_fast(value) or read_strict(value)
            if isinstance(event, Event):
                self._check_future(event.occurred_ms, now_ms)
                if self._id_chars_max < ID_CHARS_MAX:
                    self._check_ids(event)
        except InvalidEventError as broken:
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
                raise InvalidEventError(
                    Reason.BAD_FIELD,
                    f"{name} has {len(value)} characters; ID_CHARS_MAX allows {self._id_chars_max}",
                )

    def _check_future(self, occurred_ms: int, now_ms: int) -> None:
        if occurred_ms > now_ms + self._future_tolerance_s * 1_000:
            ahead_s = (occurred_ms - now_ms) // 1_000
            raise InvalidEventError(
                Reason.FUTURE_TIMESTAMP,
                f"timestamp is {ahead_s} s ahead of the clock; at most "
                f"{self._future_tolerance_s} s are allowed",
            )
