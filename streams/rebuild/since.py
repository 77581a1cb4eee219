"""Plan of a rebuild since a day: what the source must have, and where the topic is read. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import date, datetime
from typing import NamedTuple

from store.counters import Generation, Missing, Source
from store.offsets import Gap, after
from store.windows import EPOCH, TILE_DAYS, Calendar, date_of
from streams.rebuild.plan import Plan

#: A calendar date, of each tenant's time zone, or an instant in ms.
Since = date | int


def parse_since(text: str) -> Since:
    """Return the date or the instant. Raises ValueError.

    An instant needs an offset from UTC: without one, it would be another one in each time zone.
    """
    try:
        return date.fromisoformat(text)
    except ValueError:
        moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text} has no offset from UTC; add one, such as {text}Z")
    return round(moment.timestamp() * 1e3)


def day_of(since: Since, calendar: Calendar) -> int:
    """Return the tenant's day that is `since`, or contains it."""
    return (since - EPOCH).days if isinstance(since, date) else calendar.day_of(since)


def why_no_day(day: int, window_day: int, today: int) -> str | None:
    """Return why the days before `day` cannot be taken over from counters of `window_day`."""
    oldest = max(window_day, today) - TILE_DAYS + 1
    if day > today:
        return f"--since {date_of(day)} is in the future: today is {date_of(today)}"
    if day < oldest:
        return (
            f"--since {date_of(day)} is too long ago: the counters have single days only from "
            f"{date_of(oldest)} on; rebuild without --since"
        )
    return None


def why_not_from(
    active: Generation | None, missing: Missing | None, topic_id: str, timezone: str
) -> str | None:
    """Return why nothing can be taken over from the active generation."""
    if active is None or missing is None:
        return "there are no counters to take the days before from; rebuild without --since"
    number = f"generation {active.number}"
    if active.timezone != timezone:
        return (
            f"{number} has days of time zone {active.timezone}, not of {timezone}; rebuild without "
            "--since"
        )
    lacks = ""
    if missing.unproven:
        lacks = "started empty and does not hold all of history"
    elif missing.evicted:
        lacks = "may lack keys that Redis has evicted"
    elif missing.damaged:
        lacks = f"is damaged ({missing.damaged})"
    elif missing.unsettled:
        lacks = "has not been compared with the shards before it"
    elif missing.outdated:
        lacks = "has identities of an older format"
    elif missing.gaps:
        lacks = f"lacks offsets from {missing.gaps[0].first_offset:,} on that history has"
    elif any(each.source[0] != topic_id for each in missing.behind):
        lacks = "has not counted all of the topic before, which is gone"
    return f"{number} {lacks}; rebuild without --since" if lacks else None


def why_not_read(
    topic_id: str, earliest: Mapping[int, int], counted: Mapping[int, int]
) -> str | None:
    """Return why the topic cannot have what the active generation has yet to count."""
    for partition, watermark in counted.items():
        held = earliest.get(partition, 0)
        if watermark < held:
            return (
                f"the active counters have not counted "
                f"{Gap(topic_id, partition, watermark, held)}, which the topic no longer "
                "holds; rebuild without --since"
            )
    return None


class TopicTimes(NamedTuple):
    """Where the topic has what, as far as the timestamps of its records tell."""

    topic_id: str
    earliest: Mapping[int, int]
    older: Collection[int]
    """Partitions whose earliest record is too old to be of the day."""
    identities_from: Mapping[int, int]
    """Partition -> first record that can be a copy of one that counts."""
    day_from: Mapping[int, int]
    """Partition -> first record that can be of the day or of a later one."""


def narrow(
    plan: Plan, times: TopicTimes, counted: Mapping[Source, int]
) -> tuple[Plan, Mapping[int, int]]:
    """Return the plan for the days from one on, and where the topic begins to count for them.

    `counted`: what the active generation has counted before its counts were taken over.
    """
    current = times.topic_id
    starts = {}
    for partition, held in times.earliest.items():
        late_from = counted.get((current, partition), 0)
        # Also where history has the events: it may have stored a copy of another partition first.
        read_from = min(times.identities_from[partition], late_from)
        if plan.whole_history:
            read_from = min(read_from, plan.topic_starts[partition])
        starts[partition] = max(held, read_from)
    lost = list(_lost(plan.lost, times))
    sources = {each.source for each in lost}
    watermarks = []
    for position in plan.watermarks:
        source = (position.topic_id, position.partition)
        if position.topic_id == current:
            position = position._replace(offset=starts[position.partition])
        elif source not in sources:
            position = position._replace(offset=max(position.offset, counted.get(source, 0)))
        watermarks.append(position)
    return (
        plan._replace(watermarks=watermarks, topic_starts=starts, lost=lost),
        plan.topic_starts if plan.whole_history else starts,
    )


def _lost(lost: Sequence[Gap], times: TopicTimes) -> Iterator[Gap]:
    """Yield what may hold events of the day or later.

    A partition whose earliest record is older shows that everything before it is older too, and so
    is everything of a topic that was there before this one.
    """
    for each in lost:
        if each.topic_id != times.topic_id:
            if not times.older:
                yield each
        elif each.partition not in times.older:
            yield each
        else:
            yield from after([each], times.day_from[each.partition])
