"""Reader of the dead-letter topic, and the listing of its dead letters."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Final, NamedTuple

from store.postgres.pool import Pool
from store.postgres.redriven import RedrivenDeadLetters
from store.settings import Settings
from streams.dead_letters import headers
from streams.dead_letters.record import DeadLetter, Source
from streams.kafka.topic_id import describe_topic
from streams.kafka.topic_reader import TopicReader, open_topic

#: Dead letters that are read, counted from the newest: each that is remembered takes memory.
DEAD_LETTERS_MAX: Final = 1_000_000


class DeadLetterTopic:
    """The dead-letter topic, open for reading. Every method raises StoreUnavailable."""

    def __init__(self, reader: TopicReader, partitions: int) -> None:
        self._reader = reader
        self.partitions = partitions

    async def read_all(self, max_records: int = DEAD_LETTERS_MAX) -> AsyncIterator[DeadLetter]:
        """Yield the dead letters of all partitions, in order within each partition.

        Of more than `max_records` the newest are read. Records without our headers are left out.
        """
        ends = [await self._reader.end(p) for p in range(self.partitions)]
        for partition, end in enumerate(ends):
            first = max(0, end - max(1, max_records // self.partitions))
            async for record in self._reader.read(partition, first, end):
                if dead_letter := _dead_letter(record):
                    yield dead_letter

    async def read_at(self, partition: int, offset: int) -> DeadLetter | None:
        """Return the dead letter at an offset, or None if there is none."""
        if not 0 <= partition < self.partitions:
            return None
        if not 0 <= offset < await self._reader.end(partition):
            return None
        async for record in self._reader.read(partition, offset, offset + 1):
            return _dead_letter(record)
        return None


@asynccontextmanager
async def open_dead_letters(settings: Settings) -> AsyncIterator[DeadLetterTopic]:
    """Open the dead-letter topic. Raises StoreUnavailable, also if the topic does not exist."""
    async with open_topic(settings, settings.dead_letter_topic) as reader:
        description = await describe_topic(settings, settings.dead_letter_topic)
        yield DeadLetterTopic(reader, description.partitions)


def _dead_letter(record: Any) -> DeadLetter | None:
    info = headers.parse(record.headers)
    if info is None:
        return None
    return DeadLetter(
        partition=record.partition,
        offset=record.offset,
        key=record.key,
        value=record.value,
        headers=tuple(record.headers),
        info=info,
    )


class ListedDeadLetter(NamedTuple):
    """Dead letter of a listing."""

    dead_letter: DeadLetter
    repeats: int
    """Further copies of it in the topic."""
    redriven: datetime | None
    """When it was redriven (UTC), as far as known."""


class Listing(NamedTuple):
    """The newest dead letters, and the numbers of all."""

    newest: Sequence[ListedDeadLetter]
    by_reason: Mapping[str, int]
    """Reason -> dead letters, repeats left out."""
    repeats: int


async def list_dead_letters(
    dead_letters: AsyncIterator[DeadLetter], *, limit: int, reason: str | None = None
) -> Listing:
    """Return the newest `limit` dead letters, newest first, and the number of all by reason.

    `redriven` is None in all of them: see `with_marks`.
    """
    repeats: Counter[Source] = Counter()
    by_reason: Counter[str] = Counter()
    newest: list[DeadLetter] = []
    async for dead_letter in dead_letters:
        info = dead_letter.info
        if reason not in (None, info.reason):
            continue
        repeats[info.source] += 1
        if repeats[info.source] > 1:
            continue
        by_reason[info.reason] += 1
        newest.append(dead_letter)
        if len(newest) >= 2 * limit + 100:
            newest = _newest(newest, limit)
    return Listing(
        [ListedDeadLetter(x, repeats[x.info.source] - 1, None) for x in _newest(newest, limit)],
        by_reason,
        repeats.total() - len(repeats),
    )


def _newest(dead_letters: list[DeadLetter], limit: int) -> list[DeadLetter]:
    return sorted(dead_letters, key=lambda x: (-x.info.time_ms, x.partition, -x.offset))[:limit]


async def with_marks(listing: Listing, pool: Pool) -> Listing:
    """Return the listing with the times of redrives filled in. Raises StoreUnavailable."""
    sources = [x.dead_letter.info.source for x in listing.newest]
    marked = await RedrivenDeadLetters(pool).marked(sources)
    return listing._replace(
        newest=[x._replace(redriven=marked.get(index)) for index, x in enumerate(listing.newest)]
    )
