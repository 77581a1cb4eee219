"""Records that packages exchange. No I/O, no clock."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal, NamedTuple, Protocol, TypeVar

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
    """A valid, complete interaction, as decoded by `streams.decode.decoder`."""

    event_id: bytes
    """Identity, 16 bytes: from tenant and interaction id, or derived (spec: identity)."""
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
    """Unknown fields as one JSON object; None if there are none."""


class SourcedEvent(NamedTuple):
    """An event with its offset and its record's time stamp."""

    event: Event
    offset: int
    recorded_ms: int
    """Time at which the record was appended to Kafka."""


class OutcomeType(msgspec.Struct, frozen=True):
    """A kind of interaction, and how it counts in sentiment columns."""

    key: str
    name: str
    classification: Literal["positive", "negative", "neutral"]
    category: str


class Offer(msgspec.Struct, frozen=True):
    """An action in the catalog."""

    id: str
    name: str | None = None
    issue: str | None = None
    group: str | None = None
    status: str | None = None
    priority: int | None = None


class Creative(msgspec.Struct, frozen=True):
    """A treatment. Its offer and channel ids need not be in the catalog."""

    id: str
    name: str | None = None
    offer_id: str | None = None
    channel_id: str | None = None
    template_type: str | None = None
    ab_test_variant: str | None = None
    weight: float | None = None
    status: str | None = None


class Channel(msgspec.Struct, frozen=True):
    """A channel in the catalog."""

    id: str
    name: str | None = None
    channel_type: str | None = None
    status: str | None = None


class Catalog(msgspec.Struct, frozen=True, weakref=True):
    """Everything registered for one tenant; defaults for what the tenant never registered."""

    tenant: str
    timezone: str = "UTC"
    version: int = 0
    """Increases with every change of this tenant's catalog."""
    registered: bool = False
    """Whether a catalog was ever imported for the tenant."""
    offers: Mapping[str, Offer] = {}
    creatives: Mapping[str, Creative] = {}
    channels: Mapping[str, Channel] = {}
    outcome_types: Mapping[str, OutcomeType] = {}
    treatment_counts: Mapping[str, int] = {}
    """Channel id -> number of its treatments in the catalog, without archived ones."""


class CountingRules(msgspec.Struct, frozen=True):
    """What counting needs of a tenant's catalog."""

    tenant: str
    timezone: str
    outcome_types: frozenset[str]
    """Keys of all types that count, those of the system among them."""
    stamp: str = ""
    """Another one after each change, also after a removal and a new import; empty = no catalog."""

    @property
    def registered(self) -> bool:
        """Whether a catalog was ever imported for the tenant."""
        return self.stamp != ""


class Question(NamedTuple):
    """A reader's question, with the tenant's calendar applied."""

    tenant: str
    group_by: Grouping
    period: Period | None
    """The materialized period; None = an exact window (`window=exact`)."""
    window: Window
    today: int
    """The tenant's current day."""
    timezone: str
    limit: int
    offset: int
    known_version: bytes | None = None
    """Version of the answer that the asker has, b"" if it has none; None = no version is wanted."""


class GroupCounts(NamedTuple):
    """Interactions of one group in the window by outcome type key; all counts > 0."""

    id: str
    counts: Mapping[str, int]
    unique_actions: int | None = None
    """Number of distinct offers; only set for the grouping `customer`."""

    @property
    def total(self) -> int:
        """Number of all interactions of the group."""
        return sum(self.counts.values())


class Page(NamedTuple):
    """A page of groups, sorted by total descending, then id ascending (by code point)."""

    groups: Sequence[GroupCounts]
    total: int
    """Number of groups with at least one interaction in the window."""


class GroupQuestion(NamedTuple):
    """Question about one group in all periods, with the tenant's calendar applied."""

    tenant: str
    group_by: Grouping
    id: str
    today: int
    """The tenant's current day."""
    timezone: str


#: The counts of one group in each period.
GroupPeriods = Mapping[Period, GroupCounts]


