"""Watermarks of a generation in Redis: fields of its meta hash."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from store.counters import Generation, Source
from store.redis.client import Client, redis_errors
from store.redis.keys import Keys, watermark_field

#: The topic id under which a generation under construction keeps the number of its commits.
BUILD_LOG: Final = "rebuild"


class RedisWatermarks:
    """Reader of watermarks. Every method raises StoreUnavailable."""

    def __init__(self, client: Client, prefix: str) -> None:
        self._client: Any = client  # the driver's types allow answers of both str and bytes
        self._keys = Keys(prefix)

    async def watermarks(self, generation: Generation, topic_id: str) -> Mapping[int, int]:
        """Return partition -> next offset to count."""
        return await self._watermarks(generation, "w", topic_id)

    async def first_watermarks(self, generation: Generation, topic_id: str) -> Mapping[int, int]:
        """Return partition -> the watermark that the generation was created with."""
        return await self._watermarks(generation, "f", topic_id)

    async def all_watermarks(self, generation: Generation) -> Mapping[Source, int]:
        """Return (topic id, partition) -> next offset, of every topic id ever counted."""
        return offsets_of(await self._meta(generation), "w")

    async def reach(self, generation: Generation) -> Mapping[Source, int]:
        """Return (topic id, partition) -> what is counted, or has to be before it is complete."""
        meta = await self._meta(generation)
        counted, targets = offsets_of(meta, "w"), offsets_of(meta, "t")
        return {s: max(counted.get(s, 0), targets.get(s, 0)) for s in counted | targets}

    async def previous(self, generation: Generation) -> Generation | None:
        """Return the generation that a rollback of `generation` would activate; None = none."""
        number = (await self._meta(generation)).get(b"previous")
        if not number:
            return None
        previous = generation._replace(number=int(number))
        return previous if await self._meta(previous) else None

    async def events(self, generation: Generation) -> int | None:
        """Return the number of events counted; None = made by a version that did not count them."""
        number = (await self._meta(generation)).get(b"events")
        return None if number is None else int(number)

    async def identity_slots(self, generation: Generation) -> set[int]:
        """Return the slots of arrival of which the generation remembers identities."""
        return slots_of(await self._meta(generation))

    async def build_watermark(
        self, building: Generation, topic_id: str, partition: int
    ) -> int | None:
        """Return a watermark of a generation under construction; None if it is not that.

        Without a token: of one that is not under construction any more.
        """
        meta = await self._meta(building)
        if meta.get(b"building", b"") != building.build_token.encode():
            return None
        value = meta.get(watermark_field("w", topic_id, partition).encode())
        return None if value is None else int(value)

    async def _watermarks(
        self, generation: Generation, kind: str, topic_id: str
    ) -> Mapping[int, int]:
        meta = await self._meta(generation)
        start = watermark_field(kind, topic_id, 0)[:-1].encode()
        return {int(k[len(start) :]): int(v) for k, v in meta.items() if k.startswith(start)}

    async def _meta(self, generation: Generation) -> Mapping[bytes, bytes]:
        async with redis_errors():
            meta: dict[bytes, bytes] = await self._client.hgetall(
                self._keys.meta(generation.tenant, generation.number)
            )
        return meta


def slots_of(meta: Mapping[bytes, bytes]) -> set[int]:
    """Return the slots of arrival of which a meta hash says that identities are remembered."""
    return {int(name[2:]) for name in meta if name[:2] in (b"d:", b"o:")}


def offsets_of(meta: Mapping[bytes, bytes], kind: str) -> dict[Source, int]:
    """Return (topic id, partition) -> offset, of the fields of one kind in a meta hash.

    Kinds: see `watermark_field`; `t`: offset to reach. The progress of a rebuild is left out.
    """
    found = {}
    for name, value in meta.items():
        of_kind, _, source = name.decode().partition(":")
        topic_id, _, partition = source.rpartition(":")
        if of_kind == kind and topic_id != BUILD_LOG:
            found[topic_id, int(partition)] = int(value)
    return found
