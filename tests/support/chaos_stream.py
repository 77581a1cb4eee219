"""Records of a chaos run, made from its seed, and those of them that must be counted."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence

from store.records import Event
from store.windows import DAY_MS
from tests.support.events import encode, make_event

ZONES = {
    "acme": "UTC",
    "tokyo": "Asia/Tokyo",
    "york": "America/New_York",
    "chatham": "Pacific/Chatham",
}
OWN_TYPE = "saved_for_later"
SYSTEM_OUTCOMES = ("impression",) * 12 + ("click", "click", "dismiss", "accept", "convert")
OUTCOMES = (*SYSTEM_OUTCOMES, OWN_TYPE)
MALFORMED = (
    b"not json %d",
    b"\xff\xfe %d",
    b'["a list", %d]',
    b'{"customerId": "C-1", "number": %d}',
    b'{"customerId": "C", "offerId": "o", "outcomeTypeKey": "no_such_type", '
    b'"timestamp": "2026-01-01T00:00:00Z", "interactionId": "bad-%d"}',
)


@dataclasses.dataclass(frozen=True)
class Plan:
    """Size of a chaos run, and number of its faults."""

    seed: int
    events: int = 300_000
    rate: float = 4_000.0
    """Events produced per second, on average."""
    workers: int = 3
    kills: int = 20
    freezes: int = 3
    restart: Sequence[str] = ("kafka", "redis", "postgres")
    poison: int = 300
    """Number of poison records among the events."""
    new_tenants: tuple[int, int] = (100, 400)
    """Least and greatest number of tenants that appear within seconds; the seed chooses."""
    catch_up_s: float = 240.0
    session_timeout_s: float = 6.0


class Stream:
    """The records to produce, and the events among them that must be counted."""

    def __init__(self, plan: Plan, now_ms: int) -> None:
        draw = random.Random(plan.seed)
        self.now_ms = now_ms
        self.counted: list[Event] = []
        self.malformed: list[bytes] = []
        self.records: list[tuple[bytes, bytes]] = []
        """Key and value, in the order of production."""
        repeats: list[tuple[int, bytes, bytes]] = []  # number at which to repeat, key, value
        number = 0
        while len(self.records) < plan.events:
            number += 1
            while repeats and repeats[0][0] <= number:
                self.records.append(repeats.pop(0)[1:])
            if draw.random() < 0.001:
                value = MALFORMED[number % len(MALFORMED)].replace(b"%d", b"%d" % number)
                self.malformed.append(value)
                self.records.append((b"bad", value))
                continue
            event = self._event(draw, f"{plan.seed}-{number}", now_ms)
            self.counted.append(event)
            key, value = event.customer.encode(), encode(event)
            self.records.append((key, value))
            if draw.random() < 0.01:
                # Repeated soon or much later, with a key that may lead to another partition.
                again = number + int(draw.expovariate(1 / 5_000)) + 1
                repeats.append((again, draw.choice((key, b"retry")), value))
                repeats.sort()
        self.records += [repeat[1:] for repeat in repeats]
        self._insert_burst(draw, plan, now_ms)

    def _insert_burst(self, draw: random.Random, plan: Plan, now_ms: int) -> None:
        """Insert the first events of many new tenants, all together, somewhere in the stream."""
        self.new_tenants = [f"new_{plan.seed}_{i}" for i in range(draw.randint(*plan.new_tenants))]
        self.imported = draw.sample(self.new_tenants, len(self.new_tenants) // 2)
        """New tenants whose catalog is imported while their first events are counted."""
        burst = []
        for tenant in self.new_tenants:
            for i in range(draw.randint(1, 5)):
                event = self._event(draw, f"{tenant}-{i}", now_ms, tenant=tenant)
                self.counted.append(event)
                burst.append((event.customer.encode(), encode(event)))
        draw.shuffle(burst)
        total = len(self.records)
        start = draw.randrange(int(total * 0.1), int(total * 0.9))
        self.records[start:start] = burst
        self.burst = range(start, start + len(burst))
        """Positions of the new tenants' events in `records`."""

    @staticmethod
    def _event(
        draw: random.Random, identity: str, now_ms: int, *, tenant: str | None = None
    ) -> Event:
        age_ms = draw.randrange(40 * DAY_MS) if draw.random() < 0.02 else draw.randrange(60_000)
        offer = min(int(draw.paretovariate(0.8)), 40)
        return make_event(
            tenant=tenant or draw.choice(tuple(ZONES)),
            customer=f"C-{min(int(draw.paretovariate(0.5)), 20_000)}",
            offer=f"off_{offer}",
            creative=None if draw.random() < 0.05 else f"cr_{offer}_{draw.randrange(2)}",
            channel=None if draw.random() < 0.05 else f"ch_{draw.randrange(4)}",
            outcome=draw.choice(OUTCOMES if tenant is None else SYSTEM_OUTCOMES),
            occurred_ms=now_ms - age_ms,
            identity=identity,
        )
