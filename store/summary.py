"""Row arithmetic: from counts and catalog to the rows of a response. Pure.

Answers from counters and from history both use it, so they cannot differ in a digit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from store.records import SYSTEM_OUTCOME_TYPES, Catalog, GroupCounts, Grouping, OutcomeType

Row = dict[str, Any]


def percent(part: int, whole: int) -> float:
    """Return 100·part/whole, rounded to 2 decimals by Python's `round`; 0 if whole is 0."""
    return round(100 * part / whole, 2) if whole else 0.0


def sentiment(counts: Mapping[str, int], types: Mapping[str, OutcomeType]) -> tuple[int, int, int]:
    """Return (positive, negative, neutral) numbers of interactions.

    `convert` has its own column and is not counted as positive. Neutral is the number of
    impressions without a reaction.
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


def row(group_by: Grouping, group: GroupCounts, catalog: Catalog) -> Row:
    """Return one row of the response, its fields in the contract's order.

    Catalog attributes of an id that is not in the catalog are None.
    """
    return _ROWS[group_by](group, catalog)
