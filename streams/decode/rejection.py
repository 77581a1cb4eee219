"""Reasons why a record is a dead letter, and the details that explain one."""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple

from store.records import Event

DETAIL_CHARS_MAX: Final = 300


class Reason(StrEnum):
    """Reason why a record is a dead letter; a closed set, since it labels a metric."""

    MALFORMED = "malformed"
    TOO_LARGE = "too_large"
    BAD_FIELD = "bad_field"
    BAD_TIMESTAMP = "bad_timestamp"
    FUTURE_TIMESTAMP = "future_timestamp"
    UNREGISTERED_TYPE = "unregistered_type"
    UNREGISTERED_TENANT = "unregistered_tenant"
    TOO_MANY_TENANTS = "too_many_tenants"
    UNSENDABLE = "unsendable"
    UNPROCESSABLE = "unprocessable"
    CORRUPT_BATCH = "corrupt_batch"


class Skipped(NamedTuple):
    """Result for an event of another type, which is not counted."""

    type: str


class Rejected(NamedTuple):
    """Result for a record that becomes a dead letter.

    `detail` names the field and the allowed values, in at most 300 printable characters.
    """

    reason: Reason
    detail: str
    error: Exception | None = None
    """Of UNPROCESSABLE: the error of the program."""


def reject(reason: Reason, detail: str) -> Rejected:
    """Return a Rejected whose detail is safe to show: printable, at most 300 characters."""
    return Rejected(reason, printable(detail))


def printable(text: str) -> str:
    """Return the text without characters that are not printable, at most 300 characters of it."""
    clean = "".join(c if c.isprintable() else "?" for c in text[: DETAIL_CHARS_MAX + 1])
    if len(clean) > DETAIL_CHARS_MAX:
        clean = clean[: DETAIL_CHARS_MAX - 1] + "…"
    return clean


def unregistered_type(event: Event) -> Rejected:
    """Return the rejection of a valid event whose outcome type is not registered."""
    return reject(
        Reason.UNREGISTERED_TYPE,
        f"outcomeTypeKey {event.outcome!r} is not a registered outcome type of tenant "
        f"{event.tenant}",
    )


def unregistered_tenant(event: Event) -> Rejected:
    """Return the rejection of a valid event whose tenant never had a catalog."""
    return reject(
        Reason.UNREGISTERED_TENANT,
        f"tenant {event.tenant} has no catalog, and TENANTS_REGISTERED_ONLY is set; register it "
        "with `interaction-summary catalog import`, then redrive",
    )


def too_many_tenants(event: Event, tenants_max: int) -> Rejected:
    """Return the rejection of a valid event of a new tenant beyond `tenants_max`."""
    return reject(
        Reason.TOO_MANY_TENANTS,
        f"tenant {event.tenant} is new, and {tenants_max} tenants exist already; the limit is "
        "TENANTS_MAX",
    )


def unprocessable(error: Exception) -> Rejected:
    """Return the rejection of a record on which the program itself fails."""
    return reject(Reason.UNPROCESSABLE, f"{type(error).__name__}: {error}")._replace(error=error)


class InvalidEventError(Exception):
    """An event breaks a rule; the text names the field and the allowed values."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
