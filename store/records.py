"""The records that packages hand to each other. No I/O, no clock."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal, NamedTuple, Protocol

import msgspec

from store.windows import Period, Window

Grouping = Literal["action", "treatment", "channel", "customer"]
GROUPINGS: Final[tuple[Grouping, ...]] = ("action", "treatment", "channel", "customer")
DEFAULT_TENANT: Final = "default"

#: A tenant id, without anchors: match the whole string.
TENANT_PATTERN: Final = r"[A-Za-z0-9_.-]{1,64}"
#: Whether a string is a tenant id. A bound method, not a function: called for every event.
is_tenant: Final[Callable[[str], object]] = re.compile(TENANT_PATTERN, re.ASCII).fullmatch


class Event(msgspec.Struct, frozen=True, gc=False):
    """One interaction, valid and complete, as `streams.decode.decoder` hands it on."""

    event_id: bytes
    """Identity: 16 bytes, of the tenant and the interaction id, or derived (spec: identity)."""
    tenant: str
    customer: str
    offer: str
    creative: str | None
    channel: str | None
    outcome: str
    """Key of a registered outcome type."""
    occurred_ms: int
    interaction_id: str | None
    direction: str | None
    campaign: str | None
    recommendation: str | None
    conversion_value: float | None
    context: bytes | None
    """Fields we do not know, as one JSON object; None when there are none."""


class SourcedEvent(NamedTuple):
    """An event and where it was read."""

    event: Event
    offset: int
    recorded_ms: int
    """When the record was appended, by Kafka."""


class OutcomeType(msgspec.Struct, frozen=True):
    key: str
    name: str
    classification: Literal["positive", "negative", "neutral"]
    category: str


class Offer(msgspec.Struct, frozen=True):
    id: str
    name: str | None = None
    issue: str | None = None
    group: str | None = None
    status: str | None = None
    priority: int | None = None


class Creative(msgspec.Struct, frozen=True):
    """A treatment. The offer and channel are ids; they need not be in the catalog."""

    id: str
    name: str | None = None
    offer_id: str | None = None
    channel_id: str | None = None
    template_type: str | None = None
    ab_test_variant: str | None = None
    weight: float | None = None
    status: str | None = None


class Channel(msgspec.Struct, frozen=True):
    id: str
    name: str | None = None
    channel_type: str | None = None
    status: str | None = None


class Catalog(msgspec.Struct, frozen=True):
    """All that is registered for one tenant; what a tenant never registered is the default."""

    tenant: str
    timezone: str = "UTC"
    version: int = 0
    """Grows with every change of this tenant's catalog."""
    offers: Mapping[str, Offer] = {}
    creatives: Mapping[str, Creative] = {}
    channels: Mapping[str, Channel] = {}
    outcome_types: Mapping[str, OutcomeType] = {}
    treatment_counts: Mapping[str, int] = {}
    """Channel id -> its treatments in the catalog, archived ones left out."""


class Question(NamedTuple):
    """What a reader asks, with the tenant's calendar applied."""

    tenant: str
    group_by: Grouping
    period: Period | None
    """The materialized period; None = a window that no period has (`window=exact`)."""
    window: Window
    today: int
    """The tenant's day at the time of asking."""
    timezone: str
    limit: int
    offset: int


class GroupCounts(NamedTuple):
    """The interactions of one group in the window, by outcome type key (all counts > 0)."""

    id: str
    counts: Mapping[str, int]
    unique_actions: int | None = None
    """Only where the grouping is `customer`."""

    @property
    def total(self) -> int:
        return sum(self.counts.values())


class Page(NamedTuple):
    """One page of groups, sorted by total descending, then id ascending (by code point)."""

    groups: Sequence[GroupCounts]
    total: int
    """Groups with at least one interaction in the window."""


class Incomplete(NamedTuple):
    """Answer of counters that cannot answer a question.

    `reason`: no_generation | not_complete | rolling | other_day | other_timezone | no_period |
    too_many_groups | capped (some of the grouping's groups are counted as one).
    """

    reason: str


class CounterReader(Protocol):
    """The counters, asked. Raises `StoreUnavailable` when they cannot be reached in time."""

    async def read(self, question: Question) -> CounterPage | Incomplete: ...


class CounterPage(NamedTuple):
    page: Page
    catalog_version: int
    """Version of the tenant's catalog, as an import announced it (0 = never)."""


class HistoryReader(Protocol):
    """The raw history, asked. Raises `StoreUnavailable`."""

    async def read(self, question: Question) -> Page: ...


class StoreUnavailable(Exception):
    """A store did not answer in time. The message names the store and the cause."""


#: Ten system outcome types, every tenant has them (key, name, classification, category).
SYSTEM_OUTCOME_TYPES: Final[Mapping[str, OutcomeType]] = {
    key: OutcomeType(key, name, classification, category)  # type: ignore[arg-type]
    for key, name, classification, category in (
        ("impression", "Impression", "neutral", "impression"),
        ("not_presented", "Not presented", "neutral", "impression"),
        ("expired", "Expired", "neutral", "impression"),
        ("click", "Click", "positive", "response"),
        ("accept", "Accept", "positive", "response"),
        ("convert", "Convert", "positive", "response"),
        ("requested_info", "Requested info", "positive", "response"),
        ("dismiss", "Dismiss", "negative", "response"),
        ("not_interested", "Not interested", "negative", "response"),
        ("deferred", "Deferred", "neutral", "response"),
    )
}
