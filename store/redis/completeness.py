"""Why a generation in Redis is not complete: fields of its meta hash."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from store.counters import Generation, Missing, Position, Shortfall
from store.offsets import Gap
from store.redis.client import Client, Script
from store.redis.keys import gap_field, watermark_field
from store.redis.watermarks import RedisWatermarks, offsets_of


class RedisCompleteness(RedisWatermarks):
    """Reasons for which generations are not complete. Every method raises StoreUnavailable."""

    def __init__(self, client: Client, prefix: str) -> None:
        super().__init__(client, prefix)
        self._note_gap = Script("note_gap")
        self._close_gaps = Script("close_gaps")
        self._lower = Script("lower")
        self._doubt = Script("doubt")
        self._evicted = Script("evicted")
        self._prove = Script("prove")

    async def missing(self, generation: Generation) -> Missing:
        """Return what keeps the generation from being complete."""
        return missing_of(await self._meta(generation))

    async def note_gap(self, generation: Generation, gap: Gap) -> bool:
        """Record offsets that these counters never saw, and that history has or may have."""
        answer = await self._note_gap(
            self._client,
            self._keys.active(generation.tenant),
            generation.number,
            f"{gap.topic_id}:{gap.partition}",
            gap.first_offset,
            gap.next_offset,
        )
        return bool(answer[0] == b"ok")

    async def close_gaps(self, generation: Generation, gaps: Sequence[Gap]) -> bool:
        """Forget gaps that turned out to hold no event; return whether it is complete now."""
        answer = await self._close_gaps(
            self._client,
            self._keys.active(generation.tenant),
            generation.number,
            *map(gap_field, gaps),
        )
        return bool(answer[1] == b"1")

    async def doubt(self, building: Generation) -> bool:
        """Note that a generation under construction lacks rows of history; False if it is gone."""
        answer = await self._doubt(
            self._client,
            self._keys.active(building.tenant),
            building.number,
            building.build_token,
        )
        return bool(answer[0] == b"ok")

    async def mark_evicted(self, generation: Generation, at_ms: int) -> bool:
        """Record that the generation may lack keys; return whether it was not recorded before."""
        active = self._keys.active(generation.tenant)
        return bool((await self._evicted(self._client, active, generation.number, at_ms))[0])

    async def mark_complete(self, generation: Generation) -> None:
        """Record that a generation that started empty has all of history now."""
        await self._prove(self._client, self._keys.active(generation.tenant), generation.number)

    async def lower_watermark(self, tenant: str, number: int, position: Position) -> None:
        """Lower a watermark of a generation that is not active, where it is higher."""
        field = watermark_field("w", position.topic_id, position.partition)
        await self._lower(self._client, self._keys.active(tenant), number, field, position.offset)


def missing_of(meta: Mapping[bytes, bytes]) -> Missing:
    """Return the reasons that the fields of a meta hash give.

    Generations of older versions that started empty have no field `unproven`.
    """
    counted = offsets_of(meta, "w")
    targets = sorted(offsets_of(meta, "t").items())
    behind = [Shortfall(source, counted.get(source, 0), target) for source, target in targets]
    gaps = []
    for name, value in meta.items():
        kind, _, rest = name.decode().partition(":")
        if kind == "gap":
            topic_id, partition, first = rest.split(":")
            gaps.append(Gap(topic_id, int(partition), int(first), int(value)))
    gaps.sort()
    evicted = b"evicted" in meta
    incomplete = meta.get(b"complete") == b"0"
    damaged = meta.get(b"damaged", b"").decode(errors="replace")
    outdated = bool(meta) and b"format" not in meta
    unsettled = b"unsettled" in meta
    others = behind or gaps or evicted or damaged or outdated or unsettled
    unproven = b"unproven" in meta or (incomplete and not others)
    return Missing(behind, gaps, unproven, evicted, damaged, outdated, unsettled)
