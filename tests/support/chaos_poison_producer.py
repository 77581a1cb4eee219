"""Producer of the poison records of a chaos run."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    CorruptRecordException,
    InvalidMessageError,
    InvalidTimestampError,
    KafkaError,
    MessageSizeTooLargeError,
)

from store.settings import Settings
from tests.support.accounting import Outcome, Position
from tests.support.chaos_poison import Poison
from tests.support.raw_producer import raw_producer, send_raw

#: Answers of a broker that does not take the record. Any other error is temporary.
REFUSALS: Final = (
    MessageSizeTooLargeError, InvalidTimestampError, InvalidMessageError, CorruptRecordException,
)  # fmt: skip


class PoisonProducer:
    """Sends poison records, and remembers where each one is and how it must end."""

    def __init__(self, settings: Settings, seed: int, say: Callable[[str], None]) -> None:
        self._settings, self._say = settings, say
        self._draw = random.Random(seed + 2)
        self._expected: dict[Position, Outcome | None] = {}
        self.refused: Counter[str] = Counter()
        """Records that the broker does not take, by its error."""

    async def send(self, poison: Sequence[Poison], wait: Callable[[int], Awaitable[None]]) -> None:
        """Send each record after `wait(index)`, whatever happens to the broker meanwhile."""
        producer = raw_producer(self._settings)
        await producer.start()
        try:
            for index, one in enumerate(poison):
                await wait(index)
                await self._send_one(producer, one)
        finally:
            await producer.stop()

    async def _send_one(self, producer: AIOKafkaProducer, one: Poison) -> None:
        while True:
            try:
                position = await send_raw(
                    producer,
                    self._settings.interactions_topic,
                    self._draw.randrange(self._settings.topic_partitions),
                    compression=one.compression,
                    key=one.record.key,
                    value=one.record.value,
                    headers=one.record.headers,
                    timestamp_ms=one.record.timestamp,
                )
            except REFUSALS as error:
                self.refused[type(error).__name__] += 1
                return
            except KafkaError as error:  # the broker is unavailable
                self._say(f"poison producer: {error!r}")
                await asyncio.sleep(0.5)
            else:
                self._expected[position] = one.outcome
                return

    def check(self, outcomes: Mapping[Position, Outcome]) -> None:
        """Raise AssertionError unless every record that was taken ended as it must."""
        for position, expected in self._expected.items():
            found = outcomes.get(position)
            # A record that was sent again, since its answer was lost, is a copy of itself.
            allowed = {"stored", "copy"} if expected == "stored" else {expected}
            assert found is not None, f"poison record {position} is not in the topic"
            assert expected is None or found in allowed, f"{position}: {found}, not {expected}"
        ends = Counter(outcomes[position] for position in self._expected)
        self._say(f"poison records: {dict(ends)}, refused by the broker {dict(self.refused)}")
