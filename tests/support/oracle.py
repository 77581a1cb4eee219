"""Oracle: a direct count in Python, written from the contract, to compare the stores with."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, timedelta
from typing import Any

from store.catalog_document import CatalogDocument
from store.records import Event, GroupCounts, Grouping, Page
from store.windows import Calendar, Window

_ID = {"action": "offer", "treatment": "creative", "channel": "channel", "customer": "customer"}


def groups_of(
    events: Iterable[Event], grouping: Grouping, window: Window, calendar: Calendar
) -> list[GroupCounts]:
    """Return all groups of the window, sorted as in a response. `events` must be distinct."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    offers: dict[str, set[str]] = defaultdict(set)
    for event in events:
        id_ = getattr(event, _ID[grouping])
        if id_ is not None and calendar.day_of(event.occurred_ms) in window:
            counts[id_][event.outcome] += 1
            offers[id_].add(event.offer)
    groups = [
        GroupCounts(id_, dict(n), len(offers[id_]) if grouping == "customer" else None)
        for id_, n in counts.items()
    ]
    return sorted(groups, key=lambda g: (-g.total, g.id))


def page_of(groups: Sequence[GroupCounts], limit: int, offset: int) -> Page:
    return Page(groups[offset : offset + limit], len(groups))


def body_of(
    groups: Sequence[GroupCounts],
    catalog: CatalogDocument,
    *,
    group_by: Grouping,
    days: int,
    limit: int,
    offset: int,
    sort: str = "total",
) -> bytes:
    """Return the body of a response, from all groups of its window and the imported catalog."""
    limit = min(limit, 500)
    groups = sorted(groups, key=lambda group: (-_sort_value(group, sort), group.id))
    body = {
        "groupBy": group_by,
        "days": days,
        "summary": [_row(group_by, g, catalog) for g in groups[offset : offset + limit]],
        "total": len(groups),
        "limit": limit,
        "offset": offset,
    }
    return _encoded(body)


def group_body_of(
    events: Sequence[Event],
    catalog: CatalogDocument,
    *,
    group_by: Grouping,
    id_: str,
    today: int,
    calendar: Calendar,
) -> bytes | None:
    """Return the body of one group in all periods; None if it never had an interaction."""
    if not any(getattr(event, _ID[group_by]) == id_ for event in events):
        return None
    periods = {}
    for period, days in (("daily", 1), ("weekly", 7), ("monthly", 31), ("alltime", None)):
        window = Window(None, None) if days is None else Window(today - days + 1, today)
        groups = {g.id: g for g in groups_of(events, group_by, window, calendar)}
        group = groups.get(id_, GroupCounts(id_, {}, 0 if group_by == "customer" else None))
        start = None if days is None else _date(today - days + 1)
        periods[period] = {"windowStart": start, "row": _row(group_by, group, catalog)}
    return _encoded({"groupBy": group_by, "id": id_, "periods": periods})


def trend_counts(
    events: Iterable[Event],
    group_by: Grouping,
    id_: str | None,
    window: Window,
    calendar: Calendar,
) -> dict[int, dict[str, int]]:
    """Return interactions by day and outcome of one group, or of all that have one (None)."""
    counted: dict[int, Counter[str]] = defaultdict(Counter)
    for event in events:
        group, day = getattr(event, _ID[group_by]), calendar.day_of(event.occurred_ms)
        if group is not None and id_ in (None, group) and day in window:
            counted[day][event.outcome] += 1
    return {day: dict(counts) for day, counts in counted.items()}


def trend_body_of(
    events: Sequence[Event],
    *,
    group_by: Grouping,
    id_: str | None,
    days: int,
    compare: bool,
    today: int,
    calendar: Calendar,
) -> bytes | None:
    """Return the body of counts per day; None if the group never had an interaction."""
    if id_ is not None and not any(getattr(event, _ID[group_by]) == id_ for event in events):
        return None
    counted = trend_counts(events, group_by, id_, Window(None, None), calendar)

    def points(first: int) -> list[dict[str, Any]]:
        found = []
        for day in range(first, first + days):
            of_day = counted.get(day, {})
            columns = {key: of_day.get(key, 0) for key in _SHOWN}
            found.append(
                {
                    "date": _date(day),
                    **columns,
                    "total": sum(of_day.values()),
                    "ctr": _rate(columns["click"], columns),
                    "cvr": _rate(columns["convert"], columns),
                }
            )
        return found

    body = {"groupBy": group_by, "id": id_, "days": days, "points": points(today - days + 1)}
    if compare:
        body["previous"] = points(today - 2 * days + 1)
    return _encoded(body)


