"""Synthetic traffic: Zipf-distributed customers, offers by popularity, and chains of outcomes.

Pure: the same seed and times give the same records.
"""

from __future__ import annotations

import heapq
import itertools
from bisect import bisect
from collections import deque
from random import Random
from typing import Any, Final, NamedTuple

import msgspec

from cli.traffic.demo_catalog import DIRECTIONS, OFFER_IDS, TREATMENTS
from store.records import DEFAULT_TENANT
from store.windows import DAY_MS, INSTANT_MIN_MS
from streams.decode.event import EVENT_TYPE
from streams.decode.timestamps import format_ms

LATE_DAYS_MAX: Final = 40
#: A reaction follows within this many records; a duplicate repeats one of the last this many.
REACTION_RECORDS_MAX: Final = 200
DUPLICATE_RECORDS_MAX: Final = 1_000

#: Outcome -> possible next outcomes with their probabilities; otherwise the chain ends. The custom
#: outcome type, if there is one, follows a part of the clicks.
_NEXT: Final[dict[str, tuple[tuple[str, float], ...]]] = {
    "impression": (
        ("click", 0.16),
        ("dismiss", 0.07),
        ("not_interested", 0.02),
        ("deferred", 0.01),
    ),
    "click": (("accept", 0.22), ("requested_info", 0.06)),
    "requested_info": (("accept", 0.3),),
    "accept": (("convert", 0.55),),
}
_OWN_TYPE_SHARE: Final = 0.04
_UNSEEN: Final = (("not_presented", 0.03), ("expired", 0.01))

_encode = msgspec.json.Encoder().encode


class Record(NamedTuple):
    key: bytes
    """The customer's id."""
    value: bytes


class _Pending(NamedTuple):
    due: int
    """Number of the record that this reaction becomes."""
    number: int
    """Number of the record that caused it; orders reactions that are due together."""
    payload: dict[str, Any]


class Traffic:
    """Unbounded stream of records in bounded memory."""

    def __init__(
        self,
        *,
        seed: int,
        customers: int,
        tenants: tuple[str, ...] = (DEFAULT_TENANT,),
        duplicates: float = 0.0,
        late: float = 0.0,
        malformed: float = 0.0,
        own_type: str | None = None,
    ) -> None:
        """Create a stream.

        `duplicates`, `late` and `malformed` are fractions (0 to 1) of records: those that repeat
        an earlier record byte for byte, those whose event time is up to 40 days earlier, and those
        that are not valid events. `own_type` is a custom outcome type that some events have.
        """
        self._random = Random(seed)
        self._seed = seed
        self._customers = customers
        self._tenants = tenants
        self._duplicates = duplicates
        self._late = late
        self._malformed = malformed
        self._own_type = own_type
        self._count = 0
        self._pending: list[_Pending] = []
        self._recent: deque[Record] = deque(maxlen=DUPLICATE_RECORDS_MAX)
        # The n-th offer is shown 1/sqrt(n) as often as the first.
        self._popularity = list(
            itertools.accumulate(1 / (n + 1) ** 0.5 for n in range(len(OFFER_IDS)))
        )

    def record(self, now_ms: int) -> Record:
        """Return the next record, an event at `now_ms` (later than 1970-02-12)."""
        self._count += 1
        draw = self._random.random()
        if draw < self._malformed:
            return self._malformed_record(now_ms)
        if draw < self._malformed + self._duplicates and self._recent:
            return self._random.choice(self._recent)
        payload = self._payload()
        if self._random.random() < self._late:
            now_ms = max(INSTANT_MIN_MS, now_ms - self._random.randint(1, LATE_DAYS_MAX * DAY_MS))
        record = self._encode_record(payload, now_ms)
        self._recent.append(record)
        return record

    def _payload(self) -> dict[str, Any]:
        if self._pending and self._pending[0].due <= self._count:
            payload = heapq.heappop(self._pending).payload
        else:
            payload = self._impression()
        self._plan_reaction(payload)
        return payload

    def _impression(self) -> dict[str, Any]:
        offer = OFFER_IDS[bisect(self._popularity, self._random.random() * self._popularity[-1])]
        treatment = TREATMENTS[offer][self._random.random() < 0.4]
        outcome = self._draw(_UNSEEN) or "impression"
        direction = DIRECTIONS[treatment.channel_id]
        return {
            "interactionId": "",
            "tenantId": self._random.choice(self._tenants),
            "customerId": f"C-{self._customer():06}",
            "offerId": offer,
            "creativeId": treatment.id,
            "channelId": treatment.channel_id,
            "interactionType": outcome,
            "outcomeTypeKey": outcome,
            "direction": direction,
            "campaignId": f"camp-{offer}" if direction == "outbound" else None,
            "recommendationId": f"rec-{self._seed:x}-{self._count}",
            "conversionValue": None,
        }

    def _customer(self) -> int:
        """Return a number from 1 to `customers`; customer n is 1/n as active as customer 1."""
        return min(self._customers, int((self._customers + 1) ** self._random.random()))

    def _plan_reaction(self, to: dict[str, Any]) -> None:
        outcome = to["outcomeTypeKey"]
        following = self._draw(_NEXT.get(outcome, ()))
        if outcome == "click" and self._own_type and self._random.random() < _OWN_TYPE_SHARE:
            following = self._own_type
        if following is None:
            return
        value = round(self._random.lognormvariate(4, 0.7), 2) if following == "convert" else None
        reaction = to | {
            # The platform has a fixed set of interaction types: a custom type is a click to it.
            "interactionType": "click" if following == self._own_type else following,
            "outcomeTypeKey": following,
            "conversionValue": value,
        }
        due = self._count + self._random.randint(1, REACTION_RECORDS_MAX)
        heapq.heappush(self._pending, _Pending(due, self._count, reaction))

    def _draw(self, chances: tuple[tuple[str, float], ...]) -> str | None:
        left = self._random.random()
        for name, chance in chances:
            left -= chance
            if left < 0:
                return name
        return None

    def _encode_record(self, payload: dict[str, Any], now_ms: int) -> Record:
        payload["interactionId"] = f"syn-{self._seed:x}-{self._count}"
        payload["timestamp"] = timestamp = format_ms(now_ms)
        document = {"type": EVENT_TYPE, "timestamp": timestamp, "payload": payload}
        return Record(payload["customerId"].encode(), _encode(document))

    def _malformed_record(self, now_ms: int) -> Record:
        payload = self._impression()
        key = payload["customerId"].encode()
        kind = self._random.randrange(8)
        if kind == 0:
            return Record(key, b"not json at all")
        if kind == 1:
            return Record(key, b"\xff\xfe\x00broken")
        if kind == 2:
            return Record(key, b"[1, 2, null]")
        if kind == 3:
            payload["customerId"] = ""
        elif kind == 4:
            payload["offerId"] = "x" * 129
        elif kind == 5:
            payload["outcomeTypeKey"] = "never_registered"
        elif kind == 6:
            now_ms += DAY_MS  # tomorrow
        else:
            return Record(key, self._encode_record(payload, now_ms).value[:-20])
        return Record(key, self._encode_record(payload, now_ms).value)
