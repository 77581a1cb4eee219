"""Copies of what counting needs of the catalogs, for workers that start without Postgres."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from store.records import CountingRules
from store.redis.client import Client, redis_errors
from store.redis.keys import Keys

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(CountingRules).decode


class RedisCatalogCopies:
    """Copies beside the counters. Every method raises StoreUnavailable."""

    def __init__(self, client: Client, prefix: str) -> None:
        self._client: Any = client
        self._keys = Keys(prefix)

    async def read(self, tenants: Sequence[str]) -> Mapping[str, CountingRules]:
        """Return the copies that exist and that this version can read."""
        async with redis_errors():
            pipeline = self._client.pipeline(transaction=False)
            for tenant in tenants:
                pipeline.get(self._keys.rules(tenant))
            values = await pipeline.execute() if tenants else []
        found = {}
        for value in values:
            if value is not None:
                with contextlib.suppress(msgspec.MsgspecError):
                    rules = _decode(value)
                    found[rules.tenant] = rules
        return found

    async def write(self, rules: Iterable[CountingRules]) -> None:
        """Write copies, replacing earlier ones."""
        async with redis_errors():
            pipeline = self._client.pipeline(transaction=False)
            for each in rules:
                pipeline.set(self._keys.rules(each.tenant), _encode(each))
            if len(pipeline):
                await pipeline.execute()
