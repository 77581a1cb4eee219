"""Reader."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Final, NamedTuple

from store.postgres.pool import Pool
from store.postgres.redriven import RedrivenDeadLetters
from store.settings import Settings
from streams.dead_letters import headers as dead_letters
from streams.dead_letters.record import DeadLetter, Source
from streams.kafka.topic_id import describe_topic
from streams.kafka.topic_reader import TopicReader, open_topic

#: Letters looked at, counted from the newest: what is remembered of each takes memory.
LETTERS_MAX: Final = 1_000_000


class DeadLetterTopic:
    """The dead-letter topic, open for reading. Every method raises StoreUnavailable."""

    def __init__(self, reader: TopicReader, partitions: int) -> None:
        self._reader = reader
        self.partitions = partitions

    async def all(self, letters_max: int = LETTERS_MAX) -> AsyncIterator[DeadLetter]:
        """The letters of all partitions, each partition's in order; the last ones where there are
        more than `letters_max`. Records that are no dead letters are left out."""
        ends = [await self._reader.end(p) for p in range(self.partitions)]
        for partition, end in enumerate(ends):
            first = max(0, end - max(1, letters_max // self.partitions))
            async for record in self._reader.read(partition, first, end):
                if letter := _letter(record):
                    yield letter

    async def at(self, partition: int, offset: int) -> DeadLetter | None:
        """The letter at a place; None where there is none."""
        if not 0 <= partition < self.partitions:
            return None
        if not 0 <= offset < await self._reader.end(partition):
            return None
        async for record in self._reader.read(partition, offset, offset + 1):
            return _letter(record)
        return None


@asynccontextmanager
async def open_dead_letters(settings: Settings) -> AsyncIterator[DeadLetterTopic]:
    """Raises StoreUnavailable, also when the topic is not there."""
    async with open_topic(settings, settings.dead_letter_topic) as reader:
        topic_id = await describe_topic(settings, settings.dead_letter_topic)
        yield DeadLetterTopic(reader, topic_id.partitions)


def _letter(record: Any) -> DeadLetter | None:
    about = dead_letters.parse(record.headers)
    if about is None:
        return None
    headers = tuple(record.headers)
    return DeadLetter(record.partition, record.offset, record.key, record.value, headers, about)


class Listed(NamedTuple):
    letter: DeadLetter
    repeats: int
    """How many more times the topic has it."""
    redriven: datetime | None


class Listing(NamedTuple):
    newest: Sequence[Listed]
    by_reason: Mapping[str, int]
    """Letters, repeats left out."""
    repeats: int


async def list_letters(
    letters: AsyncIterator[DeadLetter], *, limit: int, reason: str | None = None
) -> Listing:
    """The newest `limit` letters, the newest first, and how many there are. Which were redriven is
    not known here: see `with_marks`."""
    repeats: Counter[Source] = Counter()
    by_reason: Counter[str] = Counter()
    newest: list[DeadLetter] = []
    async for letter in letters:
        if reason not in (None, letter.about.reason):
            continue
        repeats[letter.about.source] += 1
        if repeats[letter.about.source] > 1:
            continue
        by_reason[letter.about.reason] += 1
        newest.append(letter)
        if len(newest) >= 2 * limit + 100:
            newest = _newest(newest, limit)
    return Listing(
        [Listed(x, repeats[x.about.source] - 1, None) for x in _newest(newest, limit)],
        by_reason,
        repeats.total() - len(repeats),
    )


def _newest(letters: list[DeadLetter], limit: int) -> list[DeadLetter]:
    return sorted(letters, key=lambda x: (-x.about.time_ms, x.partition, -x.offset))[:limit]


async def with_marks(listing: Listing, pool: Pool) -> Listing:
    """The listing, with what was redriven. Raises StoreUnavailable."""
    marked = await RedrivenDeadLetters(pool).marked([x.letter.about.source for x in listing.newest])
    return listing._replace(
        newest=[x._replace(redriven=marked.get(place)) for place, x in enumerate(listing.newest)]
    )
