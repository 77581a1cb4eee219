"""One script for each shard of a tenant, all at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from store.records import Incomplete
from store.shards import Layout

#: Attempts of one question: a rebuild or a rollback may activate other shards meanwhile.
ATTEMPTS: Final = 3

#: Runs the script at one shard, given its name and the shards that the reader expects of shard 0:
#: `1`, or `number@generation`; empty = another shard. Returns ok and more, or the reason why not.
Call = Callable[[str, str], Awaitable[list[Any]]]


class KnownLayouts:
    """The shards of tenants with several, as shard 0 has said last."""

    def __init__(self) -> None:
        self._layouts: dict[str, Layout] = {}

    def get(self, tenant: str) -> Layout | None:
        """Return the shards of a tenant; None = it has one, or is not known."""
        return self._layouts.get(tenant)

    def learn(self, tenant: str, answer: Sequence[Any]) -> None:
        """Take over the answer `sharded` of shard 0."""
        layout = Layout(tenant, int(answer[2]), int(answer[1]))
        if layout.shards > 1:
            self._layouts[tenant] = layout
        else:
            self.forget(tenant)

    def forget(self, tenant: str) -> None:
        """Ask shard 0 again with the next question."""
        self._layouts.pop(tenant, None)


class ShardScripts:
    """Calls of a script at all shards of a tenant.

    The first question about a tenant with several shards takes two round trips, all others one.
    """

    def __init__(self, layouts: KnownLayouts) -> None:
        self._layouts = layouts

    async def ask(
        self, tenant: str, call: Call, *, customer: str | None = None
    ) -> Sequence[list[Any]] | Incomplete:
        """Return the answers of the shards, that of shard 0 first, or a reason why one has none.

        With `customer`, only shard 0, which decides for all, and the customer's shard are asked.
        All answers are of one generation.
        """
        reason = Incomplete("no_generation")
        for _ in range(ATTEMPTS):
            layout = self._layouts.get(tenant)
            expected = f"{layout.shards}@{layout.generation}" if layout else "1"
            answers = await asyncio.gather(
                call(tenant, expected), *(call(name, "") for name in _others(layout, customer))
            )
            if answers[0][0] == b"sharded":
                self._layouts.learn(tenant, answers[0])
                continue
            reasons = [Incomplete(each[0].decode()) for each in answers if each[0] != b"ok"]
            if not reasons:
                return answers
            reason = reasons[0]
            if layout is None or reason.reason != "no_generation":
                return reason
            # Another generation may have become active after shard 0 was read: ask again.
            self._layouts.forget(tenant)
        return reason


def _others(layout: Layout | None, customer: str | None) -> list[str]:
    """Return the names of the shards to ask besides shard 0."""
    if layout is None:
        return []
    if customer is None:
        return layout.others
    name = layout.name_of(customer)
    return [] if name == layout.tenant else [name]
