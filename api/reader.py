"""The answer to a question: from the counters, or from history if the counters cannot answer.

The counters answer if they have all of the window and respond within the read budget. An answer is
never a mix of both stores. `Kind` describes a kind of question; all kinds are answered in one way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from time import monotonic, perf_counter
from typing import Final, Generic, Literal, NamedTuple, Protocol, TypeVar
from weakref import ref

from api.breaker import Breaker
from api.errors import unavailable
from api.params import SORTED_GROUPS_MAX, Params
from store import metrics
from store.logs import get_logger
from store.records import (
    Catalog,
    Counted,
    CounterPage,
    CounterReader,
    HistoryReader,
    Incomplete,
    Page,
    Question,
    StoreUnavailable,
    Unchanged,
)
from store.settings import Settings
from store.windows import (
    PERIOD_DAYS,
    Calendar,
    Period,
    exact_window,
    from_tiles,
    period_for,
    window_of,
)

logger = get_logger("api")

#: Maximum number of concurrent counter reads. Redis runs one script at a time, so more gains
#: nothing. In a burst of thousands, which share the event loop of this process, each read would
#: exceed its budget while the others are served, and all would fall back although Redis is
#: available. So reads wait here first, and the budget covers Redis alone.
COUNTER_READS_MAX: Final = 32
#: How long a question waits for a free history query before it is refused: long enough for a burst
#: of short queries, too short for a queue to build up behind long ones.
FALLBACK_WAIT_S: Final = 0.1
#: How long a tenant's first question waits for its catalog; for later ones it is cached.
CATALOG_TIMEOUT_S: Final = 5.0
#: Time for the pool and the network round trip, in addition to the statement timeout.
HISTORY_GRACE_S: Final = 1.0
#: Maximum offset sent to a store: Lua prints integers of 15 digits and more in scientific notation.
#: The page is the same, empty, for every offset beyond the number of groups.
STORE_OFFSET_MAX: Final = 10**12

Source = Literal["materialized", "history"]


class CatalogSource(Protocol):
    """Cache of the tenants' catalogs. Raises StoreUnavailable if it has none and cannot load it."""

    async def get(self, tenant: str, *, at_least_version: int = 0) -> Catalog: ...

    async def fresh(self, tenant: str) -> Catalog: ...


class Sources(NamedTuple):
    """What answers are read from."""

    counters: CounterReader
    history: HistoryReader
    load_catalog: Callable[[str], Awaitable[Catalog]]


class AnyQuestion(Protocol):
    """What all kinds of questions have."""

    @property
    def tenant(self) -> str: ...

    @property
    def timezone(self) -> str: ...


Asked = TypeVar("Asked", bound=AnyQuestion)
Found = TypeVar("Found")


class Kind(NamedTuple, Generic[Asked, Found]):
    """Kind of question: how a question is made, and which reads answer it."""

    make: Callable[[str, int], Asked]
    """Return the question, given the tenant's time zone and its current day."""
    has_counters: Callable[[Asked], bool]
    """Return whether counters have all of the question's window."""
    read_counters: Callable[[Asked, Catalog], Awaitable[Counted[Found] | Unchanged | Incomplete]]
    """Ask the counters, given the catalog for the answer. `Unchanged`: see `SummaryReader.page`."""
    read_history: Callable[[Asked], Awaitable[Found]]


class Answer(NamedTuple, Generic[Asked, Found]):
    """What was found, the question that it answers, and the catalog for its rows."""

    found: Found
    question: Asked
    catalog: Catalog
    source: Source
    pending: int = 0
    """Events that are counted and not yet in what was found."""
    version: bytes = b""
    """Version under which the answer may be kept; b"" = it must not be."""


class KnownAnswer(NamedTuple):
    """What a page that is kept was made of. The catalog is not kept alive by this."""

    version: bytes
    question: Question
    catalog: ref[Catalog]

    @classmethod
    def of(cls, answer: Answer[Question, Page]) -> KnownAnswer:
        """Return what `answer`, which has a version, was made of."""
        return cls(answer.version, answer.question, ref(answer.catalog))

    def version_for(self, question: Question, catalog: Catalog) -> bytes:
        """Return the version to ask with; b"" if the answer to `question` is another one."""
        is_same = self.catalog() is catalog and self.question == question
        return self.version if is_same else b""


class Uncounted(NamedTuple, Generic[Asked]):
    """A question that the counters cannot answer, and why not."""

    question: Asked
    catalog: Catalog
    reason: str


