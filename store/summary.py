"""Row arithmetic: from the counts of groups and the catalog to the rows and the body of a response.

Pure, and used for counters and history alike, so that the two cannot differ in a digit.
`ROW_FIELDS` describes the rows for OpenAPI and the documentation; a test compares it with the rows
that are answered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

import msgspec
from msgspec import Struct

from store.records import (
    SYSTEM_OUTCOME_TYPES,
    Catalog,
    Channel,
    Creative,
    GroupCounts,
    Grouping,
    Offer,
    OutcomeType,
    Page,
)
from store.windows import date_of

Row = dict[str, Any]
_encoder: Final = msgspec.json.Encoder()
#: In place of an id that the catalog lacks: every attribute is None.
_NO_OFFER: Final = Offer("")
_NO_CREATIVE: Final = Creative("")
_NO_CHANNEL: Final = Channel("")


class RowField(NamedTuple):
    """Field of a row: its name, JSON type and meaning."""

    name: str
    type: Literal["string", "integer", "number"]
    description: str
    nullable: bool = False
    minimum: int | None = None


def _text(name: str, description: str) -> RowField:
    return RowField(name, "string", description, nullable=True)


def _count(name: str, description: str) -> RowField:
    return RowField(name, "integer", description, minimum=0)


def _rate(name: str, description: str) -> RowField:
    return RowField(name, "number", description, minimum=0)


_ID: Final = RowField("id", "string", "Id that the events carry.")
_TOTAL: Final = _count("total", "Interactions of all types.")
_COUNTS: Final = (
    _count("impression", "Impressions."),
    _count("click", "Clicks."),
    _count("dismiss", "Dismissals."),
    _count("accept", "Acceptances."),
    _count("convert", "Conversions."),
)
_CTR: Final = _rate("ctr", "100 · click / impression, to 2 decimals; 0 without impressions.")
_CVR: Final = _rate("cvr", "100 · convert / impression, to 2 decimals; 0 without impressions.")

#: The fields of a row per grouping, in the order of the response. A nullable field is an attribute
#: of the catalog: null if the catalog lacks the id or the attribute.
ROW_FIELDS: Final[Mapping[Grouping, tuple[RowField, ...]]] = {
    "action": (
        _ID,
        _text("name", "Name of the offer."),
        _text("issue", "Business issue of the offer."),
        _text("group", "Group of the offer."),
        _text("status", "Status of the offer."),
        RowField("priority", "integer", "Priority of the offer.", nullable=True),
        *_COUNTS,
        _TOTAL,
        _CTR,
        _CVR,
        _count("positive", "Interactions of positive types, `convert` excluded."),
        _count("negative", "Interactions of negative types."),
        _count("neutral", "max(0, impression - positive - negative): shown without reaction."),
    ),
    "treatment": (
        _ID,
        _text("name", "Name of the treatment."),
        _text("offerName", "Name of its offer."),
        _text("channelType", "Type of its channel."),
        _text("channelName", "Name of its channel."),
        _text("templateType", "Type of its template."),
        _text("abTestVariant", "Variant of the A/B test."),
        RowField("weight", "number", "Weight of the treatment.", nullable=True),
        _text("status", "Status of the treatment."),
        *_COUNTS,
        _TOTAL,
        _CTR,
        _CVR,
    ),
    "channel": (
        _ID,
        _text("name", "Name of the channel."),
        _text("channelType", "Type of the channel."),
        RowField(
            "treatmentCount",
            "integer",
            "Treatments of the channel in the catalog, archived ones excluded.",
            nullable=True,
        ),
        *_COUNTS,
        _TOTAL,
        _CTR,
    ),
    "customer": (
        RowField("customerId", "string", "Id of the customer."),
        _TOTAL,
        *_COUNTS,
        _count("uniqueActions", "Distinct offers that the customer interacted with."),
    ),
}


#: The fields of a point of a trend, in the order of the response.
POINT_FIELDS: Final = (
    RowField("date", "string", "Calendar day in the tenant's time zone."),
    *_COUNTS,
    _TOTAL,
    _CTR,
    _CVR,
)


def percent(part: int, whole: int) -> float:
    """Return 100·part/whole to 2 decimals, by Python's `round`; 0 when `whole` is 0."""
    return round(100 * part / whole, 2) if whole else 0.0


# The fields of a row as types, which take less time to make and to encode than dicts. Their names
# and order are those of ROW_FIELDS.


class _ActionRow(Struct, gc=False):
    id: str
    name: str | None
    issue: str | None
    group: str | None
    status: str | None
    priority: int | None
    impression: int
    click: int
    dismiss: int
    accept: int
    convert: int
    total: int
    ctr: float
    cvr: float
    positive: int
    negative: int
    neutral: int


class _TreatmentRow(Struct, gc=False, rename="camel"):
    id: str
    name: str | None
    offer_name: str | None
    channel_type: str | None
    channel_name: str | None
    template_type: str | None
    ab_test_variant: str | None
    weight: float | None
    status: str | None
    impression: int
    click: int
    dismiss: int
    accept: int
    convert: int
    total: int
    ctr: float
    cvr: float


class _ChannelRow(Struct, gc=False, rename="camel"):
    id: str
    name: str | None
    channel_type: str | None
    treatment_count: int | None
    impression: int
    click: int
    dismiss: int
    accept: int
    convert: int
    total: int
    ctr: float


class _CustomerRow(Struct, gc=False, rename="camel"):
    customer_id: str
    total: int
    impression: int
    click: int
    dismiss: int
    accept: int
    convert: int
    unique_actions: int | None


