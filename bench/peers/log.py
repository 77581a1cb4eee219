"""The log of events that every system reads, and its oracle. Pure: the day is an argument.

90% of the events are of today, the others of the 40 days before; 1% are exact copies of one of the
last 3,000 events. Customers and actions follow Zipf's law. The oracle is counted while the events
are made, without the copies.
"""

from __future__ import annotations

import bisect
import datetime as dt
import itertools
import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from bench.peers.cells import Tile, distinct_actions, from_tiles

TENANT = "acme"
EPOCH = dt.date(1970, 1, 1)
DAY_S = 86_400
LATE_SHARE, LATE_DAYS = 0.1, 40
COPY_SHARE, COPY_DISTANCE = 0.01, 3_000
ACTIONS, TREATMENTS, CHANNELS = 200, 3, 6
BUSIEST_SAMPLED, OTHERS_SAMPLED = 50, 150
_OUTCOMES = ("impression", "click", "dismiss", "accept", "convert")
_OUTCOME_WEIGHTS = (80, 10, 5, 3, 2)


class Recipe(NamedTuple):
    """What a log is made of. Two logs of one recipe are equal."""

    events: int
    day: dt.date
    """Today, in UTC."""
    seconds: int = DAY_S
    """Events of today occurred in the first seconds of the day, up to this one."""
    seed: int = 7
    customers: int = 150_000

    @property
    def today(self) -> int:
        """Days since 1970-01-01."""
        return (self.day - EPOCH).days


class Event(NamedTuple):
    """What the oracle counts of an event."""

    customer: str
    action: int
    treatment: int
    channel: int
    outcome: str
    age_days: int


class Record(NamedTuple):
    """One record of the topic."""

    key: str
    value: str


class Log(NamedTuple):
    """The records in the order of production, and the oracle."""

    records: list[Record]
    distinct: int
    """Number of events without the copies."""
    sample: list[str]
    """Customers with cells of their own: the busiest, and others."""
    cells: dict[str, int]


def make(recipe: Recipe) -> Log:
    """Make the log and its oracle."""
    draw = random.Random(recipe.seed)
    records: list[Record] = []
    events: list[Event] = []
    fresh = _events(recipe, draw)
    while len(records) < recipe.events:
        if records and draw.random() < COPY_SHARE:
            records.append(records[-1 - draw.randrange(min(COPY_DISTANCE, len(records)))])
            continue
        event, record = next(fresh)
        events.append(event)
        records.append(record)
    sample = _sample(events, draw)
    tiles = itertools.chain.from_iterable(_tiles(event, recipe.today) for event in events)
    cells = from_tiles(tiles, recipe.today, set(sample))
    cells |= distinct_actions(_last_days(events, recipe.today, set(sample)), recipe.today)
    return Log(records, len(events), sample, cells)


def group_names(event: Event) -> dict[str, str]:
    """Return the id of the event's group in each grouping."""
    return {
        "action": f"off_{event.action:03}",
        "treatment": f"cr_{event.action:03}_{event.treatment}",
        "channel": f"ch_{event.channel}",
        "customer": event.customer,
    }


def _events(recipe: Recipe, draw: random.Random) -> Iterator[tuple[Event, Record]]:
    names = [f"C-{number:07}" for number in range(recipe.customers)]
    draw.shuffle(names)
    customers = list(itertools.accumulate((rank + 3) ** -0.8 for rank in range(len(names))))
    actions = list(itertools.accumulate((rank + 5) ** -0.7 for rank in range(ACTIONS)))
    while True:
        customer = names[_pick(customers, draw)]
        action = _pick(actions, draw)
        treatment = draw.randrange(TREATMENTS)
        channel = (action * TREATMENTS + treatment) % CHANNELS
        outcome = draw.choices(_OUTCOMES, _OUTCOME_WEIGHTS)[0]
        age_days = 1 + draw.randrange(LATE_DAYS) if draw.random() < LATE_SHARE else 0
        event = Event(customer, action, treatment, channel, outcome, age_days)
        second = draw.randrange(DAY_S if age_days else recipe.seconds)
        yield event, Record(customer, _json(event, _timestamp(recipe, age_days, second), draw))


def _pick(cumulated: Sequence[float], draw: random.Random) -> int:
    found = bisect.bisect_left(cumulated, draw.random() * cumulated[-1])
    return min(found, len(cumulated) - 1)


def _timestamp(recipe: Recipe, age_days: int, second: int) -> str:
    day = recipe.day - dt.timedelta(days=age_days)
    return f"{day}T{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}.000Z"


def _json(event: Event, timestamp: str, draw: random.Random) -> str:
    groups = group_names(event)
    fields = {
        "interactionId": f"{draw.getrandbits(128):032x}",
        "tenantId": TENANT,
        "customerId": event.customer,
        "offerId": groups["action"],
        "creativeId": groups["treatment"],
        "channelId": groups["channel"],
        "interactionType": event.outcome,
        "outcomeTypeKey": event.outcome,
        "direction": "outbound",
        "recommendationId": f"{draw.getrandbits(128):032x}",
        "timestamp": timestamp,
    }
    return json.dumps(fields, separators=(",", ":"))


def _tiles(event: Event, today: int) -> Iterator[Tile]:
    for grouping, group in group_names(event).items():
        yield Tile(grouping, group, today - event.age_days, event.outcome, 1)


def _last_days(events: Sequence[Event], today: int, sample: set[str]) -> Iterator[tuple[str, int]]:
    last: dict[tuple[str, int], int] = {}
    for event in events:
        if event.customer in sample:
            pair = (event.customer, event.action)
            last[pair] = max(last.get(pair, 0), today - event.age_days)
    return ((customer, day) for (customer, _), day in last.items())


def _sample(events: Sequence[Event], draw: random.Random) -> list[str]:
    by_size = [customer for customer, _ in Counter(e.customer for e in events).most_common()]
    busiest, others = by_size[:BUSIEST_SAMPLED], by_size[BUSIEST_SAMPLED:]
    return sorted([*busiest, *draw.sample(others, min(OTHERS_SAMPLED, len(others)))])