class SummaryReader:
    """Reader of summaries, for one event loop; `monotonic_s` is the clock of the breaker."""

    def __init__(
        self,
        settings: Settings,
        *,
        counters: CounterReader,
        history: HistoryReader,
        catalogs: CatalogSource,
        monotonic_s: Callable[[], float] = monotonic,
    ) -> None:
        self._counters = counters
        self._history = history
        self._catalogs = catalogs
        self._monotonic_s = monotonic_s
        self._budget_s = settings.read_budget_ms / 1_000
        self._history_timeout_s = settings.fallback_timeout_ms / 1_000 + HISTORY_GRACE_S
        self._counter_reads = asyncio.Semaphore(COUNTER_READS_MAX)
        self._history_reads = asyncio.Semaphore(settings.fallback_concurrency)
        self._calendars: dict[str, Calendar] = {}
        self.breaker = Breaker(
            failures_max=settings.breaker_failures, open_s=settings.breaker_open_s
        )

    def page(
        self, tenant: str, params: Params, known: KnownAnswer | None = None
    ) -> Kind[Question, Page]:
        """Return the kind of a question about one page.

        The counters answer with `Unchanged` if the page is the `known` one.
        """

        async def read_counters(
            question: Question, catalog: Catalog
        ) -> CounterPage | Unchanged | Incomplete:
            version = known.version_for(question, catalog) if known else b""
            return await self._counters.read(question._replace(known_version=version))

        return Kind(
            partial(question_of, tenant, params),
            lambda asked: asked.period is not None or from_tiles(asked.window, asked.today),
            read_counters,
            self._history.read,
        )

    async def ask(self, kind: Kind[Asked, Found], tenant: str, now_ms: int) -> Answer[Asked, Found]:
        """Return the answer to a question of any kind, for `tenant` as of `now_ms`.

        Raises ApiError 503 if no store can answer.
        """
        found = await self.counted(kind, await self.catalog(tenant), now_ms)
        if isinstance(found, Uncounted):
            return await self.historic(kind, found)
        assert isinstance(found, Answer)  # no answer was known
        return found

    async def counted(
        self, kind: Kind[Asked, Found], catalog: Catalog, now_ms: int
    ) -> Answer[Asked, Found] | Unchanged | Uncounted[Asked]:
        """Return the answer of the counters, or why there is none."""
        question = kind.make(catalog.timezone, self._today(catalog, now_ms))
        if not kind.has_counters(question):
            return Uncounted(question, catalog, "no_period")
        found, question, catalog = await self._from_counters(kind, question, catalog, now_ms)
        if isinstance(found, Incomplete):
            return Uncounted(question, catalog, found.reason)
        metrics.API_ANSWERS.labels("materialized").inc()
        if isinstance(found, Unchanged):
            return found
        # With an outdated catalog the next reader must look for the newer one again.
        is_current = catalog.version >= found.catalog_version
        version = found.version if isinstance(found, CounterPage) and is_current else b""
        return Answer(found.found, question, catalog, "materialized", found.pending, version)

    async def historic(
        self, kind: Kind[Asked, Found], uncounted: Uncounted[Asked]
    ) -> Answer[Asked, Found]:
        """Return the answer of history. Raises ApiError 503 if it cannot answer."""
        metrics.API_FALLBACKS.labels(uncounted.reason).inc()
        found = await self._from_history(kind, uncounted.question)
        metrics.API_ANSWERS.labels("history").inc()
        return Answer(found, uncounted.question, uncounted.catalog, "history")

    async def catalog(self, tenant: str) -> Catalog:
        """Return the catalog of a tenant, in most cases at once. Raises ApiError 503."""
        try:
            async with asyncio.timeout(CATALOG_TIMEOUT_S):
                return await self._catalogs.get(tenant)
        except (StoreUnavailable, TimeoutError) as error:
            metrics.API_FALLBACK_REFUSED.labels("catalog").inc()
            logger.warning("no catalog", cause=str(error) or "timeout")
            raise unavailable(
                "the catalog of the tenant cannot be read now; try again", retry_after_s=1
            ) from error

    def _today(self, catalog: Catalog, now_ms: int) -> int:
        calendar = self._calendars.get(catalog.timezone)
        if calendar is None:
            calendar = self._calendars[catalog.timezone] = Calendar(catalog.timezone)
        return calendar.day_of(now_ms)

    # --- counters

    async def _from_counters(
        self, kind: Kind[Asked, Found], question: Asked, catalog: Catalog, now_ms: int
    ) -> tuple[Counted[Found] | Unchanged | Incomplete, Asked, Catalog]:
        """Return the counters' result, the question that it answers, and the newest catalog.

        The counters may know a newer catalog version than the cache. If that catalog has another
        time zone, the window changes, and the counters are read a second time with a new question.
        """
        for _ in range(2):
            found = await self._read_counters(kind, question, catalog)
            catalog = await self._newer_catalog(question.tenant, catalog, found)
            if catalog.timezone == question.timezone:
                return found, question, catalog
            question = kind.make(catalog.timezone, self._today(catalog, now_ms))
        return Incomplete("other_timezone"), question, catalog

    async def _newer_catalog(
        self, tenant: str, catalog: Catalog, found: Counted[object] | Unchanged | Incomplete
    ) -> Catalog:
        """Return the catalog that `found` requires: in most cases `catalog` itself."""
        try:
            async with asyncio.timeout(self._budget_s):
                if isinstance(found, Incomplete):
                    if found.reason == "other_timezone":
                        return await self._catalogs.fresh(tenant)
                elif not isinstance(found, Unchanged) and found.catalog_version > catalog.version:
                    return await self._catalogs.get(tenant, at_least_version=found.catalog_version)
        except (StoreUnavailable, TimeoutError) as error:
            # Exact counts with outdated names are better than no answer.
            logger.warning("catalog may be behind", cause=str(error) or "timeout")
        return catalog

    async def _read_counters(
        self, kind: Kind[Asked, Found], question: Asked, catalog: Catalog
    ) -> Counted[Found] | Unchanged | Incomplete:
        async with self._counter_reads:
            permit = self.breaker.enter(self._monotonic_s())
            if permit is None:
                return Incomplete("breaker_open")
            result: Literal["ok", "failed", "unknown"] = "unknown"
            start_s = perf_counter()
            try:
                async with asyncio.timeout(self._budget_s):
                    found = await kind.read_counters(question, catalog)
                metrics.API_COUNTER_SECONDS.observe(perf_counter() - start_s)
                result = "ok"
                return found
            except TimeoutError:
                result = "failed"
                return Incomplete("timeout")
            except StoreUnavailable as error:
                result = "failed"
                logger.warning("counters unavailable", cause=str(error))
                return Incomplete("unreachable")
            except Exception:
                # History can still answer; the traceback is logged because this is a bug.
                result = "failed"
                logger.exception("counter read failed")
                return Incomplete("error")
            finally:
                self.breaker.leave(permit, result, self._monotonic_s())
                metrics.API_BREAKER_OPEN.set(self.breaker.state != "closed")

    # --- history

    async def _from_history(self, kind: Kind[Asked, Found], question: Asked) -> Found:
        try:
            async with asyncio.timeout(FALLBACK_WAIT_S):
                await self._history_reads.acquire()
        except TimeoutError:
            metrics.API_FALLBACK_REFUSED.labels("busy").inc()
            raise unavailable(
                "the counters cannot answer now and history is busy; try again", retry_after_s=1
            ) from None
        start_s = perf_counter()
        try:
            async with asyncio.timeout(self._history_timeout_s):
                found = await kind.read_history(question)
            metrics.API_HISTORY_SECONDS.observe(perf_counter() - start_s)
            return found
        except (StoreUnavailable, TimeoutError) as error:
            metrics.API_FALLBACK_REFUSED.labels("history").inc()
            logger.warning("history unavailable", cause=str(error) or "timeout")
            raise unavailable(
                "neither the counters nor history can answer now; try again", retry_after_s=2
            ) from error
        finally:
            self._history_reads.release()


def question_of(tenant: str, params: Params, timezone: str, today: int) -> Question:
    """Return the question about a page, given the tenant's time zone and its current day.

    For another order than that of the total, it is about all groups: see `api.sorting`.
    """
    period = materialized_period(params)
    is_by_total = params.sort == "total"
    return Question(
        tenant=tenant,
        group_by=params.group_by,
        period=period,
        window=window_of(period, today) if period else exact_window(params.days, today),
        today=today,
        timezone=timezone,
        limit=params.limit if is_by_total else SORTED_GROUPS_MAX,
        offset=min(params.offset, STORE_OFFSET_MAX) if is_by_total else 0,
    )


def materialized_period(params: Params) -> Period | None:
    """Return the period whose window `params` requests, or None if no period has that window."""
    period = period_for(params.days)
    if params.window == "exact" and PERIOD_DAYS.get(period) != params.days:
        return None
    return period