class TrendQuestion(NamedTuple):
    """Question about each day of a window, with the tenant's calendar applied."""

    tenant: str
    group_by: Grouping
    id: str | None
    """The group; None = the sum of all groups of the grouping."""
    window: Window
    """Has both bounds; the end is `today`."""
    today: int
    timezone: str


#: Day -> outcome type key -> interactions, of the days that have any; all counts > 0.
Trend = Mapping[int, Mapping[str, int]]


class Incomplete(NamedTuple):
    """Answer of counters that cannot answer a question.

    `reason`: no_generation | not_complete | rolling | other_day | other_timezone | no_period |
    too_many_groups | pending (the group is unknown, and may be in a pending delta) | capped (some
    of the grouping's groups are counted as one) | not_ranked (customers are not ranked in this
    period, see ADR 0022) | lost_record (a ranked group has no record) | evicting | evicted (see
    `store.redis.evictions`).
    """

    reason: str


Found_co = TypeVar("Found_co", covariant=True)


class Counted(Protocol[Found_co]):
    """What the counters answered to a question of any kind."""

    @property
    def found(self) -> Found_co:
        """The answer itself, as history gives it."""
        ...

    @property
    def catalog_version(self) -> int:
        """Version of the tenant's catalog that an import announced last (0 = none)."""
        ...

    @property
    def pending(self) -> int:
        """Events that are counted and not yet in the answer: see ADR 0019."""
        ...


class CounterReader(Protocol):
    """Reader of the counters. Raises `StoreUnavailable` if they do not answer in time."""

    async def read(self, question: Question) -> CounterPage | Unchanged | Incomplete:
        """Return one page from one snapshot, or the reason why there is none.

        `Unchanged` is returned only for a question with a known version.
        """
        ...

    async def read_group(self, question: GroupQuestion) -> CountedGroup | Incomplete:
        """Return one group in all periods, from one snapshot, or the reason why not."""
        ...

    async def read_trend(self, question: TrendQuestion) -> CountedTrend | Incomplete:
        """Return counts per day from one snapshot, or the reason why there are none."""
        ...


class CounterPage(NamedTuple):
    """A page that the counters answered."""

    page: Page
    catalog_version: int
    """Version of the tenant's catalog that an import announced last (0 = none)."""
    pending: int = 0
    """Events that are counted and not yet in this page: see ADR 0019."""
    is_ranked: bool = True
    """Whether the rank was there; else all customers were summed, which few are: see ADR 0022."""
    version: bytes = b""
    """Version of the answer, equal only if the page is: see ADR 0026. b"" = none, or not wanted."""

    @property
    def found(self) -> Page:
        """The page, as `Counted` names it."""
        return self.page


class Unchanged(NamedTuple):
    """The page of the question's known version is the answer."""

    pending: int = 0
    """See `CounterPage`."""
    is_ranked: bool = True
    """See `CounterPage`."""


class CountedGroup(NamedTuple):
    """A group that the counters answered; None = it never had an interaction."""

    found: GroupPeriods | None
    catalog_version: int
    pending: int = 0


class CountedTrend(NamedTuple):
    """Counts per day that the counters answered; None = the group never had an interaction."""

    found: Trend | None
    catalog_version: int
    pending: int = 0


class HistoryReader(Protocol):
    """Reader of the raw history. Raises `StoreUnavailable`."""

    async def read(self, question: Question) -> Page:
        """Return one page from one snapshot."""
        ...

    async def read_group(self, question: GroupQuestion) -> GroupPeriods | None:
        """Return one group in all periods, from one snapshot; None if it is unknown."""
        ...

    async def read_trend(self, question: TrendQuestion) -> Trend | None:
        """Return counts per day, from one snapshot; None if the group is unknown."""
        ...


class StoreUnavailable(Exception):
    """A store did not answer in time. The message names the store and the cause."""


class AccessRefused(StoreUnavailable):
    """A store, or this program, refused the connection: TLS or authentication failed.

    It stays so until somebody changes a setting or the store. The message names what to check.
    """


#: The ten system outcome types, which every tenant has (key, name, classification, category).
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
