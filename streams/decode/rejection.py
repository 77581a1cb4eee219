"""Reasons."""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple

from store.records import Event

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


class InvalidEventError(Exception):
    """A rule that an event breaks."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
