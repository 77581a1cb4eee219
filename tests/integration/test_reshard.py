"""`redis-cli --cluster reshard` moves tenants between nodes while their events are counted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from cli.embedded.programs import find_program
from store.counters import Committed, Generation, Refused
from store.records import GROUPINGS, CounterPage, Event, StoreUnavailable
from store.redis.client import open_client
from store.redis.counters import RedisCounters
from store.settings import Settings
from store.windows import PERIODS, window_of
from tests.support.commits import UTC, commit
from tests.support.contract import LOG, question
from tests.support.events import TODAY, make_event
from tests.support.oracle import groups_of, page_of
from tests.support.redis_cluster import CliCluster, cli_cluster

#: Their slots are among the first SLOTS of the cluster.
TENANTS = ("t15", "t92", "t188")
SLOTS = 120
#: Times that the slots move away and back.
ROUNDS = 3


class TenantLoad:
    """Commits batches of one tenant, sends again what was refused, and reads in between."""

    def __init__(self, counters: RedisCounters, generation: Generation) -> None:
        self.counters, self.generation = counters, generation
        self.tenant = generation.tenant
        self.counted: list[Event] = []
        self.refused = self.lost_answers = self.pages = self.lost_tail = 0

    def _batch(self) -> list[Event]:
        first = len(self.counted)
        return [
            make_event(
                tenant=self.tenant,
                customer=f"C-{n % 600}",
                offer=f"off_{n % 70}",
                creative=f"cr_{n % 90}",
                channel=f"ch_{n % 5}",
            )
            for n in range(first, first + 50)
        ]

    async def _retried(self, call: Any) -> Any:
        async with asyncio.timeout(60):
            while True:
                try:
                    return await call()
                except StoreUnavailable:
                    self.refused += 1
                    await asyncio.sleep(0)

    async def run(self, stop: asyncio.Event) -> None:
        n = 0
        while not stop.is_set():
            batch, start, keep = self._batch(), len(self.counted), n % 3 > 0
            answer = await self._retried(
                lambda b=batch, s=start, k=keep: commit(
                    self.counters, self.generation, b, s, keep_pending=k
                )
            )
            if isinstance(answer, Refused):
                if self.take_tail(answer):
                    continue
                # The answer of an earlier try was lost.
                assert answer == Refused(1, TODAY, start + len(batch)), start
                self.lost_answers += 1
            else:
                assert isinstance(answer, Committed), answer
                assert not answer.damaged, answer
            self.counted += batch
            n += 1
            if n % 5 == 0:
                await self.fold()
            await self._check_customers()

    def take_tail(self, refused: Refused) -> bool:
        """Go back to the watermark of a replica that lacked the last commits, if it did.

        A worker does the same: it reads the records again.
        """
        watermark = refused.watermark or 0
        if watermark >= len(self.counted):
            return False
        self.lost_tail += len(self.counted) - watermark
        del self.counted[watermark:]
        return True

    async def fold(self) -> None:
        while (await self._retried(lambda: self.counters.fold(self.generation))).pending:
            pass

    async def _check_customers(self) -> None:
        """Check that a page, if there is one, is that of all events until now."""
        try:
            answer = await self.counters.read(self._question("customer", "alltime", limit=20))
        except StoreUnavailable:
            return
        if isinstance(answer, CounterPage):
            groups = groups_of(self.counted, "customer", window_of("alltime", TODAY), UTC)
            assert answer.page == page_of(groups, 20, 0)
            self.pages += 1

    def _question(self, group_by: Any, period: Any, *, limit: int) -> Any:
        return question(group_by, period, limit=limit)._replace(tenant=self.tenant)

    async def check(self) -> None:
        await self.fold()
        found = await self.counters.generation(self.tenant)
        assert found is not None
        assert found.number == 1
        assert found.complete
        assert await self.counters.watermarks(found, LOG) == {0: len(self.counted)}
        for group_by in GROUPINGS:
            for period in PERIODS:
                answer = await self.counters.read(self._question(group_by, period, limit=1_000))
                assert isinstance(answer, CounterPage), (answer, group_by, period)
                groups = groups_of(self.counted, group_by, window_of(period, TODAY), UTC)
                assert answer.page == page_of(groups, 1_000, 0), (group_by, period)


@pytest.fixture
def programs(request: pytest.FixtureRequest) -> tuple[Path, Path]:
    """Return redis-server and redis-cli of the system."""
    server = find_program("redis-server", "/usr/bin", "/usr/sbin")
    cli = find_program("redis-cli", "/usr/bin")
    if server is None or cli is None:
        lacking = "no redis-server and redis-cli, which Debian's package redis has"
        if request.config.getoption("services") == "real":
            pytest.fail(lacking)
        pytest.skip(lacking)
    return server, cli


def settings_of(cluster: CliCluster) -> Settings:
    """Return settings of the second node: the first one may end."""
    return Settings(redis_url=cluster.nodes[1].url, redis_cluster=True)


async def under_load(
    cluster: CliCluster, disturb: Callable[[Sequence[TenantLoad]], Awaitable[None]]
) -> None:
    """Count three tenants of the first node while `disturb` runs; check the result."""
    async with open_client(settings_of(cluster), timeout_s=5, retries=0) as client:
        counters, stop = RedisCounters(client, "is"), asyncio.Event()
        loads = []
        for tenant in TENANTS:
            generation = await counters.create(
                tenant, day=TODAY, timezone="UTC", complete=True, watermarks=()
            )
            loads.append(TenantLoad(counters, generation))
        async with asyncio.TaskGroup() as group:
            for load in loads:
                group.create_task(load.run(stop))
            await disturb(loads)
            stop.set()
        for load in loads:
            await load.check()
            assert load.pages > 0
        assert sum(load.refused for load in loads) > 0, "something happened under load"


@pytest.mark.long
def test_counters_are_exact_after_slots_moved_under_load(
    tmp_path: Path, programs: tuple[Path, Path]
) -> None:
    with cli_cluster(tmp_path, *programs) as cluster:

        async def reshard(loads: Sequence[TenantLoad]) -> None:
            home, away = cluster.nodes[:2]
            for _ in range(ROUNDS):
                await cluster.reshard(home, away, SLOTS)
                await cluster.reshard(away, home, SLOTS)

        asyncio.run(under_load(cluster, reshard))


@pytest.mark.long
def test_counters_are_exact_after_a_primary_was_killed_under_load(
    tmp_path: Path, programs: tuple[Path, Path]
) -> None:
    """Its replica is promoted; commits that it lacks are read again."""
    with cli_cluster(tmp_path, *programs, node_timeout_ms=3_000) as cluster:

        async def fail_over(loads: Sequence[TenantLoad]) -> None:
            await until(lambda: all(len(load.counted) > 500 for load in loads))
            async with open_client(settings_of(cluster), timeout_s=5, retries=0) as client:
                idle = RedisCounters(client, "is")
                assert await idle.generation(TENANTS[0]) is not None
                cluster.nodes[0].kill()
                await reads_again(idle)
            reached = [len(load.counted) for load in loads]
            await until(
                lambda: all(
                    len(load.counted) > before + 500
                    for load, before in zip(loads, reached, strict=True)
                )
            )

        asyncio.run(under_load(cluster, fail_over))


async def reads_again(counters: RedisCounters) -> None:
    """Return once the first tenant can be read, by pipelines alone."""
    async with asyncio.timeout(60):
        while True:
            try:
                assert await counters.generation(TENANTS[0]) is not None
                return
            except StoreUnavailable:
                await asyncio.sleep(0.05)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():  # noqa: ASYNC110 - the loads have no event for it
            await asyncio.sleep(0.05)
