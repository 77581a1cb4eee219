"""Row arithmetic: from the counts of a group and the catalog to a row of the response.

Pure, and used for counters and history alike, so that the two cannot differ in a digit.
`ROW_FIELDS` describes the rows for OpenAPI and the documentation; a test compares it with the rows
that are answered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, NamedTuple

from store.records import SYSTEM_OUTCOME_TYPES, Catalog, GroupCounts, Grouping, OutcomeType
from store.windows import date_of

Row = dict[str, Any]


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


def sentiment(counts: Mapping[str, int], types: Mapping[str, OutcomeType]) -> tuple[int, int, int]:
    """Return the positive, negative and neutral interactions of a group.

    `convert` has its own column and is excluded from positive. Neutral is the number of impressions
    without a reaction.
    """
    positive = negative = 0
    for key, n in counts.items():
        known = types.get(key) or SYSTEM_OUTCOME_TYPES.get(key)
        if known is None or key == "convert":
            continue
        if known.classification == "positive":
            positive += n
        elif known.classification == "negative":
            negative += n
    return positive, negative, max(0, counts.get("impression", 0) - positive - negative)


def _columns(counts: Mapping[str, int]) -> Row:
    return {
        key: counts.get(key, 0) for key in ("impression", "click", "dismiss", "accept", "convert")
    }


def _rates(counts: Mapping[str, int]) -> Row:
    impressions = counts.get("impression", 0)
    return {
        "ctr": percent(counts.get("click", 0), impressions),
        "cvr": percent(counts.get("convert", 0), impressions),
    }


def _action(group: GroupCounts, catalog: Catalog) -> Row:
    offer = catalog.offers.get(group.id)
    positive, negative, neutral = sentiment(group.counts, catalog.outcome_types)
    return {
        "id": group.id,
        "name": offer and offer.name,
        "issue": offer and offer.issue,
        "group": offer and offer.group,
        "status": offer and offer.status,
        "priority": offer and offer.priority,
        **_columns(group.counts),
        "total": group.total,
        **_rates(group.counts),
        "positive": positive,
        "negative": negative,
        "neutral": neutral,
    }


def _treatment(group: GroupCounts, catalog: Catalog) -> Row:
    creative = catalog.creatives.get(group.id)
    offer = catalog.offers.get(creative.offer_id or "") if creative else None
    channel = catalog.channels.get(creative.channel_id or "") if creative else None
    return {
        "id": group.id,
        "name": creative and creative.name,
        "offerName": offer and offer.name,
        "channelType": channel and channel.channel_type,
        "channelName": channel and channel.name,
        "templateType": creative and creative.template_type,
        "abTestVariant": creative and creative.ab_test_variant,
        "weight": creative and creative.weight,
        "status": creative and creative.status,
        **_columns(group.counts),
        "total": group.total,
        **_rates(group.counts),
    }


def _channel(group: GroupCounts, catalog: Catalog) -> Row:
    channel = catalog.channels.get(group.id)
    rates = _rates(group.counts)
    return {
        "id": group.id,
        "name": channel and channel.name,
        "channelType": channel and channel.channel_type,
        "treatmentCount": catalog.treatment_counts.get(group.id, 0) if channel else None,
        **_columns(group.counts),
        "total": group.total,
        "ctr": rates["ctr"],
    }


def _customer(group: GroupCounts, catalog: Catalog) -> Row:
    return {
        "customerId": group.id,
        "total": group.total,
        **_columns(group.counts),
        "uniqueActions": group.unique_actions,
    }


_ROWS: dict[Grouping, Callable[[GroupCounts, Catalog], Row]] = {
    "action": _action,
    "treatment": _treatment,
    "channel": _channel,
    "customer": _customer,
}


def point(day: int, counts: Mapping[str, int]) -> Row:
    """Return a point of a trend, given the interactions of the day by outcome type."""
    return {
        "date": date_of(day).isoformat(),
        **_columns(counts),
        "total": sum(counts.values()),
        **_rates(counts),
    }


def row(group_by: Grouping, group: GroupCounts, catalog: Catalog) -> Row:
    """Return one row of the response, its fields in the order of ROW_FIELDS.

    Catalog attributes of an id that the catalog lacks are None.
    """
    return _ROWS[group_by](group, catalog)
