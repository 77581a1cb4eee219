"""A response is a snapshot: its rows, total and page are of one commit, during writes too.

The writer makes a mix of two commits visible. Each commit adds one interaction to every existing
group and creates one group with as many, so after commit n there are FIRST_GROUPS + n groups with n
interactions each: any two numbers of a response show whether they are of one commit.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator, Sequence

import httpx
import pytest

from store.records import GROUPINGS, Event
from store.settings import Settings
from store.windows import DAY_MS
from tests.support.events import NOW_MS, make_event
from tests.support.reader_pair import ReaderPair, Tenant, open_reader_pair

FIRST_GROUPS = 5
#: The writer ends when each reader has seen this many different commits.
MOMENTS_SEEN = 25
COMMITS_MAX = 190
PERIODS = ("days=7", "days=30", "days=365", "days=3&window=exact", "days=20&window=exact")
#: Windows that hold the first day's events after as many midnights as there may be.
LONG_PERIODS = ("days=30", "days=365", "days=20&window=exact", "days=25&window=exact")
#: With midnights: commits per day, and the commit of a day from which on the counters are rolled.
COMMITS_A_DAY, ROLL_FROM = 10, 5
PAGES = ((500, 0), (3, 0), (4, 3), (1, 7))


@pytest.fixture
def stores(redis_url: str, database_url: str) -> Settings:
    return Settings(auth_mode="open", redis_url=redis_url, database_url=database_url)


def group(index: int) -> str:
    return f"g{index:04d}"


def events_of_commit(number: int) -> list[Event]:
    """Return the events of commit `number`, from 1.

    That is one event for each existing group, and `number` events for the new one.
    """
    groups = [*range(FIRST_GROUPS + number - 1), *[FIRST_GROUPS + number - 1] * number]
    return [
        make_event(customer=g, offer=g, creative=g, channel=g)
        for g in (group(index) for index in groups)
    ]


def moment_of(response: httpx.Response, limit: int, offset: int) -> int:
    """Return the number of the commit that the response shows; fail if it mixes two."""
    assert response.status_code == 200, response.text
    body = response.json()
    total = body["total"]
    if total == 0:
        assert body["summary"] == []
        return 0
    moment = total - FIRST_GROUPS
    ids = [row.get("customerId") or row["id"] for row in body["summary"]]
    assert ids == [group(index) for index in range(total)][offset : offset + limit]
    for row in body["summary"]:
        assert (row["total"], row["impression"]) == (moment, moment), (row, total)
    return int(moment)


class Load:
    """Concurrent readers and one writer of a tenant."""

    def __init__(self, pair: ReaderPair, tenant: Tenant, *, rolling: bool) -> None:
        """Prepare the load; `rolling`: midnights pass, and history answers during the rolls."""
        self._pair, self._tenant, self._rolling = pair, tenant, rolling
        self._seen: dict[tuple[str, str], set[int]] = {
            ("counted", "materialized"): set(),
            ("historic", "history"): set(),
        }
        if rolling:
            self._seen["counted", "history"] = set()
        self._writing = True

    @property
    def _is_enough(self) -> bool:
        return all(len(seen) >= MOMENTS_SEEN for seen in self._seen.values())

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(2):
                tasks.create_task(self._read("counted", self._pair.counted))
            tasks.create_task(self._read("historic", self._pair.historic))
            tasks.create_task(self._write())

    async def _write(self) -> None:
        for number in itertools.count(1):
            events = events_of_commit(number)
            await self._tenant.count(events)
            await self._tenant.store(events)
            if self._rolling and number % COMMITS_A_DAY == 0:
                self._pair.now_ms += DAY_MS
            if self._rolling and number % COMMITS_A_DAY >= ROLL_FROM:
                # A worker too rolls in several steps; here commits run between them.
                writer = self._tenant.writer
                today = self._tenant.calendar.day_of(self._pair.now_ms)
                await self._pair.counters.roll(
                    writer.generation, today, now_ms=self._pair.now_ms, records_max=2 * number
                )
                writer.generation = writer.generation._replace(day=today)
            if self._is_enough:
                break
            assert number < COMMITS_MAX, f"readers saw {self._seen}"
        self._writing = False

    async def _read(self, name: str, reader: httpx.AsyncClient) -> None:
        latest: dict[str, int] = {}
        periods = LONG_PERIODS if self._rolling else PERIODS
        for query, limit, offset in _questions(periods):
            if not self._writing:
                return
            question = f"{query}&limit={limit}&offset={offset}"
            response = await self._tenant.ask(question, of=reader)
            moment = moment_of(response, limit, offset)
            source = response.headers["x-summary-source"]
            # A later response is never older than an earlier one. (A fallback may be behind.)
            assert moment >= latest.get(source, 0)
            latest[source] = moment
            self._seen[name, source].add(moment)


def _questions(periods: Sequence[str]) -> Iterator[tuple[str, int, int]]:
    for period in itertools.cycle(periods):
        for group_by in GROUPINGS:
            for limit, offset in PAGES:
                yield f"groupBy={group_by}&{period}", limit, offset


@pytest.mark.parametrize("rolling", [False, True], ids=["one day", "over midnights"])
def test_a_response_under_writes_is_of_one_commit(stores: Settings, rolling: bool) -> None:
    """From the counters, from history, and from either during a roll."""

    async def run() -> None:
        async with open_reader_pair(stores) as pair:
            pair.now_ms = NOW_MS
            tenant = await pair.tenant("acme", "Europe/Berlin")
            await Load(pair, tenant, rolling=rolling).run()

    asyncio.run(run())


@pytest.mark.parametrize("limit", [7, 100])
def test_paging_through_a_quiet_tenant_gives_each_group_once(stores: Settings, limit: int) -> None:
    """Most totals are equal, so the ids decide the order."""
    ids = [f"{kind}{n}" for n in range(45) for kind in ("g", "G", "é", "😀")]
    queries = ("days=1", "days=365", "days=2&window=exact", "days=25&window=exact")

    async def run() -> None:
        async with open_reader_pair(stores) as pair:
            tenant = await pair.tenant("acme", "UTC")
            events = [
                make_event(customer=id_, offer=id_, creative=id_, channel=id_)
                for index, id_ in enumerate(ids)
                for _ in range(1 + (index % 10 == 0))
            ]
            await tenant.commit(events)
            for group_by, query in itertools.product(GROUPINGS, queries):
                for reader in (pair.counted, pair.historic):
                    paged = await _all_pages(tenant, reader, f"groupBy={group_by}&{query}", limit)
                    assert len(paged) == len(set(paged)) == len(ids)
                    doubles = sorted(ids[::10])
                    assert paged == doubles + sorted(set(ids) - set(doubles))

    asyncio.run(run())


async def _all_pages(
    tenant: Tenant, reader: httpx.AsyncClient, query: str, limit: int
) -> list[str]:
    found: list[str] = []
    while True:
        response = await tenant.ask(f"{query}&limit={limit}&offset={len(found)}", of=reader)
        assert response.status_code == 200, response.text
        body = response.json()
        rows = [row.get("customerId") or row["id"] for row in body["summary"]]
        found += rows
        if len(rows) < limit:
            assert len(found) == body["total"]
            return found
