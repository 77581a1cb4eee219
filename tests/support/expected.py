"""Expected responses, counted in plain Python from the events, for tenants in UTC.

Written from the contract; nothing here uses code of the program.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, timedelta
from typing import Any, NamedTuple

FIELDS = {
    "action": "offerId",
    "treatment": "creativeId",
    "channel": "channelId",
    "customer": "customerId",
}
CLASSES = {
    "click": "positive",
    "accept": "positive",
    "requested_info": "positive",
    "dismiss": "negative",
    "not_interested": "negative",
}


class Group(NamedTuple):
    id: str
    counts: Counter[str]
    offers: set[str]


def distinct(values: Iterable[bytes]) -> list[dict[str, Any]]:
    """Return the payloads of the records, each interaction once."""
    payloads = [json.loads(value)["payload"] for value in values]
    return list({payload["interactionId"]: payload for payload in payloads}.values())


def count(
    events: Iterable[Mapping[str, Any]], group_by: str, days: int, today: date
) -> list[Group]:
    """Return all groups of the window, in the order of the response."""
    covered = next((n for n in (1, 7, 31) if days <= n), None)
    window = {str(today - timedelta(back)) for back in range(covered)} if covered else None
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    offers: dict[str, set[str]] = defaultdict(set)
    for event in events:
        group = event.get(FIELDS[group_by])
        if group is not None and (window is None or event["timestamp"][:10] in window):
            counts[group][event["outcomeTypeKey"]] += 1
            offers[group].add(event["offerId"])
    groups = [Group(id_, counts[id_], offers[id_]) for id_ in counts]
    return sorted(groups, key=lambda group: (-group.counts.total(), group.id))


def body(
    groups: Sequence[Group],
    group_by: str,
    days: int,
    catalog: Mapping[str, Any],
    *,
    limit: int,
    offset: int,
) -> dict[str, Any]:
    """Return the body of the response, one page of `groups`."""
    names = {
        part: {entry["id"]: entry for entry in catalog.get(part, ())}
        for part in ("offers", "treatments", "channels")
    }
    classes = CLASSES | {
        own["key"]: own["classification"] for own in catalog.get("outcomeTypes", ())
    }
    make = {"action": _action, "treatment": _treatment, "channel": _channel, "customer": _customer}
    page = groups[offset : offset + limit]
    return {
        "groupBy": group_by,
        "days": days,
        "summary": [make[group_by](group, names, classes) for group in page],
        "total": len(groups),
        "limit": limit,
        "offset": offset,
    }


Names = Mapping[str, Mapping[str, Mapping[str, Any]]]
COLUMNS = ("impression", "click", "dismiss", "accept", "convert")


def _columns(group: Group) -> dict[str, int]:
    return {key: group.counts[key] for key in COLUMNS}


def _rate(group: Group, key: str) -> float:
    shown = group.counts["impression"]
    return round(100 * group.counts[key] / shown, 2) if shown else 0.0


def _action(group: Group, names: Names, classes: Mapping[str, str]) -> dict[str, Any]:
    offer = names["offers"].get(group.id, {})
    found: Counter[str] = Counter()
    for key, n in group.counts.items():
        if key != "convert":
            found[classes.get(key, "neutral")] += n
    return {
        "id": group.id,
        **{key: offer.get(key) for key in ("name", "issue", "group", "status", "priority")},
        **_columns(group),
        "total": group.counts.total(),
        "ctr": _rate(group, "click"),
        "cvr": _rate(group, "convert"),
        "positive": found["positive"],
        "negative": found["negative"],
        "neutral": max(0, group.counts["impression"] - found["positive"] - found["negative"]),
    }


def _treatment(group: Group, names: Names, _: Mapping[str, str]) -> dict[str, Any]:
    treatment = names["treatments"].get(group.id, {})
    channel = names["channels"].get(treatment.get("channelId", ""), {})
    return {
        "id": group.id,
        "name": treatment.get("name"),
        "offerName": names["offers"].get(treatment.get("offerId", ""), {}).get("name"),
        "channelType": channel.get("channelType"),
        "channelName": channel.get("name"),
        **{k: treatment.get(k) for k in ("templateType", "abTestVariant", "weight", "status")},
        **_columns(group),
        "total": group.counts.total(),
        "ctr": _rate(group, "click"),
        "cvr": _rate(group, "convert"),
    }


def _channel(group: Group, names: Names, _: Mapping[str, str]) -> dict[str, Any]:
    channel = names["channels"].get(group.id)
    used = [t for t in names["treatments"].values() if t.get("channelId") == group.id]
    return {
        "id": group.id,
        "name": channel and channel.get("name"),
        "channelType": channel and channel.get("channelType"),
        "treatmentCount": len([t for t in used if t.get("status") != "archived"])
        if channel
        else None,
        **_columns(group),
        "total": group.counts.total(),
        "ctr": _rate(group, "click"),
    }


def _customer(group: Group, _: Names, __: Mapping[str, str]) -> dict[str, Any]:
    return {
        "customerId": group.id,
        "total": group.counts.total(),
        **_columns(group),
        "uniqueActions": len(group.offers),
    }
