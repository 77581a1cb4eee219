"""Comparison of counters, history and a plain count after a chaos run."""

from __future__ import annotations

import collections
import time
from collections.abc import Callable, Sequence

from store.postgres.catalog import DEFAULT_TIMEZONE
from store.postgres.history import PostgresHistory
from store.postgres.pool import Pool, open_pool
from store.records import (
    GROUPINGS,
    CounterPage,
    Event,
    Grouping,
    Incomplete,
    Question,
    StoreUnavailable,
)
from store.redis.counters import RedisCounters, open_counters
from store.settings import Settings
from store.windows import PERIODS, Calendar, Period, window_of
from streams.dead_letters import headers as dead_letters
from tests.support.chaos_stream import ZONES, Stream
from tests.support.oracle import groups_of
from tests.support.topics import read_ends, read_records
from tests.support.waiting import TIMEOUT_S, eventually_async


class ChaosCheck:
    """What the stores and the topics hold, compared with what was produced."""

    def __init__(self, settings: Settings, stream: Stream, say: Callable[[str], None]) -> None:
        self.settings, self.stream, self.say = settings, stream, say

    async def wait_until_counted(self, supervise: Callable[[], None], timeout_s: float) -> None:
        """Wait until every offset of the topic is counted and stored in history.

        `supervise` is called at each look, to start workers again that have ended.
        """
        ends = await read_ends(self.settings, self.settings.interactions_topic)
        started_s = time.monotonic()

        async def behind(counters: RedisCounters, pool: Pool) -> dict[int, int]:
            supervise()
            try:
                progress = {p.partition: p.next_offset for p in await counters.reports.progress()}
                async with pool.connection() as connection:
                    rows = await (
                        await connection.execute(
                            "SELECT partition, next_offset FROM history_watermarks"
                        )
                    ).fetchall()
            except StoreUnavailable:
                return {-1: -1}
            stored: dict[int, int] = dict(rows)
            lowest = {p: min(progress.get(p, 0), stored.get(p, 0)) for p in ends}
            return {p: end - lowest[p] for p, end in ends.items() if lowest[p] < end}

        async with (
            open_counters(self.settings, timeout_s=5) as counters,
            open_pool(self.settings, max_size=1) as pool,
        ):

            async def caught_up() -> bool:
                left = await behind(counters, pool)
                assert not left, left
                return True

            await eventually_async(
                caught_up, timeout_s=timeout_s, message="all events counted and stored"
            )
        self.say(f"caught up after {time.monotonic() - started_s:.1f} s")

    async def wait_until_complete(self, timeout_s: float = TIMEOUT_S) -> None:
        """Wait until the counters of every tenant are complete.

        Those that were created while PostgreSQL was unavailable begin incomplete. They are complete
        once the watermarks of tenants without events have moved, which takes some rounds.
        """
        started_s = time.monotonic()
        async with open_counters(self.settings, timeout_s=5) as counters:

            async def complete() -> bool:
                lacking = {}
                for tenant in await counters.tenants():
                    generation = await counters.generation(tenant)
                    if generation is None or not generation.complete:
                        missing = None if generation is None else await counters.missing(generation)
                        lacking[tenant] = missing
                assert not lacking, lacking
                return True

            await eventually_async(complete, timeout_s=timeout_s, message="complete counters")
        self.say(f"complete after {time.monotonic() - started_s:.1f} s")

    async def compare(self) -> None:
        """Raise AssertionError unless counters, history and a plain count are equal.

        They are compared for every tenant, grouping, period and row; for a new tenant only in the
        longest period. Every malformed event must be on the dead-letter topic exactly once.
        """
        by_tenant: dict[str, list[Event]] = {t: [] for t in (*ZONES, *self.stream.new_tenants)}
        for event in self.stream.counted:
            by_tenant[event.tenant].append(event)
        async with (
            open_counters(self.settings, timeout_s=30) as counters,
            open_pool(self.settings, max_size=2) as pool,
        ):
            history = PostgresHistory(pool)
            for tenant, zone in ZONES.items():
                for grouping in GROUPINGS:
                    for period in PERIODS:
                        await self._compare_one(
                            counters, history, by_tenant[tenant], tenant, zone, grouping, period
                        )
            for tenant in self.stream.new_tenants:
                for grouping in GROUPINGS:
                    await self._compare_one(
                        counters,
                        history,
                        by_tenant[tenant],
                        tenant,
                        DEFAULT_TIMEZONE,
                        grouping,
                        PERIODS[-1],
                    )
        sent = await read_records(self.settings, self.settings.dead_letter_topic)
        malformed = set(self.stream.malformed)
        dead = collections.Counter(
            record.value
            for records in sent.values()
            for record in records
            if record.value in malformed and dead_letters.parse(record.headers) is not None
        )
        assert set(dead) == malformed, f"{len(malformed - set(dead))} dead letters are missing"
        repeated = {value: n for value, n in dead.items() if n > 1}
        assert not repeated, f"dead letters sent more than once: {repeated}"

    async def _compare_one(
        self,
        counters: RedisCounters,
        history: PostgresHistory,
        events: Sequence[Event],
        tenant: str,
        zone: str,
        grouping: Grouping,
        period: Period,
    ) -> None:
        calendar = Calendar(zone)

        async def equal() -> bool:
            # Repeated if midnight has passed between the reads, or if a roll is not finished.
            today = calendar.day_of(time.time_ns() // 1_000_000)
            window = window_of(period, today)
            asked = Question(tenant, grouping, period, window, today, zone, 1_000_000, 0)
            answer = await counters.read(asked)
            if answer == Incomplete("not_ranked"):  # nobody asked, or Redis has lost the question
                await counters.ranks.note_asked(
                    tenant, period, at_ms=time.time_ns() // 1_000_000, is_lacking=True
                )
            assert isinstance(answer, CounterPage), (answer, tenant, grouping, period)
            stored = await history.read(asked)
            want = groups_of(events, grouping, window, calendar)
            for name, groups in (("counters", answer.page.groups), ("history", stored.groups)):
                if list(groups) != want:
                    off = [(g, w) for g, w in zip(groups, want, strict=False) if g != w][:3]
                    raise AssertionError(
                        f"{name} of {tenant} {grouping} {period}: {len(groups)} groups of "
                        f"{sum(g.total for g in groups)}, not {len(want)} of "
                        f"{sum(g.total for g in want)}: {off}"
                    )
            return True

        await eventually_async(equal, message="counters = history = plain count")
