"""Calls of the script that adds pending deltas to their groups."""

from __future__ import annotations

from typing import Any, Final

from store.redis.client import Client, Script
from store.redis.keys import Keys
from store.redis.pipelined import PipelinedScript

#: Bytes of pending parts that one call sums, unless one part has more, and groups that it changes:
#: 3 to 7 ms, 10 where each event has groups of its own.
BYTES: Final = 56_000
GROUPS: Final = 150
#: Calls of several tenants that are sent together: a round trip of its own costs little, and no
#: question waits for several.
CALLS_MAX: Final = 1


class Fold:
    """Adds pending deltas of a generation to their groups; see `lua/fold.lua`."""

    def __init__(self, client: Client, prefix: str, *, groups_max: int) -> None:
        """`groups_max`: maximum groups of a grouping."""
        self._client = client
        self._keys = Keys(prefix)
        self._groups_max = groups_max
        script = Script("fold", include=["parts", "counting"])
        self._script = PipelinedScript(script, calls_max=CALLS_MAX)

    async def __call__(self, tenant: str, generation: int) -> list[Any]:
        """Fold a bounded part; return the answer of the script. Raises StoreUnavailable."""
        return await self._script(
            self._client, self._keys.active(tenant), generation, BYTES, GROUPS, self._groups_max
        )

    async def all(self, tenant: str, generation: int) -> None:
        """Fold until nothing is pending. Raises StoreUnavailable."""
        while True:
            outcome, pending, *_ = await self(tenant, generation)
            if outcome != b"ok" or not pending:
                return