class _Summary(Struct, gc=False, rename="camel"):
    """The body of a response."""

    group_by: Grouping
    days: int
    summary: list[Struct]
    total: int
    limit: int
    offset: int


class Sentiment(NamedTuple):
    """Keys of the outcome types that count as positive and as negative.

    `convert` has its own column and is excluded from positive. Neutral is the number of impressions
    without a reaction.
    """

    positive: frozenset[str]
    negative: frozenset[str]

    @classmethod
    def of(cls, types: Mapping[str, OutcomeType]) -> Sentiment:
        """Return the keys, given the types of a catalog; it may lack those of the system."""
        known = {**SYSTEM_OUTCOME_TYPES, **types}
        known.pop("convert", None)
        return cls(
            frozenset(key for key, type_ in known.items() if type_.classification == "positive"),
            frozenset(key for key, type_ in known.items() if type_.classification == "negative"),
        )


def _actions(groups: Iterable[GroupCounts], catalog: Catalog) -> list[Struct]:
    positives, negatives = Sentiment.of(catalog.outcome_types)
    offers = catalog.offers
    rows: list[Struct] = []
    for id_, counts, _ in groups:
        offer, get = offers.get(id_, _NO_OFFER), counts.get
        impressions, clicks, converts = get("impression", 0), get("click", 0), get("convert", 0)
        positive = negative = 0
        for key, n in counts.items():
            if key in positives:
                positive += n
            elif key in negatives:
                negative += n
        rows.append(
            _ActionRow(
                id_,
                offer.name,
                offer.issue,
                offer.group,
                offer.status,
                offer.priority,
                impressions,
                clicks,
                get("dismiss", 0),
                get("accept", 0),
                converts,
                sum(counts.values()),
                percent(clicks, impressions),
                percent(converts, impressions),
                positive,
                negative,
                max(0, impressions - positive - negative),
            )
        )
    return rows


def _treatments(groups: Iterable[GroupCounts], catalog: Catalog) -> list[Struct]:
    rows: list[Struct] = []
    for id_, counts, _ in groups:
        creative, get = catalog.creatives.get(id_, _NO_CREATIVE), counts.get
        offer = catalog.offers.get(creative.offer_id or "", _NO_OFFER)
        channel = catalog.channels.get(creative.channel_id or "", _NO_CHANNEL)
        impressions, clicks, converts = get("impression", 0), get("click", 0), get("convert", 0)
        rows.append(
            _TreatmentRow(
                id_,
                creative.name,
                offer.name,
                channel.channel_type,
                channel.name,
                creative.template_type,
                creative.ab_test_variant,
                creative.weight,
                creative.status,
                impressions,
                clicks,
                get("dismiss", 0),
                get("accept", 0),
                converts,
                sum(counts.values()),
                percent(clicks, impressions),
                percent(converts, impressions),
            )
        )
    return rows


def _channels(groups: Iterable[GroupCounts], catalog: Catalog) -> list[Struct]:
    rows: list[Struct] = []
    for id_, counts, _ in groups:
        channel, get = catalog.channels.get(id_, _NO_CHANNEL), counts.get
        impressions, clicks = get("impression", 0), get("click", 0)
        rows.append(
            _ChannelRow(
                id_,
                channel.name,
                channel.channel_type,
                None if channel is _NO_CHANNEL else catalog.treatment_counts.get(id_, 0),
                impressions,
                clicks,
                get("dismiss", 0),
                get("accept", 0),
                get("convert", 0),
                sum(counts.values()),
                percent(clicks, impressions),
            )
        )
    return rows


def _customers(groups: Iterable[GroupCounts], _: Catalog) -> list[Struct]:
    rows: list[Struct] = []
    for id_, counts, unique_actions in groups:
        get = counts.get
        rows.append(
            _CustomerRow(
                id_,
                sum(counts.values()),
                get("impression", 0),
                get("click", 0),
                get("dismiss", 0),
                get("accept", 0),
                get("convert", 0),
                unique_actions,
            )
        )
    return rows


_ROWS: dict[Grouping, Callable[[Iterable[GroupCounts], Catalog], list[Struct]]] = {
    "action": _actions,
    "treatment": _treatments,
    "channel": _channels,
    "customer": _customers,
}


def rows(group_by: Grouping, groups: Sequence[GroupCounts], catalog: Catalog) -> list[Struct]:
    """Return the rows of a response; see `row`."""
    return _ROWS[group_by](groups, catalog)


def point(day: int, counts: Mapping[str, int]) -> Row:
    """Return a point of a trend, given the interactions of the day by outcome type."""
    impressions = counts.get("impression", 0)
    return {
        "date": date_of(day).isoformat(),
        **{field.name: counts.get(field.name, 0) for field in _COUNTS},
        "total": sum(counts.values()),
        "ctr": percent(counts.get("click", 0), impressions),
        "cvr": percent(counts.get("convert", 0), impressions),
    }


def row(group_by: Grouping, group: GroupCounts, catalog: Catalog) -> Row:
    """Return one row of the response, its fields in the order of ROW_FIELDS.

    Catalog attributes of an id that the catalog lacks are None.
    """
    (made,) = rows(group_by, [group], catalog)
    found: Row = msgspec.to_builtins(made)
    return found


def encode_summary(
    page: Page, catalog: Catalog, *, group_by: Grouping, days: int, limit: int, offset: int
) -> bytes:
    """Return the JSON body of a response, its fields in the order of the API contract."""
    shown = rows(group_by, page.groups, catalog)
    return _encoder.encode(_Summary(group_by, days, shown, page.total, limit, offset))
