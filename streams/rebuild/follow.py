"""The end of a rebuild: follow the topic to its head, then swap."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final

from store.counters import Activated, Behind, Fewer, Shortfall
from store.records import SourcedEvent
from streams.rebuild.context import Context
from streams.rebuild.errors import RebuildError
from streams.rebuild.progress import ProgressMeter
from streams.rebuild.records import RecordReader
from streams.rebuild.work import Work, Works

#: A partition with fewer offsets to go is at the head: one batch of a worker.
HEAD_OFFSETS: Final = 200
POLL_MS: Final = 40
#: How long a swap is tried that loses the race with the live worker; then the worker, which reads
#: again what the new generation lacks, completes it.
RACE_S: Final = 10.0
#: With this lag the head is as near as it gets, if so many rounds did not bring it nearer: as many
#: records arrive in one round.
EVEN_OFFSETS: Final = 20_000
EVEN_ROUNDS: Final = 5
#: How long the head is chased that moves on as fast as it is followed.
CHASE_S: Final = 300.0


class Follower:
    """Reads the topic on for tenants whose new generations are built, and swaps them in."""

    def __init__(
        self,
        context: Context,
        works: Works,
        reader: RecordReader,
        meter: ProgressMeter,
    ) -> None:
        """If Kafka does not answer, nothing is read on."""
        self._scan = scan = context.scan
        self._counters = context.counters
        self._pace = context.pace
        self._now_ms = context.now_ms
        self._works = Works(works)
        self._reader = reader
        self.meter = meter
        self._topic_id = scan.topic_id if scan else ""
        self._positions: dict[int, int] = {}
        if scan is not None:
            self._owners = context.owners
            self._positions = {
                partition: min(work.builder.watermarks.get(partition, 0) for work in works.values())
                for partition in range(scan.partitions)
            }
            scan.seek(self._positions)

    async def catch_up(self) -> None:
        """Follow the topic until it is a batch behind the head.

        Raises OffsetsGone, TopicChanged, RebuildError, StoreUnavailable.
        """
        if self._scan is None:
            return
        self.meter.begin("catching up", None)
        give_up_s = time.monotonic() + CHASE_S
        least, rounds = None, 0  # the least lag so far, and how often it was not undercut
        while True:
            ends = await self._scan.ends()
            lag = self._lag(ends)
            self.meter.update(self._done(), lag=lag)
            if lag <= HEAD_OFFSETS or time.monotonic() > give_up_s:
                return
            rounds = 0 if least is None or lag < least else rounds + 1
            least = lag if least is None else min(lag, least)
            if rounds >= EVEN_ROUNDS and lag <= EVEN_OFFSETS:
                return
            await self._read_to(ends)

    async def swap(self, work: Work, *, force: bool) -> Activated:
        """Activate the new generation, complete if it wins the race with the worker.

        `work`: that of shard 0. The other shards become active before it, which nobody sees.

        It wins if nothing is counted between its last poll and the swap, so pauses in between
        would lose it. Raises RebuildError if it has fewer events than the active one, unless
        `force`.
        """
        with self._pace.unpaced():
            return await self._swap(work, force=force)

    async def _swap(self, work: Work, *, force: bool) -> Activated:
        give_up_s = time.monotonic() + RACE_S
        sharded = max(work.shard.shards, work.active.shards if work.active else 1) > 1
        for each in work.shards[1:]:
            await self._activate(each)
        while True:
            for each in work.shards:
                await self.finish(each)
            if sharded:
                targets = await self._check_shards(work, force=force)
                if targets and time.monotonic() <= give_up_s:
                    await self._read_to(targets, give_up_s=give_up_s)
                    continue
            answer = await self._pace.call(
                0,
                self._counters.swap,
                work.builder.generation,
                now_ms=self._now_ms(),
                fewer=force or sharded,  # `_check_shards` has compared them all
                writes=work.builder.writes,
                given_up=[s for s in work.given_up if s[0] != self._topic_id],
                behind=self._scan is None or time.monotonic() > give_up_s,
            )
            match answer:
                case Activated():
                    for each in work.shards:
                        self._works.pop(each.name, None)
                    return answer
                case Fewer():
                    raise RebuildError(_fewer(work, answer))
                case Behind():
                    targets = self._targets(answer.sources)
                    if not targets:
                        # Of another topic id, which cannot be read any more, or of a partition
                        # that was added meanwhile: the worker counts it from its start.
                        give_up_s = 0.0
                    else:
                        await self._read_to(targets, give_up_s=give_up_s)
                case None:
                    raise _gone(work)

    async def _activate(self, work: Work) -> None:
        """Activate a shard other than shard 0, which is not of the active generation yet."""
        builder = work.builder
        answer = await self._pace.call(
            0,
            self._counters.swap,
            builder.generation,
            now_ms=self._now_ms(),
            behind=True,
            fewer=True,
            writes=builder.writes,
        )
        if not isinstance(answer, Activated):
            raise _gone(work)
        builder.generation = builder.generation._replace(build_token="")

    async def _check_shards(self, work: Work, *, force: bool) -> dict[int, int]:
        """Return where the shards of the active generation are ahead, as far as that can be read.

        Raises RebuildError if they have more events than the new ones, unless `force`.
        """
        if work.active is None:
            return {}
        state = await self._counters.shards.state(work.active.layout)
        given_up = {source for source in work.given_up if source[0] != self._topic_id}
        counted = {
            (self._topic_id, partition): offset for partition, offset in self._positions.items()
        }
        behind = [
            Shortfall(source, counted.get(source, 0), offset)
            for source, offset in state.reach.items()
            if source not in given_up and offset > counted.get(source, 0)
        ]
        events = sum(each.builder.events for each in work.shards)
        # An offset has at most one event.
        missing = sum(each.offsets for each in behind if each.source in counted)
        if not force and state.events is not None and events + missing < state.events:
            raise RebuildError(_fewer(work, Fewer(events, state.events)))
        return self._targets(behind)

    async def finish(self, work: Work) -> None:
        """Bring the generation to the position that is read, and to the tenant's day."""
        if self._scan is not None:
            for partition, offset in self._positions.items():
                await work.builder.count(self._scan.topic_id, partition, [], offset)
        await work.builder.roll(work.builder.calendar.day_of(self._now_ms()))

    def _targets(self, behind: Sequence[Shortfall]) -> dict[int, int]:
        return {
            shortfall.source[1]: shortfall.target
            for shortfall in behind
            if shortfall.source[0] == self._topic_id and shortfall.source[1] in self._positions
        }

    def _lag(self, ends: Mapping[int, int]) -> int:
        return sum(max(0, end - self._positions[p]) for p, end in ends.items())

    def _done(self) -> int:
        return sum(work.builder.events for work in self._works.values())

    async def _read_to(self, ends: Mapping[int, int], *, give_up_s: float | None = None) -> None:
        """Count the records up to `ends`, and what comes with them."""
        assert self._scan is not None
        while any(self._positions[p] < end for p, end in ends.items()):
            if give_up_s is not None and time.monotonic() > give_up_s:
                return
            for batch in await self._scan.poll(POLL_MS):
                of_shards: dict[str, list[SourcedEvent]] = defaultdict(list)
                events = list(self._reader.events(batch.records, self._now_ms()))
                events = await self._owners.without_copies(self._works, batch.partition, events)
                for sourced in events:
                    if (work := self._works.of(sourced.event)) is not None:
                        of_shards[work.name].append(sourced)
                for name, of_shard in of_shards.items():
                    await self._works[name].builder.count(
                        self._scan.topic_id, batch.partition, of_shard, batch.next_offset
                    )
                self._positions[batch.partition] = batch.next_offset
            self.meter.update(self._done(), lag=self._lag(ends))


def _gone(work: Work) -> RebuildError:
    return RebuildError(
        f"tenant {work.tenant}: the new generation no longer exists, or Redis was restarted and "
        "has lost a part of it; the live counters are unchanged; run the rebuild again"
    )


def _fewer(work: Work, answer: Fewer) -> str:
    missing = answer.active_events - answer.events
    number = work.active.number if work.active else 0
    return (
        f"tenant {work.tenant}: {missing:,} events would be lost: generation {number} has "
        f"{answer.active_events:,}, the new one {answer.events:,}. If they are copies that were "
        "counted twice (see `audit`), or if the source is right, use --force; the live counters "
        "are unchanged"
    )
