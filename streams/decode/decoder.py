"""Decoder: from the bytes of one Kafka record to an event, or to the reason of its rejection.

Two readers give the same result. `fast` fits nearly every event. Whatever does not fit it, events
with unknown fields included, is read again by `strict`, which is the definition: it knows every
rule and names the rule that was broken.
"""

from __future__ import annotations

from store.records import Event
from store.settings import Settings
from streams.decode.event import ID_CHARS_MAX
from streams.decode.fast import read_fast
from streams.decode.rejection import (
    InvalidEventError,
    Reason,
    Rejected,
    Skipped,
    reject,
    unprocessable,
)
from streams.decode.strict import read_strict


class Decoder:
    """Decoder of records. It holds only settings, so one instance serves all partitions."""

    def __init__(
        self, *, future_tolerance_s: int, event_bytes_max: int, id_chars_max: int = ID_CHARS_MAX
    ) -> None:
        self._future_tolerance_s = future_tolerance_s
        self._event_bytes_max = event_bytes_max
        self._id_chars_max = id_chars_max

    def decode(self, value: bytes | None, now_ms: int) -> Event | Skipped | Rejected:
        """Return the event of a record, Skipped for another event type, or Rejected; never raise.

        `now_ms` is compared with the event's timestamp. The outcome type of a returned event is not
        checked yet: the caller compares it with the tenant's registered types, see
        `rejection.unregistered_type`.
        """
        if value is None:
            return reject(Reason.MALFORMED, "the record has no value")
        if len(value) > self._event_bytes_max:
            return reject(
                Reason.TOO_LARGE,
                f"{len(value)} bytes; an event has at most {self._event_bytes_max}",
            )
        try:
            event = read_fast(value) or read_strict(value)
            if isinstance(event, Event):
                self._check_future(event.occurred_ms, now_ms)
                if self._id_chars_max < ID_CHARS_MAX:
                    self._check_ids(event)
        except InvalidEventError as error:
            return reject(error.reason, str(error))
        except Exception as error:  # an error of this program must not stop all other records
            return unprocessable(error)
        return event

    def _check_ids(self, event: Event) -> None:
        """Raise InvalidEventError if an id exceeds the configured, stricter limit."""
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
        """Raise InvalidEventError if the event is further ahead than the tolerance."""
        if occurred_ms > now_ms + self._future_tolerance_s * 1_000:
            ahead_s = (occurred_ms - now_ms) // 1_000
            raise InvalidEventError(
                Reason.FUTURE_TIMESTAMP,
                f"timestamp is {ahead_s} s ahead of the clock; at most "
                f"{self._future_tolerance_s} s are allowed",
            )


def make_decoder(settings: Settings) -> Decoder:
    """Return a decoder with the limits of `settings`."""
    return Decoder(
        future_tolerance_s=settings.future_tolerance_s,
        event_bytes_max=settings.event_bytes_max,
        id_chars_max=settings.id_chars_max,
    )
