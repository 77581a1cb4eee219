"""Distinct events of one tenant in the five types of the columns: many at once, or at a rate."""

from __future__ import annotations

import asyncio
import itertools
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from store.settings import Settings
from store.windows import DAY_MS
from streams.decode.timestamps import format_ms
from streams.kafka.sender import Sender
from tests.support.polling import TYPES

_TEMPLATE = (
    '{"type":"interaction.recorded.v1","timestamp":"%(at)s","payload":{"interactionId":"%(id)s",'
    '"tenantId":"%(tenant)s","customerId":"C-%(customer)d","offerId":"off_%(offer)d",'
    '"creativeId":"cr_%(offer)d","channelId":"ch_%(channel)d","outcomeTypeKey":"%(type)s",'
    '"timestamp":"%(at)s"}}'
)


class Events:
    """Generator of records; all have different identities."""

    def __init__(self, tenant: str, *, customers: int, seed: int) -> None:
        self._tenant, self._customers, self._seed = tenant, customers, seed
        self._random = random.Random(seed)
        self._numbers = itertools.count()

    def record(self, now_ms: int) -> tuple[bytes, bytes]:
        """Return key and value of an event that occurred up to now; one in fifty is late."""
        chosen = self._random.random
        age_ms = chosen() * (40 * DAY_MS if chosen() < 0.02 else 60_000)
        offer = int(chosen() * chosen() * 30)
        customer = int(chosen() * chosen() * self._customers)
        fields = {
            "at": format_ms(now_ms - int(age_ms)),
            "id": f"{self._seed}-{next(self._numbers)}",
            "tenant": self._tenant,
            "customer": customer,
            "offer": offer,
            "channel": offer % 4,
            "type": TYPES[int(chosen() * chosen() * len(TYPES))],
        }
        return b"C-%d" % customer, (_TEMPLATE % fields).encode()


async def produce(settings: Settings, events: Events, n: int) -> None:
    """Send `n` events at once; Kafka has acknowledged all when it returns."""
    now_ms = time.time_ns() // 1_000_000
    async with Sender(settings, settings.interactions_topic) as sender:
        for number in range(n):
            await sender.send(*events.record(now_ms))
            if number % 1_000 == 0:
                await asyncio.sleep(0)


class LiveTraffic:
    """Thread that sends events at a steady rate."""

    def __init__(self, settings: Settings, events: Events, rate: float) -> None:
        """`rate`: events per second."""
        self._settings, self._events, self._rate = settings, events, rate
        self._stopped = threading.Event()
        self._errors: list[BaseException] = []
        self.sent = 0

    @contextmanager
    def running(self) -> Iterator[LiveTraffic]:
        """Send inside the block; all is acknowledged at its end. Raises what the thread raised."""
        thread = threading.Thread(target=self._run, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._stopped.set()
            thread.join(60)
        if self._errors:
            raise self._errors[0]

    def _run(self) -> None:
        try:
            asyncio.run(self._send())
        except BaseException as error:
            self._errors.append(error)

    async def _send(self) -> None:
        async with Sender(self._settings, self._settings.interactions_topic) as sender:
            began_s = time.monotonic()
            while not self._stopped.is_set():
                due = int((time.monotonic() - began_s) * self._rate)
                for _ in range(self.sent, due):
                    await sender.send(*self._events.record(time.time_ns() // 1_000_000))
                self.sent = due
                await asyncio.sleep(0.02)  # the rate of the traffic, not a wait for a condition
