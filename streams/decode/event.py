"""Construction of an Event from checked fields: its time and its identity."""

from __future__ import annotations

from hashlib import blake2b, sha256
from typing import Final

from store.records import Event
from store.windows import INSTANT_MAX_MS, INSTANT_MIN_MS
from streams.decode.rejection import InvalidEventError, Reason
from streams.decode.timestamps import parse_ms

EVENT_TYPE: Final = "interaction.recorded.v1"

ID_CHARS_MAX: Final = 128
TEXT_CHARS_MAX: Final = 256

# PostgreSQL computes the digest of an interaction id too: see migrations/0008_identities.sql.
_EMPTY_ID: Final = sha256()
_EMPTY_DERIVED: Final = blake2b(digest_size=16)


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
    """Return the 16-byte identity, equal for two events exactly if they are one interaction.

    It is a digest of the tenant, the customer and the interaction id where there is one, else of
    all fields that distinguish interactions. It is stored permanently, so it must never change.
    """
    # Each field is prefixed with its length, so that different fields never give equal text;
    # "-" is null. A copy of an empty digest is a third to a half cheaper than a new one.
    if interaction_id is not None:
        of_id = _EMPTY_ID.copy()
        of_id.update(
            f"{len(tenant)}:{tenant}{len(customer)}:{customer}"
            f"{len(interaction_id)}:{interaction_id}".encode()
        )
        return of_id.digest()[:16]
    derived = _EMPTY_DERIVED.copy()
    derived.update(
        (
            f"d{len(tenant)}:{tenant}{len(customer)}:{customer}{len(offer)}:{offer}"
            f"{'-' if creative is None else f'{len(creative)}:{creative}'}"
            f"{'-' if channel is None else f'{len(channel)}:{channel}'}"
            f"{len(outcome)}:{outcome}"
            f"{'-' if recommendation is None else f'{len(recommendation)}:{recommendation}'}"
            f"{occurred_ms}"
        ).encode()
    )
    return derived.digest()


def build_event(
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
    """Return the event of fields that are valid, with its timestamp parsed and checked.

    The arguments are positional because this runs once per event. Raises InvalidEventError with the
    reason BAD_TIMESTAMP.
    """
    try:
        occurred_ms = parse_ms(timestamp)
    except ValueError as error:
        raise InvalidEventError(
            Reason.BAD_TIMESTAMP, f"timestamp {timestamp[:64]!r} {error}"
        ) from None
    if not INSTANT_MIN_MS <= occurred_ms <= INSTANT_MAX_MS:
        raise InvalidEventError(
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
