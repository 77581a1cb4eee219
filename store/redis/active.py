"""Active generations of many tenants, in few round trips."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Final

from store.counters import Counted, Generation
from store.redis.client import redis_errors
from store.redis.keys import Keys
from store.redis.old_generations import TENANTS_PER_CALL
from store.redis.watermarks import offsets_of

_STATE: Final = ("day", "timezone", "complete", "rolled")


async def active_generations(
    client: Any, keys: Keys, tenants: Sequence[str]
) -> AsyncIterator[Generation]:
    """Yield the active generation of each tenant that has one. Raises StoreUnavailable.

    Takes two round trips per `TENANTS_PER_CALL` tenants, when the first of them is asked for.
    """

    def ask(pipeline: Any, meta_key: str) -> None:
        pipeline.hmget(meta_key, _STATE)

    async for tenant, number, values in _active(client, keys, tenants, ask):
        generation = _generation(tenant, number, values)
        if generation is not None:
            yield generation


async def active_counted(
    client: Any, keys: Keys, tenants: Sequence[str], topic_id: str
) -> AsyncIterator[Counted]:
    """Yield the same, each with what it has counted of the topic."""

    def ask(pipeline: Any, meta_key: str) -> None:
        pipeline.hgetall(meta_key)

    async for tenant, number, meta in _active(client, keys, tenants, ask):
        generation = _generation(tenant, number, [meta.get(name.encode()) for name in _STATE])
        if generation is not None:
            yield Counted(generation, *(_of_topic(meta, kind, topic_id) for kind in ("w", "f")))


async def _active(
    client: Any, keys: Keys, tenants: Sequence[str], ask: Callable[[Any, str], None]
) -> AsyncIterator[tuple[str, int, Any]]:
    """Yield tenant, number and what `ask` asked of the meta of each active generation."""
    for first in range(0, len(tenants), TENANTS_PER_CALL):
        part = tenants[first : first + TENANTS_PER_CALL]
        async with redis_errors():
            pipeline = client.pipeline(transaction=False)
            for tenant in part:
                pipeline.get(keys.active(tenant))
            numbers = await pipeline.execute()
            active = [(t, int(n)) for t, n in zip(part, numbers, strict=True) if n is not None]
            pipeline = client.pipeline(transaction=False)
            for tenant, number in active:
                ask(pipeline, keys.meta(tenant, number))
            answers = await pipeline.execute() if active else []
        for (tenant, number), answer in zip(active, answers, strict=True):
            yield tenant, number, answer


def _of_topic(meta: Mapping[bytes, bytes], kind: str, topic_id: str) -> dict[int, int]:
    return {p: offset for (of, p), offset in offsets_of(meta, kind).items() if of == topic_id}


def _generation(tenant: str, number: int, values: Sequence[bytes | None]) -> Generation | None:
    """Return the generation with these values of _STATE; None if its meta was lost."""
    day, timezone, complete, rolled = values
    if day is None or timezone is None or rolled is None:
        return None
    return Generation(
        tenant=tenant,
        number=number,
        day=int(day),
        timezone=timezone.decode(),
        complete=complete == b"1",
        rolled=int(rolled),
    )
