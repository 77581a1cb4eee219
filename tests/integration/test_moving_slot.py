"""A slot of a Redis cluster moves while its tenant is counted: nothing is lost or counted twice.

The steps are those of `redis-cli --cluster reshard`: the slot is migrating on one node and
importing on the other, its keys move a few at a time, and then it belongs to the other node.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
import redis

from store.counters import Committed, Generation
from store.records import CounterPage, Event, StoreUnavailable
from store.redis.client import make_client
from store.redis.counters import RedisCounters
from store.settings import Settings
from store.windows import Period
from tests.support.commits import commit, create
from tests.support.contract import LOG, assert_counts, question
from tests.support.events import TODAY, make_event
from tests.support.redis_cluster import ClusterNode, redis_cluster

RANKED: tuple[Period, ...] = ("daily", "weekly", "monthly")


class MovingSlot:
    """The slot of the tenant `acme`, which moves from one node to the other and back."""

    def __init__(self, nodes: list[ClusterNode]) -> None:
        self._nodes = nodes
        self._clients: list[Any] = [redis.Redis.from_url(node.url) for node in nodes]
        self._ids = [client.execute_command("CLUSTER", "MYID").decode() for client in self._clients]
        self.slot = int(self._clients[0].execute_command("CLUSTER", "KEYSLOT", "{acme/0}"))
        self._owner = 0 if self.slot <= 8191 else 1

    def begin(self) -> None:
        source, target = self._owner, 1 - self._owner
        setslot = ("CLUSTER", "SETSLOT", self.slot)
        self._clients[target].execute_command(*setslot, "IMPORTING", self._ids[source])
        self._clients[source].execute_command(*setslot, "MIGRATING", self._ids[target])

    def move(self, keys: int, *, first: bytes | None = None) -> int:
        """Move up to `keys` keys, `first` before the others; return how many are left."""
        source, node = self._clients[self._owner], self._nodes[1 - self._owner]
        found = source.execute_command("CLUSTER", "GETKEYSINSLOT", self.slot, 10_000)
        found.sort(key=lambda key: key != first)
        for key in found[:keys]:
            source.execute_command("MIGRATE", "127.0.0.1", node.port, key, 0, 5_000)
        return len(found) - len(found[:keys])

    def end(self) -> None:
        target = 1 - self._owner
        for client in (self._clients[target], self._clients[self._owner]):
            client.execute_command("CLUSTER", "SETSLOT", self.slot, "NODE", self._ids[target])
        self._owner = target

    def close(self) -> None:
        for client in self._clients:
            client.close()


class Writer:
    """Commits batches in order, each once, and sends again what was refused."""

    def __init__(self, counters: RedisCounters, generation: Generation) -> None:
        self.counters, self.generation = counters, generation
        self.counted: list[Event] = []
        self.refused = 0
        self._numbers = itertools.count()

    async def try_commit(self, *, keep_pending: bool) -> bool:
        """Commit events of known and of new groups; return whether they are counted."""
        n = next(self._numbers)
        batch = [
            make_event(customer="C-known", offer="off_known", creative="cr_known"),
            make_event(customer=f"C-{n}", offer=f"off_{n}", creative=f"cr_{n}", channel=f"ch_{n}"),
        ]
        start = len(self.counted)
        try:
            answer = await commit(
                self.counters, self.generation, batch, start, keep_pending=keep_pending
            )
        except StoreUnavailable:
            self.refused += 1
            return False
        assert isinstance(answer, Committed), answer
        assert not answer.damaged, answer
        self.counted += batch
        return True

    async def try_fold(self) -> None:
        try:
            assert not (await self.counters.fold(self.generation)).damaged
        except StoreUnavailable:
            self.refused += 1

    async def try_ranks(self) -> None:
        """Build ranks of two more customers, or drop one rank."""
        ranks, n = self.counters.ranks, next(self._numbers)
        try:
            if n % 7 == 6:
                await ranks.drop(self.generation, [RANKED[n % 3]])
            else:
                await ranks.build(self.generation, RANKED, customers_max=2)
        except StoreUnavailable:
            self.refused += 1


@pytest.mark.parametrize("first", ["active", "1:meta", "1:u:C-known", "1:own", ""])
def test_a_commit_is_whole_or_refused_whole_at_each_step_of_a_move(
    tmp_path: Path, first: str
) -> None:
    """`first` is the key that moves first: each tells a node something else about the tenant."""

    async def go(nodes: list[ClusterNode]) -> None:
        client: Any = make_client(
            Settings(redis_url=nodes[0].url, redis_cluster=True), timeout_s=5, retries=0
        )
        slot = MovingSlot(nodes)
        try:
            counters = RedisCounters(client, "is", all_ranks=False)
            writer = Writer(counters, await create(counters))

            async def change() -> None:
                await writer.try_commit(keep_pending=False)
                await writer.try_commit(keep_pending=True)
                await writer.try_ranks()
                await writer.try_fold()
                found = await counters.generation("acme")
                assert found is None or found.number == 1, "no other generation is made"

            for _ in range(3):
                await change()
            assert writer.refused == 0
            for _ in range(2):
                slot.begin()
                await change()
                key = f"is:{{acme/0}}:{first}".encode()
                while slot.move(5, first=key):
                    await change()
                    key = b""
                await change()
                slot.end()
                async with asyncio.timeout(30):  # until the client knows the new node
                    while not await writer.try_commit(keep_pending=False):
                        pass
            assert writer.refused > 0, "some were refused while the slot moved"
            while (await counters.fold(writer.generation)).pending:
                pass
            generation = await counters.generation("acme")
            assert generation is not None
            assert generation.complete
            assert await counters.watermarks(generation, LOG) == {0: len(writer.counted)}
            await assert_counts(counters, writer.counted, TODAY)
            left: Collection[Period] = RANKED
            while left:
                building = await counters.ranks.build(generation, RANKED, customers_max=5)
                assert building is not None
                left = building.left
            await assert_counts(counters, writer.counted, TODAY)
            page = await counters.read(question("customer", "alltime"))
            assert isinstance(page, CounterPage)
        finally:
            slot.close()
            await client.aclose()

    with redis_cluster(tmp_path) as nodes:
        asyncio.run(go(nodes))
