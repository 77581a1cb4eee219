"""Comparison of some groups at one consistent point, while events are being counted.

The counters are read in chunks, each with the watermarks of that moment. History holds every event
once it has reached these watermarks, and each of its rows has its offset. So what the counters
should have had at each moment is known exactly, whatever was counted in between.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, NamedTuple

from store.audit import Correction, Watermarks
from store.counters import Source
from store.postgres.audit import AuditedHistory, HistorySnapshot, Scope
from store.records import Grouping
from store.redis.audit import READ_GROUPS, AuditedCounters, Chunk, GenerationState, RawGroup, decode
from store.redis.keys import GROUPING_CODES, LIMITED_CODES
from store.shards import tenant_of
from store.windows import Calendar
from streams.audit.cells import Cell, Expected, compare, correction, expected

#: A comparison ends once so many groups differ. Then a rebuild is the remedy.
DIFFERING_MAX: Final = 20_000
_ATTEMPTS: Final = 5
_POLL_S: Final = 0.1
_NEVER_COUNTED: Final = 2**63 - 1


class NotAudited(Exception):
    """The stores cannot be compared now; the message says why. It is no drift."""


class _Moved(Exception):
    """Something that must stay the same during a comparison has changed; try again."""


class Difference(NamedTuple):
    """A group whose counters differ from history."""

    grouping: Grouping
    id: str
    cells: Sequence[Cell]
    correction: Correction
    unreadable: bytes | None
    """Only of a record that cannot be read: its `RawGroup.windows`."""
    generation: GenerationState
    """The generation when the group was read."""
    unknown: bool = False
    """The counters have more, and history lacks offsets: they may be the only copy."""


class _Found(NamedTuple):
    """The groups of a comparison, as the counters have them."""

    state: GenerationState
    """Before the first group was read."""
    groups: dict[str, tuple[RawGroup, GenerationState]]
    ends: dict[Source, int]
    """The highest watermarks at which a group was read."""
    offers: Mapping[bytes, str]


class Comparer:
    """Compares groups of one tenant and grouping. Methods raise NotAudited and StoreUnavailable."""

    def __init__(
        self,
        counters: AuditedCounters,
        history: AuditedHistory,
        *,
        timezone_of: Callable[[str], Awaitable[str]],
        now_ms: Callable[[], int],
        wait_s: float,
        is_building: bool = False,
    ) -> None:
        """Wait up to `wait_s` for history to store what the counters have counted.

        `is_building`: the generation is under construction, so that it cannot be complete yet.
        """
        self._is_building = is_building
        self._counters = counters
        self._history = history
        self._timezone_of = timezone_of
        self._now_ms = now_ms
        self._wait_s = wait_s

    async def check(self, tenant: str, grouping: Grouping | None = None) -> GenerationState:
        """Return the tenant's generation; raise NotAudited if it does not answer questions."""
        timezone = await self._timezone_of(tenant_of(tenant))
        chunk = await self._counters.read(tenant, grouping or "action", [])
        return self._answering(chunk, grouping, timezone)

    def _answering(
        self, chunk: Chunk | None, grouping: Grouping | None, timezone: str
    ) -> GenerationState:
        if chunk is None:
            raise NotAudited("it has no counters")
        state = chunk.generation
        if not state.complete and not self._is_building:
            raise NotAudited("its counters are not complete; history answers")
        if state.timezone != timezone:
            raise NotAudited(f"its counters are in time zone {state.timezone}, not {timezone}")
        if state.rolled != state.day:
            raise NotAudited("its windows are being rolled to a new day")
        if state.day != Calendar(timezone).day_of(self._now_ms()):
            raise NotAudited("the window day of its counters is not today")
        overflow = state.overflow
        if grouping is not None and (
            GROUPING_CODES[grouping] in overflow or (grouping == "customer" and "a" in overflow)
        ):
            raise NotAudited("some groups are counted as one (KEYS_PER_GROUPING_MAX)")
        if grouping == "customer" and LIMITED_CODES["customer_offers"] in overflow:
            raise NotAudited("not all offers are remembered (OFFERS_PER_CUSTOMER_MAX)")
        return state

    async def differences(
        self, tenant: str, grouping: Grouping, ids: Sequence[str], *, recent: bool
    ) -> list[Difference]:
        """Return the groups of `ids` (sorted, not empty) that differ, up to about DIFFERING_MAX.

        With `recent` only the windows that have a start are compared.
        """
        for _ in range(_ATTEMPTS):
            try:
                return await self._differences(tenant, grouping, ids, recent=recent)
            except _Moved as moved:
                reason = str(moved)
        raise NotAudited(reason)

    async def _differences(
        self, tenant: str, grouping: Grouping, ids: Sequence[str], *, recent: bool
    ) -> list[Difference]:
        # 1. Read the counters, with the watermarks before, at and after.
        found = await self._read(tenant, grouping, ids)
        # 2. Wait until history has everything that they have counted.
        started = found.state.first_watermarks
        needed = {s: end for s, end in found.ends.items() if end > started.get(s, 0)}
        await self._wait_for_history(needed)
        # 3. Read history in one snapshot, and compare group by group.
        async with self._history.snapshot(tenant) as snapshot:
            firsts, ends = await self._bounds(tenant, grouping, found, snapshot, needed)
            lacks = await snapshot.lacks(started, found.ends)
            calendar = Calendar(found.state.timezone)
            scope = Scope(tenant, grouping, ids, found.state.day, calendar, recent)
            differing = []
            async for id_, rows in snapshot.groups(scope, firsts, ends):
                # A group that is not in `ids` was first seen after they were listed.
                if (group := found.groups.pop(id_, None)) is not None:
                    wanted = expected(rows, group[1].watermarks, scope.today)
                    differing += _compare(grouping, id_, group, wanted, found.offers, recent)
                    if len(differing) >= DIFFERING_MAX:
                        break
        wanted = expected((), {}, scope.today)
        for id_, group in found.groups.items() if len(differing) < DIFFERING_MAX else ():
            differing += _compare(grouping, id_, group, wanted, found.offers, recent)
        return [_judge(difference) for difference in differing] if lacks else differing

    async def _read(self, tenant: str, grouping: Grouping, ids: Sequence[str]) -> _Found:
        timezone = await self._timezone_of(tenant_of(tenant))
        state = await self.check(tenant, grouping)
        found = _Found(state, {}, dict(state.watermarks), {})
        while len(found.groups) < len(ids):
            at = len(found.groups)
            chunk = await self._counters.read(tenant, grouping, ids[at : at + READ_GROUPS])
            now = self._answering(chunk, grouping, timezone)
            assert chunk is not None
            if (now.number, now.day) != (state.number, state.day):
                raise _Moved("its generation or its window day keeps changing")
            if any(now.watermarks.get(s, 0) < first for s, first in state.watermarks.items()):
                raise _Moved("its watermarks keep going back")
            for source, watermark in now.watermarks.items():
                found.ends[source] = max(watermark, found.ends.get(source, 0))
            found.groups.update((id_, (raw, now)) for id_, raw in chunk.groups.items())
        if grouping == "customer":
            # After the groups: a number is given to an offer before it is in a record.
            offers = await self._counters.offers(tenant, state.number)
            found = found._replace(offers=offers)
        return found

    async def _wait_for_history(self, needed: Watermarks) -> None:
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._wait_s
        while behind := _behind(await self._history.positions(), needed):
            if clock() > deadline:
                raise NotAudited(
                    "history has not stored what the counters have: "
                    f"{sum(behind.values())} offsets of {len(behind)} partitions are missing"
                )
            await asyncio.sleep(_POLL_S)

    async def _bounds(
        self,
        tenant: str,
        grouping: Grouping,
        found: _Found,
        snapshot: HistorySnapshot,
        needed: Watermarks,
    ) -> tuple[dict[Source, int], dict[Source, int]]:
        """Return the offsets below which every group has counted, and those of the last group."""
        if _behind(snapshot.positions, needed):
            raise _Moved("the position of its history keeps going back")
        if await snapshot.is_beyond_position():
            raise NotAudited(
                "its topic was truncated, and history has rows beyond its position in the topic"
            )
        firsts, ends = dict(found.state.watermarks), dict(found.ends)
        unknown = [source for source in snapshot.sources if source not in ends]
        if unknown:
            # History is written after the counters. So if they still have no watermark of a source
            # of which history has rows, they have never counted it, although they are complete.
            now = await self.check(tenant, grouping)
            for source in unknown:
                if source not in now.watermarks:
                    firsts[source] = ends[source] = _NEVER_COUNTED
        return firsts, ends


def _behind(positions: Watermarks, needed: Watermarks) -> dict[Source, int]:
    """Return the number of offsets that history lacks, of the sources where it lacks some."""
    return {
        source: offset - positions.get(source, 0)
        for source, offset in needed.items()
        if positions.get(source, 0) < offset
    }


def _compare(
    grouping: Grouping,
    id_: str,
    group: tuple[RawGroup, GenerationState],
    wanted: Expected,
    offers: Mapping[bytes, str],
    recent: bool,
) -> list[Difference]:
    raw, generation = group
    state = decode(raw, generation, offers)
    unranked = generation.unranked if grouping == "customer" else ()
    cells = compare(state, wanted, generation.day, recent=recent, unranked=unranked)
    if not cells:
        return []
    fix = correction(id_, state, wanted, generation.day)
    unreadable = raw.windows if state is None else None
    return [Difference(grouping, id_, cells, fix, unreadable, generation)]


def _judge(difference: Difference) -> Difference:
    """Return whether it is known that the counters are wrong, given that history lacks offsets."""
    more = any(cell.counters is None or cell.counters > cell.history for cell in difference.cells)
    return difference._replace(unknown=more)
