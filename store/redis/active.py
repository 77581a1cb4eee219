"""Active generations of many tenants, in few round trips."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Final

from store.counters import Counted, Generation
from store.redis.client import redis_errors
from store.redis.keys import Keys
from store.redis.watermarks import offsets_of

#: Tenants of one pipeline: Redis serves others between its commands.
TENANTS_PER_CALL: Final = 500
_STATE: Final = ("day", "timezone", "complete", "rolled", "shards")


async def active_generations(
    client: Any, keys: Keys, tenants: Sequence[str]
) -> AsyncIterator[Generation]:
    """Yield the active generation of each tenant that has one. Raises StoreUnavailable.

    Those of a tenant's other shards follow. Takes two round trips per `TENANTS_PER_CALL` tenants,
    when the first of them is asked for, and two more if some of them have several shards.
    """
    async for generation, _ in active_fields(client, keys, tenants, ()):
        yield generation


async def active_fields(
    client: Any, keys: Keys, tenants: Sequence[str], fields: Sequence[str]
) -> AsyncIterator[tuple[Generation, Sequence[bytes | None]]]:
    """Yield the same, each with the values of these fields of its meta."""

    def ask(pipeline: Any, meta_key: str) -> None:
        pipeline.hmget(meta_key, (*_STATE, *fields))

    def state(values: Sequence[bytes | None]) -> Sequence[bytes | None]:
        return values[: len(_STATE)]

    async for generation, values in _generations(client, keys, tenants, ask, state):
        yield generation, values[len(_STATE) :]


async def active_counted(
    client: Any, keys: Keys, tenants: Sequence[str], topic_id: str
) -> AsyncIterator[Counted]:
    """Yield the same, each with what it has counted of the topic."""

    def ask(pipeline: Any, meta_key: str) -> None:
        pipeline.hgetall(meta_key)

    def state(meta: Mapping[bytes, bytes]) -> Sequence[bytes | None]:
        return [meta.get(name.encode()) for name in _STATE]

    async for generation, meta in _generations(client, keys, tenants, ask, state):
        watermarks, starts = (_of_topic(meta, kind, topic_id) for kind in ("w", "f"))
        yield Counted(generation, watermarks, starts, int(meta.get(b"pending", 0)))


async def outdated_tenants(client: Any, keys: Keys, tenants: Sequence[str]) -> list[str]:
    """Return those of the tenants whose active generation has identities of an older format."""
    found = active_fields(client, keys, tenants, ("format",))
    return [generation.tenant async for generation, (format_,) in found if format_ is None]


async def _generations(
    client: Any,
    keys: Keys,
    tenants: Sequence[str],
    ask: Callable[[Any, str], None],
    state: Callable[[Any], Sequence[bytes | None]],
) -> AsyncIterator[tuple[Generation, Any]]:
    """Yield each active generation and what `ask` asked of its meta, those of shards last.

    `state` returns the values of _STATE in such an answer.
    """
    for first in range(0, len(tenants), TENANTS_PER_CALL):
        part, shards = tenants[first : first + TENANTS_PER_CALL], list[str]()
        async for tenant, number, answer in _active(client, keys, part, ask):
            generation = _generation(tenant, number, state(answer))
            if generation is not None:
                yield generation, answer
                shards += generation.layout.others
        async for each in _generations(client, keys, shards, ask, state):
            yield each


async def _active(
    client: Any, keys: Keys, tenants: Sequence[str], ask: Callable[[Any, str], None]
) -> AsyncIterator[tuple[str, int, Any]]:
    """Yield name, number and what `ask` asked of the meta of each active generation."""
    async with redis_errors():
        pipeline = client.pipeline(transaction=False)
        for tenant in tenants:
            pipeline.get(keys.active(tenant))
        numbers = await pipeline.execute()
        active = [(t, int(n)) for t, n in zip(tenants, numbers, strict=True) if n is not None]
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
    day, timezone, complete, rolled, shards = values
    if day is None or timezone is None or rolled is None:
        return None
    return Generation(
        tenant=tenant,
        number=number,
        day=int(day),
        timezone=timezone.decode(),
        complete=complete == b"1",
        rolled=int(rolled),
        shards=int(shards or 1),
    )
