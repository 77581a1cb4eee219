"""Audit of a tenant: all of its groups or a sample of them, and the repair of those that differ."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, Literal, NamedTuple

import msgspec

from store.audit import AuditNote, Correction
from store.postgres.audit import AuditedHistory
from store.records import GROUPINGS, Grouping
from store.redis.audit import ADJUST_GROUPS, AuditedCounters
from streams.audit.cells import same_differences
from streams.audit.groups import AuditedGroups
from streams.audit.segment import DIFFERING_MAX, Comparer, Difference, NotAudited

#: Groups that are compared at one point: history is read once for them, and their records, about
#: 2 KB each, are in memory meanwhile.
SEGMENT_GROUPS: Final = 50_000
#: How long history may take to store what the counters have counted.
WAIT_S: Final = 30.0
#: A group differs if so many comparisons in a row found the same differences; it is compared at
#: most COMPARISONS_MAX times.
AGREEING: Final = 3
COMPARISONS_MAX: Final = 10
PAUSE_S: Final = 0.5
#: Offers of one customer in one correction.
OFFERS_MAX: Final = 300
_REWRITES: Final = 5
REPAIRS_MAX: Final = 3
#: Numbers in one correction, a bound of its script's time.
_ADJUST_NUMBERS: Final = 1_500


class TenantAudit(NamedTuple):
    """Result of the audit of one tenant."""

    tenant: str
    generation: int | None
    at_ms: int
    """Time of its end."""
    duration_s: float
    sample: int | None
    groups: int
    """Groups that were compared."""
    differing: Sequence[Difference]
    notes: Sequence[str]
    """What was not compared, and why."""
    shards: Sequence[TenantAudit] = ()
    """With several shards: their results, shard 0 first."""

    @property
    def cells(self) -> int:
        """Number of differing cells."""
        return sum(len(difference.cells) for difference in self.differing)

    def note(
        self,
        source: Literal["command", "worker"],
        *,
        previous: AuditNote | None,
        repaired: bool = False,
    ) -> AuditNote:
        """Return the outcome as it is stored, given the tenant's previous one.

        A sample that is clean does not clear a drift that is known: it has other groups, and may
        have fewer windows. A whole audit does, and a new generation.
        """
        if (
            previous is not None
            and previous.result == "drift"
            and previous.generation == self.generation
            and self.sample is not None
            and not self.differing
        ):
            return msgspec.structs.replace(previous, at_ms=self.at_ms)
        result: Literal["clean", "drift", "repaired", "skipped"] = "clean"
        if self.differing:
            result = "drift"
        elif repaired:
            result = "repaired"
        elif self.notes and not self.groups:
            result = "skipped"
        return AuditNote(
            at_ms=self.at_ms,
            result=result,
            groups=self.groups,
            cells=self.cells,
            source=source,
            duration_s=round(self.duration_s, 3),
            generation=self.generation,
            sample=self.sample,
            reason="; ".join(self.notes),
        )


class Repair(NamedTuple):
    """Result of a repair."""

    groups: int
    """Groups that were corrected."""
    again: TenantAudit
    """A second audit, of these groups."""


class Auditor:
    """Audits and repairs. All methods raise StoreUnavailable."""

    def __init__(
        self,
        counters: AuditedCounters,
        history: AuditedHistory,
        comparer: Comparer,
        *,
        now_ms: Callable[[], int],
        pause_s: float,
    ) -> None:
        """Compare a group that differs again after `pause_s`."""
        self._counters = counters
        self._history = history
        self._groups = AuditedGroups(counters, history, now_ms)
        self._comparer = comparer
        self._now_ms = now_ms
        self._pause_s = pause_s

    async def tenants(self) -> list[str]:
        """Return the tenants that have counters or a history, sorted."""
        return sorted({*await self._counters.tenants(), *await self._history.tenants()})

    async def audit(
        self,
        tenant: str,
        *,
        sample: int | None = None,
        events_max: int | None = None,
        recent: bool = False,
    ) -> TenantAudit:
        """Compare all groups of the tenant, or about `sample` of each grouping.

        With `events_max` a sample ends before the group with which it would have more events, and
        has at least one group: history reads each event of them. With `recent` only the windows
        that have a start are compared: an index finds their rows.
        """

        async def groups(grouping: Grouping, generation: int) -> list[str]:
            if sample is None:
                return await self._groups.all(tenant, grouping, generation)
            return await self._groups.sample(tenant, grouping, generation, sample, events_max)

        return await self._audit(tenant, groups, GROUPINGS, sample=sample, recent=recent)

    async def repair(self, audit: TenantAudit) -> Repair:
        """Correct the groups that an audit found to differ, and audit them again.

        Nothing else is changed. Corrections are refused once the generation or the window day is
        another one. Events that are counted meanwhile may leave the last day of an offer wrong; so
        what still differs is corrected again, at most REPAIRS_MAX times.
        """
        by_grouping: dict[Grouping, list[str]] = {}
        for difference in audit.differing:
            by_grouping.setdefault(difference.grouping, []).append(difference.id)

        async def groups(grouping: Grouping, _: int) -> list[str]:
            return sorted(by_grouping[grouping])

        differing = audit.differing
        for _ in range(REPAIRS_MAX):
            await self._correct(audit.tenant, differing)
            again = await self._audit(audit.tenant, groups, list(by_grouping), sample=audit.sample)
            differing = again.differing
            if not differing:
                break
        return Repair(len(audit.differing), again)

    async def _correct(self, tenant: str, differing: Sequence[Difference]) -> None:
        for difference in differing:
            if difference.unreadable is not None:
                await self._rewrite(tenant, difference)
        readable = [d for d in differing if d.unreadable is None]
        for batch in _batches(part for d in readable for part in _parts(d)):
            first = batch[0]
            corrections = [part.correction for part in batch]
            await self._counters.adjust(tenant, first.generation, first.grouping, corrections)

    async def _rewrite(self, tenant: str, difference: Difference) -> None:
        """Replace a record that cannot be read, unless an event of it is counted meanwhile."""
        for _ in range(_REWRITES):
            grouping, generation = difference.grouping, difference.generation
            first, *rest = (part.correction for part in _parts(difference))
            if await self._counters.adjust(
                tenant, generation, grouping, [first], unreadable=difference.unreadable
            ):
                for part in rest:
                    await self._counters.adjust(tenant, generation, grouping, [part])
                return
            try:
                found = await self._comparer.differences(
                    tenant, grouping, [difference.id], recent=False
                )
            except NotAudited:
                return
            if not found or found[0].unreadable is None:
                return
            difference = found[0]

    async def _audit(
        self,
        tenant: str,
        groups_of: GroupsOf,
        groupings: Iterable[Grouping],
        *,
        sample: int | None,
        recent: bool = False,
    ) -> TenantAudit:
        started = time.monotonic()
        generation: int | None = None
        compared = 0
        differing: list[Difference] = []
        notes: list[str] = []
        try:
            generation = (await self._comparer.check(tenant)).number
        except NotAudited as reason:
            groupings = ()
            notes.append(str(reason))
        for grouping in groupings:
            try:
                state = await self._comparer.check(tenant, grouping)
                ids = await groups_of(grouping, state.number)
                first = len(differing)
                for at in range(0, len(ids), SEGMENT_GROUPS):
                    segment = ids[at : at + SEGMENT_GROUPS]
                    settled, unsettled = await self._compare(
                        tenant, grouping, segment, recent=recent
                    )
                    compared += len(segment)
                    unknown = sum(difference.unknown for difference in settled)
                    differing += (d for d in settled if not d.unknown)
                    if unknown:
                        notes.append(
                            f"{grouping}: {unknown} groups have more than history, which lacks "
                            "offsets; the counters may be the only copy of these events"
                        )
                    if unsettled:
                        notes.append(f"{grouping}: differences of {unsettled} groups keep changing")
                    if len(differing) - first >= DIFFERING_MAX:
                        notes.append(f"{grouping}: too many groups differ; rebuild the counters")
                        break
            except NotAudited as reason:
                notes.append(f"{grouping}: {reason}")
        return TenantAudit(
            tenant=tenant,
            generation=generation,
            at_ms=self._now_ms(),
            duration_s=time.monotonic() - started,
            sample=sample,
            groups=compared,
            differing=differing,
            notes=notes,
        )

    async def _compare(
        self, tenant: str, grouping: Grouping, ids: Sequence[str], *, recent: bool
    ) -> tuple[list[Difference], int]:
        """Compare groups, and those that differ again until AGREEING comparisons agree.

        Return the groups that differ, and the number of those about which they did not agree. One
        comparison can be wrong for a moment: if an event was sent to two partitions, the counters
        have it from one of them and history from the other, and their watermarks pass the two at
        different times.
        """
        found = await self._comparer.differences(tenant, grouping, ids, recent=recent)
        agreed = {difference.id: (1, difference) for difference in found}
        settled: list[Difference] = []
        for _ in range(COMPARISONS_MAX - 1):
            if not agreed:
                break
            await asyncio.sleep(self._pause_s)
            before = agreed
            agreed = {}
            for difference in await self._comparer.differences(
                tenant, grouping, sorted(before), recent=recent
            ):
                times, last = before[difference.id]
                times = times + 1 if same_differences(last.cells, difference.cells) else 1
                if times == AGREEING:
                    settled.append(difference)
                else:
                    agreed[difference.id] = times, difference
        return settled, len(agreed)


GroupsOf = Callable[[Grouping, int], Awaitable[list[str]]]


def _parts(difference: Difference) -> list[Difference]:
    """Split the offers of a customer that has very many, so that no script is long."""
    fix = difference.correction
    offers = list(fix.offers.items())
    parts = [fix._replace(offers=dict(offers[:OFFERS_MAX]))]
    for at in range(OFFERS_MAX, len(offers), OFFERS_MAX):
        parts.append(Correction(fix.id, {}, {}, dict(offers[at : at + OFFERS_MAX])))
    return [difference._replace(correction=part) for part in parts]


def _batches(differing: Iterable[Difference]) -> Iterable[list[Difference]]:
    """Yield lists of one grouping and one generation, each small enough for one script."""
    batch: list[Difference] = []
    numbers = 0
    for difference in differing:
        size = _size(difference.correction)
        if batch and (
            len(batch) == ADJUST_GROUPS
            or numbers + size > _ADJUST_NUMBERS
            or difference.grouping != batch[0].grouping
            or difference.generation.number != batch[0].generation.number
            or difference.generation.day != batch[0].generation.day
        ):
            yield batch
            batch, numbers = [], 0
        batch.append(difference)
        numbers += size
    if batch:
        yield batch


def _size(fix: Correction) -> int:
    return 2 * len(fix.alltime) + 3 * len(fix.tiles) + 4 * len(fix.offers)


def make_auditor(
    counters: AuditedCounters,
    history: AuditedHistory,
    *,
    timezone_of: Callable[[str], Awaitable[str]],
    now_ms: Callable[[], int],
    wait_s: float = WAIT_S,
    pause_s: float = PAUSE_S,
    is_building: bool = False,
) -> Auditor:
    """Return an Auditor of these stores; see `Comparer` and `Auditor` for the waits."""
    comparer = Comparer(
        counters,
        history,
        timezone_of=timezone_of,
        now_ms=now_ms,
        wait_s=wait_s,
        is_building=is_building,
    )
    return Auditor(counters, history, comparer, now_ms=now_ms, pause_s=pause_s)
