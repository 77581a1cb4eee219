"""Commits of the tenants of a commit batch, a bounded number at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from store import metrics
from store.records import SourcedEvent
from store.shards import by_shard, tenant_of
from streams.at_once import all_at_once
from streams.commit import CounterCommitter
from streams.commit_batch import split_evenly
from streams.dead_letters.record import DeadLetterSink, RejectedRecord
from streams.decode.rejection import Reason, unprocessable
from streams.isolation import Isolation
from streams.retry import retry

#: Commits at once, of all partitions. Redis runs one script at a time, so more would only wait
#: there, each with a connection of its own.
COMMITS_MAX: Final = 32
#: Commits without events at once: they share a round trip.
IDLE_COMMITS_MAX: Final = 16


class TenantCommits:
    """Commits the events of one tenant, in parts, for all partitions."""

    def __init__(
        self,
        committer: CounterCommitter,
        dead_letters: DeadLetterSink,
        isolation: Isolation,
        *,
        events_max: int,
    ) -> None:
        """`events_max`: maximum events of one commit."""
        self._committer = committer
        self._dead_letters = dead_letters
        self._isolation = isolation
        self._events_max = events_max
        self._commits = asyncio.Semaphore(COMMITS_MAX)

    async def move(self, tenants: Sequence[str], partition: int, next_offset: int) -> None:
        """Move the watermarks of tenants without events."""
        for first in range(0, len(tenants), IDLE_COMMITS_MAX):
            some = tenants[first : first + IDLE_COMMITS_MAX]
            commit = self._committer.commit
            await all_at_once(*(commit(each, partition, [], next_offset) for each in some))

    async def commit(
        self,
        tenant: str,
        partition: int,
        records: Sequence[Any],
        events: Sequence[SourcedEvent],
        next_offset: int,
        *,
        stored_offset: int = 0,
        more: bool = False,
    ) -> set[int]:
        """Commit the tenant's events of a commit batch, usually at once.

        An event on which the program fails becomes a dead letter. Return the offsets that history
        must not store: these, and those of copies; `stored_offset`: see `CounterCommitter.commit`.
        `more`: whether more records of the partition wait.
        """
        layout = await self._committer.tenants.layout(tenant)
        shards = by_shard(layout, events)
        uncounted: set[int] = set()

        async def commit_shard(name: str, of_shard: Sequence[SourcedEvent]) -> None:
            uncounted.update(
                await self._commit_shard(
                    name,
                    partition,
                    records,
                    of_shard,
                    next_offset,
                    stored_offset=stored_offset,
                    more=more,
                )
            )

        if len(shards) == 1:
            await commit_shard(*next(iter(shards.items())))
        else:
            await all_at_once(*(commit_shard(*each) for each in shards.items()))
        return uncounted

    async def _commit_shard(
        self,
        shard: str,
        partition: int,
        records: Sequence[Any],
        events: Sequence[SourcedEvent],
        next_offset: int,
        *,
        stored_offset: int,
        more: bool,
    ) -> set[int]:
        """Commit the events of one shard; see `commit`."""
        uncounted: set[int] = set()

        def end_of(event: SourcedEvent) -> int:
            return next_offset if event is events[-1] else event.offset + 1

        async def commit_part(part: Sequence[SourcedEvent]) -> None:
            async with self._commits:
                copies = await self._committer.commit(
                    shard,
                    partition,
                    part,
                    end_of(part[-1]),
                    stored_offset=stored_offset,
                    more=more,
                )
            uncounted.update(copies)

        async def reject(event: SourcedEvent, error: Exception) -> None:
            self._isolation.note_failure(error, partition=partition, offset=event.offset)
            (record,) = [r for r in records if r.offset == event.offset]
            metrics.DEAD_LETTERS.labels(Reason.UNPROCESSABLE).inc()
            rejected = RejectedRecord(partition, record, unprocessable(error), tenant_of(shard))
            await retry("kafka", self._dead_letters.send, [rejected])
            uncounted.add(event.offset)
            await self._committer.commit(shard, partition, [], end_of(event))

        for part in split_evenly(events, self._events_max):
            await self._isolation.run(part, commit_part, reject)
        return uncounted
