"""The shards of tenants in Redis: their names, and what two generations of them have counted."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple

from store.counters import Shortfall, Source
from store.offsets import Gap
from store.redis.active import active_generations
from store.redis.client import Client, Script, redis_errors
from store.redis.completeness import missing_of
from store.redis.keys import Keys
from store.redis.watermarks import offsets_of, slots_of
from store.shards import Layout, is_shard

#: Highest numbers of a tenant's generations that are looked at.
NUMBERS_MAX: Final = 100


class LayoutState(NamedTuple):
    """What the shards of one generation have, together."""

    layout: Layout
    reach: Mapping[Source, int]
    """Source -> highest offset that one has counted, or has to before it is complete."""
    lowest: Mapping[Source, int]
    """Source -> offset below which all have counted everything; those of `reach`."""
    events: int | None
    """Number of events counted; None = a version that did not count them has made it."""
    gaps: Sequence[Gap]
    """Offsets that all of them lack."""
    slots: Collection[int]
    """Slots of arrival of which identities are remembered."""


class RedisShards:
    """Shards of all tenants. Every method raises StoreUnavailable."""

    def __init__(self, client: Client, prefix: str) -> None:
        self._client: Any = client
        self._keys = Keys(prefix)
        self._retire = Script("retire")
        self._settle = Script("settle")

    async def names(self, tenants: Sequence[str]) -> list[str]:
        """Return the names of all shards of the tenants' active generations."""
        active = active_generations(self._client, self._keys, tenants)
        return [generation.tenant async for generation in active]

    async def layout(self, tenant: str, number: int) -> Layout:
        """Return the shards of a generation, also of one that is being dropped."""
        async with redis_errors():
            pipeline = self._client.pipeline(transaction=False)
            pipeline.hget(self._keys.meta(tenant, number), "shards")
            pipeline.hget(self._keys.dropped(tenant, number), "shards")
            found = await pipeline.execute()
        return Layout(tenant, number, int(found[0] or found[1] or 1))

    async def layouts(self, tenant: str) -> list[Layout]:
        """Return the shards of all generations of a tenant, also of dropped ones."""
        async with redis_errors():
            last = int(await self._client.get(self._keys.last(tenant)) or 0)
            numbers = range(max(1, last - NUMBERS_MAX + 1), last + 1)
            pipeline = self._client.pipeline(transaction=False)
            for number in numbers:
                pipeline.hget(self._keys.meta(tenant, number), "shards")
                pipeline.hget(self._keys.dropped(tenant, number), "shards")
            found = await pipeline.execute() if numbers else []
        counts = zip(numbers, found[::2], found[1::2], strict=True)
        return [Layout(tenant, n, int(meta or dropped or 1)) for n, meta, dropped in counts]

    async def state(self, layout: Layout) -> LayoutState:
        """Return what the shards of a generation have; those that are gone have nothing."""
        metas = [await self._meta(layout, name) for name in layout.names]
        reach: dict[Source, int] = {}
        for meta in metas:
            for kind in ("w", "t"):
                join(reach, offsets_of(meta, kind))
        watermarks = [offsets_of(meta, "w") for meta in metas]
        events = [int(meta[b"events"]) if b"events" in meta else None for meta in metas]
        gaps = [set(missing_of(meta).gaps) for meta in metas]
        return LayoutState(
            layout=layout,
            reach=reach,
            lowest={source: min(each.get(source, 0) for each in watermarks) for source in reach},
            events=None if events[0] is None else sum(n or 0 for n in events),
            gaps=sorted(set.intersection(*gaps)),
            slots={slot for meta in metas for slot in slots_of(meta)},
        )

    async def _meta(self, layout: Layout, name: str) -> Mapping[bytes, bytes]:
        """Return the meta of a shard of a generation, whether that is active or not."""
        number = layout.generation
        async with redis_errors():
            if is_shard(name):
                keys = self._keys.active(name), self._keys.retired(name)
                active, retired = await self._client.mget(*keys)
                number = int(active or retired or 0)
            meta: dict[bytes, bytes] = await self._client.hgetall(self._keys.meta(name, number))
        return meta

    async def retire(self, layout: Layout) -> dict[Source, int]:
        """End the commits to all shards but shard 0 of a generation that is not active any more.

        Return the highest offsets that any of them has counted, or has yet to count.
        """
        return await self._move(layout, "retire")

    async def restore(self, layout: Layout) -> None:
        """Allow commits to them again, before a rollback to the generation."""
        await self._move(layout, "restore")

    async def end(self, layout: Layout) -> list[tuple[str, int]]:
        """Make shards inactive for good, but for shard 0; return name and number of each.

        A shard that was lost and made again has two numbers.
        """
        return [(name, number) for name in layout.others for number in await self.end_one(name)]

    async def end_one(self, name: str) -> range:
        """Make one shard other than shard 0 inactive for good; return its numbers."""
        async with redis_errors():
            last = await self._client.get(self._keys.last(name))
            await self._client.unlink(self._keys.active(name), self._keys.retired(name))
        return range(1, int(last or 0) + 1)

    async def _move(self, layout: Layout, action: str) -> dict[Source, int]:
        reach: dict[Source, int] = {}
        for name in layout.others:
            _, *flat = await self._retire(self._client, self._keys.active(name), "", action)
            join(reach, _offsets(flat))
        return reach

    async def settle(self, tenant: str) -> list[Shortfall]:
        """Let an unsettled generation be complete, once it has what the one before has counted.

        Its shards get targets where they are behind; return those. The shards of the generation
        before get no more commits. Does nothing to a settled one; safe to interrupt and repeat.
        """
        async with redis_errors():
            active = await self._client.get(self._keys.active(tenant))
            if active is None:
                return []
            names = ("unsettled", "given_up", "shards")
            meta = await self._client.hmget(self._keys.meta(tenant, int(active)), names)
        if meta[0] is None:
            return []
        former = await self.layout(tenant, int(meta[0]))
        reach = await self.retire(former)
        join(reach, (await self.state(Layout(tenant, former.generation))).reach)
        for source in (meta[1] or b"").decode().split():
            topic_id, _, partition = source.rpartition(":")
            reach.pop((topic_id, int(partition)), None)
        flat: list[str | int] = []
        for (topic_id, partition), offset in sorted(reach.items()):
            flat += [f"{topic_id}:{partition}", offset]
        layout = Layout(tenant, int(active), int(meta[2] or 1))
        behind: dict[Source, Shortfall] = {}
        for name in reversed(layout.names):  # shard 0 last: it says that all are settled
            number, before = layout.generation, str(former.generation)
            if name != tenant:
                async with redis_errors():
                    number, before = await self._client.get(self._keys.active(name)) or 0, ""
            answer = await self._settle(
                self._client, self._keys.active(name), int(number), before, *flat
            )
            for each in shortfalls(answer[1:]):
                found = behind.setdefault(each.source, each)
                if each.watermark < found.watermark:
                    behind[each.source] = each
        return sorted(behind.values())


def join(reach: dict[Source, int], other: Mapping[Source, int]) -> None:
    """Raise the offsets in `reach` to those of `other`."""
    for source, offset in other.items():
        reach[source] = max(offset, reach.get(source, offset))


def shortfalls(flat: Sequence[Any]) -> list[Shortfall]:
    """Return the shortfalls of an answer of a script: source, watermark, target, ..."""
    found = []
    for i in range(0, len(flat), 3):
        topic_id, _, partition = flat[i].decode().rpartition(":")
        found.append(Shortfall((topic_id, int(partition)), int(flat[i + 1]), int(flat[i + 2])))
    return found


def _offsets(flat: Sequence[Any]) -> dict[Source, int]:
    found = {}
    for source, offset in zip(flat[::2], flat[1::2], strict=True):
        topic_id, _, partition = source.decode().rpartition(":")
        found[topic_id, int(partition)] = int(offset)
    return found
