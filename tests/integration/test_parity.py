"""Parity: counters, history and the oracle give the same body, byte for byte."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import itertools
from collections.abc import Collection, Sequence
from contextlib import AsyncExitStack
from typing import Protocol
from urllib.parse import quote

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from store.catalog_document import (
    CatalogDocument,
    ChannelItem,
    OfferItem,
    OutcomeTypeItem,
    TreatmentItem,
)
from store.records import GROUPINGS, Event, Grouping
from store.settings import Settings
from store.shard_pages import SHARD_GROUPS_MAX
from store.windows import (
    DAY_MS,
    PERIODS,
    TILE_DAYS,
    Calendar,
    Period,
    Window,
    exact_window,
    period_for,
    window_of,
)
from tests.support.events import IDS, OUTCOMES, make_event
from tests.support.oracle import body_of, group_body_of, groups_of, trend_body_of
from tests.support.reader_pair import ReaderPair, Tenant, open_reader_pair
from tests.support.zones import ODD_ZONES, ZONES, transitions

WORLDS = 25
WORLDS_LONG = 100
SINCE_YEAR, UNTIL_YEAR = 2010, 2028
HOUR_MS = 3_600_000
#: How far ahead of the clock an event may be.
AHEAD_MAX_MS = 300_000
#: Where windows begin and tiles end, and beyond.
AGES = (-1, 0, 1, 2, 5, 6, 7, 8, 29, 30, 31, 32, 45)
MOMENTS_MS = (-HOUR_MS, -60_000, -1, 0, 1, AHEAD_MAX_MS - 1, 12 * HOUR_MS)

_serial = itertools.count()


class ParityQuestion(Protocol):
    """A question to any of the endpoints."""

    @property
    def tenant(self) -> int: ...

    @property
    def below(self) -> str:
        """What follows the path of the list."""
        ...

    @property
    def query(self) -> str: ...

    def source(self, shards: int) -> str:
        """Return the source of the answer of the reader that has counters."""
        ...

    def expected(
        self, counted: Sequence[Event], catalog: CatalogDocument, today: int, calendar: Calendar
    ) -> bytes | None:
        """Return the body of the answer; None = 404."""
        ...


@dataclasses.dataclass(frozen=True)
class ListQuestion:
    tenant: int
    group_by: Grouping
    days: int
    exact: bool
    limit: int
    offset: int
    sort: str

    below = ""

    @property
    def query(self) -> str:
        window = "&window=exact" if self.exact else ""
        return (
            f"groupBy={self.group_by}&days={self.days}&limit={self.limit}&offset={self.offset}"
            f"&sort={self.sort}{window}"
        )

    def window(self, today: int) -> Window:
        return exact_window(self.days, today) if self.exact else window_of(self.period, today)

    @property
    def period(self) -> Period:
        return period_for(self.days)

    def source(self, shards: int) -> str:
        if shards > 1 and self.group_by == "customer" and self.sort == "total":
            deep = self.offset + min(self.limit, 500) > SHARD_GROUPS_MAX
        else:
            deep = False
        return "history" if deep or (self.exact and self.days > TILE_DAYS) else "materialized"

    def expected(
        self, counted: Sequence[Event], catalog: CatalogDocument, today: int, calendar: Calendar
    ) -> bytes:
        return body_of(
            groups_of(counted, self.group_by, self.window(today), calendar),
            catalog,
            group_by=self.group_by,
            days=self.days,
            limit=self.limit,
            offset=self.offset,
            sort=self.sort,
        )


@dataclasses.dataclass(frozen=True)
class GroupParityQuestion:
    tenant: int
    group_by: Grouping
    id: str

    query = ""

    @property
    def below(self) -> str:
        return f"/{self.group_by}/{quote(self.id, safe='')}"

    def source(self, shards: int) -> str:
        return "materialized"

    def expected(
        self, counted: Sequence[Event], catalog: CatalogDocument, today: int, calendar: Calendar
    ) -> bytes | None:
        return group_body_of(
            counted, catalog, group_by=self.group_by, id_=self.id, today=today, calendar=calendar
        )


@dataclasses.dataclass(frozen=True)
class TrendParityQuestion:
    tenant: int
    group_by: Grouping
    id: str | None
    days: int
    compare: bool

    below = "/trend"

    @property
    def query(self) -> str:
        id_ = "" if self.id is None else f"&id={quote(self.id, safe='')}"
        compare = "&compare=previous" if self.compare else ""
        return f"groupBy={self.group_by}&days={self.days}{id_}{compare}"

    def source(self, shards: int) -> str:
        days = 2 * self.days if self.compare else self.days
        return "history" if days > TILE_DAYS else "materialized"

    def expected(
        self, counted: Sequence[Event], catalog: CatalogDocument, today: int, calendar: Calendar
    ) -> bytes | None:
        return trend_body_of(
            counted,
            group_by=self.group_by,
            id_=self.id,
            days=self.days,
            compare=self.compare,
            today=today,
            calendar=calendar,
        )


@dataclasses.dataclass(frozen=True)
class Step:
    """One step of a world: the clock advances, events are committed, and questions are asked."""

    now_ms: int
    roll_first: bool
    events: Sequence[tuple[int, Event]]
    """Tenant (0 or 1) and event; some were committed in an earlier step."""
    questions: Sequence[ParityQuestion]
    ranked: Collection[Period]
    """Periods of which ranks of customers are built before the questions, as far as they are."""
    rank_calls: int


@dataclasses.dataclass(frozen=True)
class World:
    zones: tuple[str, str]
    shards: tuple[int, int]
    catalogs: tuple[CatalogDocument, CatalogDocument]
    all_ranks: bool
    steps: Sequence[Step]


ids = st.sampled_from(IDS)
texts = st.sampled_from(
    (None, "Gold card", "", 'a "quoted" \\ name', "é 😀", "\n\t\x01</script>", "x" * 300)
)
priorities = st.none() | st.integers(0, 9)


@functools.cache
def changes_of(zone: str) -> Sequence[int]:
    return transitions(zone, SINCE_YEAR, UNTIL_YEAR)


@st.composite
def catalogs(draw: st.DrawFn) -> CatalogDocument:
    """Draw a catalog; some of its references are to ids that it lacks."""
    status = st.sampled_from((None, "active", "archived"))
    return CatalogDocument(
        offers=draw(
            st.lists(
                st.builds(OfferItem, ids, texts, texts, texts, status, priorities),
                max_size=4,
                unique_by=lambda item: item.id,
            )
        ),
        treatments=draw(
            st.lists(
                st.builds(
                    TreatmentItem,
                    ids,
                    texts,
                    st.none() | ids,
                    st.none() | ids,
                    texts,
                    texts,
                    st.sampled_from((None, 0.0, 0.1, 33.3, 100.0)),
                    status,
                ),
                max_size=6,
                unique_by=lambda item: item.id,
            )
        ),
        channels=draw(
            st.lists(
                st.builds(ChannelItem, ids, texts, texts, status),
                max_size=4,
                unique_by=lambda item: item.id,
            )
        ),
        outcome_types=[
            OutcomeTypeItem(
                "own_type", draw(st.sampled_from(("positive", "negative", "neutral"))), "Own"
            )
        ],
    )


@st.composite
def clocks(draw: st.DrawFn, zone: str) -> int:
    """Draw an instant, often at or near a clock change of the zone or a midnight."""
    changes = changes_of(zone)
    if len(changes) > 0 and draw(st.booleans()):
        days = draw(st.sampled_from((0, 0, 1, 2, 6, 20, 31)))
        at_ms = draw(st.sampled_from(changes)) + days * DAY_MS
    else:
        at_ms = 1_262_304_000_000 + draw(st.integers(60, 6_500)) * DAY_MS
    if draw(st.booleans()):
        calendar = Calendar(zone)
        at_ms = calendar.midnight_ms(calendar.day_of(at_ms))
    return at_ms + draw(st.sampled_from(MOMENTS_MS))


@st.composite
def instants(draw: st.DrawFn, calendar: Calendar, now_ms: int) -> int:
    """Draw the time of an event that arrives at `now_ms`.

    It is near a midnight up to 45 days ago, at `now_ms`, or a few minutes ahead.
    """
    today = calendar.day_of(now_ms)
    tomorrow_ms = calendar.midnight_ms(today + 1)
    if tomorrow_ms - now_ms < AHEAD_MAX_MS and draw(st.booleans()):
        return tomorrow_ms + draw(st.sampled_from((-1, 0, 1)))
    if draw(st.booleans()):
        return now_ms + draw(st.sampled_from((0, 0, -1, -DAY_MS, 1, AHEAD_MAX_MS)))
    midnight_ms = calendar.midnight_ms(today - draw(st.sampled_from(AGES)))
    return min(midnight_ms + draw(st.sampled_from(MOMENTS_MS)), now_ms + AHEAD_MAX_MS)


@st.composite
def happenings(draw: st.DrawFn, calendar: Calendar, tenant: str, now_ms: int) -> Event:
    return make_event(
        tenant=tenant,
        customer=draw(ids),
        offer=draw(ids),
        creative=draw(st.none() | ids),
        channel=draw(st.none() | ids),
        outcome=draw(st.sampled_from((*OUTCOMES, "not_interested", "requested_info", "expired"))),
        occurred_ms=draw(instants(calendar, now_ms)),
    )


list_questions = st.builds(
    ListQuestion,
    tenant=st.sampled_from((0, 1)),
    group_by=st.sampled_from(GROUPINGS),
    days=st.sampled_from((1, 2, 7, 8, 30, 31, 32, 365, 3_650)) | st.integers(1, 40),
    exact=st.booleans(),
    limit=st.sampled_from((1, 2, 3, 100, 500, 501, 10**9)),
    offset=st.sampled_from((0, 0, 0, 1, 2, 3, 7, 50, 10**6, 2**53 - 1)),
    sort=st.sampled_from(("total", "total", "impression", "click", "convert", "ctr", "cvr")),
)
#: The last one is one that no event has.
asked_ids = st.sampled_from((*IDS, "a/b"))
group_questions = st.builds(
    GroupParityQuestion,
    tenant=st.sampled_from((0, 1)),
    group_by=st.sampled_from(GROUPINGS),
    id=asked_ids,
)
trend_questions = st.builds(
    TrendParityQuestion,
    tenant=st.sampled_from((0, 1)),
    group_by=st.sampled_from(GROUPINGS),
    id=st.none() | asked_ids,
    days=st.sampled_from((1, 2, 7, 8, 15, 16, 30, 31, 32, 60)),
    compare=st.booleans(),
)
questions = st.one_of(list_questions, group_questions, trend_questions)


@st.composite
def worlds(draw: st.DrawFn) -> World:
    zones = (draw(st.sampled_from(ODD_ZONES)), draw(st.sampled_from(ZONES)))
    calendars = [Calendar(zone) for zone in zones]
    now_ms = draw(clocks(zones[0]))
    steps: list[Step] = []
    happened: list[tuple[int, Event]] = []
    names = (f"w{next(_serial)}", f"w{next(_serial)}")
    for _ in range(draw(st.integers(1, 3))):
        tenants = draw(st.lists(st.sampled_from((0, 0, 0, 1)), max_size=14))
        fresh = [(t, draw(happenings(calendars[t], names[t], now_ms))) for t in tenants]
        again = draw(st.lists(st.sampled_from(happened), max_size=3)) if happened else []
        steps.append(
            Step(
                now_ms,
                draw(st.booleans()),
                draw(st.permutations(fresh + again)),
                draw(st.lists(questions, min_size=12, max_size=18)),
                draw(st.sets(st.sampled_from(PERIODS[:-1]))),
                draw(st.sampled_from((0, 1, 2, 10))),
            )
        )
        happened += fresh
        ahead_ms = draw(st.sampled_from((0, 60_000, HOUR_MS)))
        now_ms += draw(st.sampled_from((0, 1, 1, 2, 6, 7, 30, 31))) * DAY_MS + ahead_ms
    shards = st.sampled_from((1, 1, 2, 4))
    return World(
        zones,
        (draw(shards), draw(shards)),
        (draw(catalogs()), draw(catalogs())),
        draw(st.booleans()),
        steps,
    )


async def check(pair: ReaderPair, world: World) -> int:
    """Run the steps of `world`, check both readers, and return the number of questions."""
    pair.now_ms = world.steps[0].now_ms
    number = next(_serial)
    tenants = [
        await pair.tenant(
            f"t{number}-{i}", world.zones[i], shards=world.shards[i], all_ranks=world.all_ranks
        )
        for i in (0, 1)
    ]
    for tenant, catalog in zip(tenants, world.catalogs, strict=True):
        await tenant.import_catalog(_of(catalog, tenant.name))
    counted: list[list[Event]] = [[], []]
    for step in world.steps:
        pair.now_ms = step.now_ms
        for i, tenant in enumerate(tenants):
            if step.roll_first:
                await tenant.roll()
            batch = [_for(event, tenant.name) for of, event in step.events if of == i]
            if batch:
                await tenant.commit(batch)
            counted[i] = list({e.event_id: e for e in (*counted[i], *batch)}.values())
            await tenant.roll()
            for _ in range(step.rank_calls):
                async for shard in pair.counters.active_generations([tenant.name]):
                    await pair.counters.ranks.build(shard, step.ranked, customers_max=2)
        for question in step.questions:
            await check_question(
                pair,
                tenants[question.tenant],
                question,
                question.source(world.shards[question.tenant]),
                counted[question.tenant],
                world.catalogs[question.tenant],
            )
    return sum(len(step.questions) for step in world.steps)


async def check_question(
    pair: ReaderPair,
    tenant: Tenant,
    question: ParityQuestion,
    source_of_counters: str,
    counted: Sequence[Event],
    catalog: CatalogDocument,
) -> None:
    today = tenant.calendar.day_of(pair.now_ms)
    expected = question.expected(counted, catalog, today, tenant.calendar)
    by_counters, by_history = await asyncio.gather(
        *(
            tenant.ask(question.query, below=question.below, of=reader)
            for reader in (pair.counted, pair.historic)
        )
    )
    if expected is None:
        assert (by_counters.status_code, by_history.status_code) == (404, 404), question
        return
    for response, source in ((by_counters, source_of_counters), (by_history, "history")):
        assert response.status_code == 200, response.text
        assert response.headers["x-summary-source"] == source
        assert response.content == expected
    for name in ("etag", "x-summary-period", "x-summary-window-start"):
        assert by_counters.headers.get(name) == by_history.headers.get(name)


def _of(catalog: CatalogDocument, tenant: str) -> CatalogDocument:
    return CatalogDocument(
        tenant=tenant,
        offers=catalog.offers,
        treatments=catalog.treatments,
        channels=catalog.channels,
        outcome_types=catalog.outcome_types,
    )


def _for(event: Event, tenant: str) -> Event:
    """Return the event with a tenant of this run: a world may be tried more than once."""
    return msgspec.structs.replace(event, tenant=tenant)


@pytest.mark.timeout(900)  # after a failure, Hypothesis searches for the smallest world
@pytest.mark.parametrize("worlds_max", [WORLDS, pytest.param(WORLDS_LONG, marks=pytest.mark.long)])
def test_counters_history_and_a_plain_count_give_the_same_bytes(
    redis_url: str, database_url: str, capsys: pytest.CaptureFixture[str], worlds_max: int
) -> None:
    """Compare the three bodies in generated worlds.

    Two tenants in different time zones, one of them unusual, with 1, 2 or 4 shards; a clock near
    clock changes and midnights; events up to 45 days late and up to 5 minutes ahead, sent twice,
    with and without treatment and channel, of system types and a custom one; few ids, so that
    totals are equal; ranks of customers that are all kept, or none, or built in part or whole;
    catalogs that lack some ids; lists of every grouping, period, exact window and order, at any
    offset; groups in all periods and trends, also of ids that no event has.
    """
    stores = Settings(
        auth_mode="open",
        redis_url=redis_url,
        database_url=database_url,
        catalog_refresh_s=3_600,
    )
    questions_checked = 0
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        pair = runner.run(stack.enter_async_context(open_reader_pair(stores)))

        @settings(
            max_examples=worlds_max,
            deadline=None,
            print_blob=True,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        )
        @given(world=worlds())
        def agrees(world: World) -> None:
            nonlocal questions_checked
            questions_checked += runner.run(check(pair, world))

        try:
            agrees()
        finally:
            runner.run(stack.aclose())
    assert questions_checked >= 12 * worlds_max
    with capsys.disabled():
        print(f"\nparity: {questions_checked} questions, one answer")  # noqa: T201 - number checked