_SHOWN = ("impression", "click", "dismiss", "accept", "convert")


def _encoded(body: Any) -> bytes:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def _date(day: int) -> str:
    return str(date(1970, 1, 1) + timedelta(day))


def _sort_value(group: GroupCounts, sort: str) -> float:
    if sort == "total":
        return sum(group.counts.values())
    columns = {key: group.counts.get(key, 0) for key in _SHOWN}
    if sort in ("ctr", "cvr"):
        return _rate(columns["click" if sort == "ctr" else "convert"], columns)
    return columns[sort]


def _row(group_by: Grouping, group: GroupCounts, catalog: CatalogDocument) -> dict[str, Any]:
    counts = group.counts
    total = sum(counts.values())
    columns = {key: counts.get(key, 0) for key in _SHOWN}
    ctr, cvr = _rate(columns["click"], columns), _rate(columns["convert"], columns)
    if group_by == "customer":
        return {
            "customerId": group.id,
            "total": total,
            **columns,
            "uniqueActions": group.unique_actions,
        }
    offers = {i.id: i for i in catalog.offers or ()}
    treatments = {i.id: i for i in catalog.treatments or ()}
    channels = {i.id: i for i in catalog.channels or ()}

    def of(item: Any, *names: str) -> list[Any]:
        return [getattr(item, name) if item is not None else None for name in names]

    if group_by == "action":
        names = ("name", "issue", "group", "status", "priority")
        positive, negative = _reactions(counts, catalog)
        return {
            "id": group.id,
            **dict(zip(names, of(offers.get(group.id), *names), strict=True)),
            **columns,
            "total": total,
            "ctr": ctr,
            "cvr": cvr,
            "positive": positive,
            "negative": negative,
            "neutral": max(0, columns["impression"] - positive - negative),
        }
    if group_by == "treatment":
        item = treatments.get(group.id)
        offer = offers.get(item.offer_id or "") if item else None
        channel = channels.get(item.channel_id or "") if item else None
        kinds = ("templateType", "abTestVariant", "weight", "status")
        fields = of(item, "template_type", "ab_test_variant", "weight", "status")
        return {
            "id": group.id,
            "name": of(item, "name")[0],
            "offerName": of(offer, "name")[0],
            "channelType": of(channel, "channel_type")[0],
            "channelName": of(channel, "name")[0],
            **dict(zip(kinds, fields, strict=True)),
            **columns,
            "total": total,
            "ctr": ctr,
            "cvr": cvr,
        }
    channel = channels.get(group.id)
    own = [t for t in treatments.values() if t.channel_id == group.id]
    return {
        "id": group.id,
        "name": of(channel, "name")[0],
        "channelType": of(channel, "channel_type")[0],
        "treatmentCount": len([t for t in own if t.status != "archived"]) if channel else None,
        **columns,
        "total": total,
        "ctr": ctr,
    }


def _rate(part: int, columns: dict[str, int]) -> float:
    whole = columns["impression"]
    return float(f"{100 * part / whole:.2f}") if whole else 0.0


_POSITIVE = {"click", "accept", "requested_info"}
_NEGATIVE = {"dismiss", "not_interested"}


def _reactions(counts: Mapping[str, int], catalog: CatalogDocument) -> tuple[int, int]:
    """Return the interactions of positive types, `convert` excluded, and of negative types."""
    own = {i.key: i.classification for i in catalog.outcome_types or ()}
    positive = _POSITIVE | {key for key, kind in own.items() if kind == "positive"}
    negative = _NEGATIVE | {key for key, kind in own.items() if kind == "negative"}
    return (
        sum(n for key, n in counts.items() if key in positive),
        sum(n for key, n in counts.items() if key in negative),
    )
