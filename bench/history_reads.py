"""Times the questions that history answers, on a database that `bench.history` has filled.

Started by `bench.history`, also with the package `store` of an earlier commit: uses only what both
have.
Prints one JSON document: case -> milliseconds of each read, and of processor time of PostgreSQL on
average. On a machine that does other work too, only the second one can be compared.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psycopg

from bench.cpu_time import cpu_s
from store.postgres.history import HistoryWriter, PostgresHistory
from store.postgres.pool import Connection, make_pool
from store.records import (
    GROUPINGS,
    Event,
    GroupQuestion,
    Question,
    SourcedEvent,
    TrendQuestion,
)
from store.settings import Settings
from store.windows import DAY_MS, PERIODS, Calendar, exact_window, window_of

TENANT = "acme"
#: A group of each grouping: the most frequent action, one of its treatments, a channel, the most
#: frequent customer.
IDS = {
    "action": "off_000",
    "treatment": "cr_000_0",
    "channel": "ch_0",
    "customer": "C-0000000",
}
TIMEOUT_MS = 120_000
TOPIC_ID = "00000000-0000-0000-0000-000000000001"
#: Events of one transaction of the writer.
TRANSACTION = 5_000


def make_cases(
    history: PostgresHistory, today: int, zone: str
) -> dict[str, Callable[[], Awaitable[Any]]]:
    """Return name -> read, of each question: lists, one group, days of one group and of all."""

    def listed(grouping: Any, period: Any) -> Callable[[], Awaitable[Any]]:
        question = Question(
            TENANT, grouping, period, window_of(period, today), today, zone, limit=100, offset=0
        )
        return lambda: history.read(question)

    def one(grouping: Any) -> Callable[[], Awaitable[Any]]:
        return lambda: history.read_group(
            GroupQuestion(TENANT, grouping, IDS[grouping], today, zone)
        )

    def trend(grouping: Any, id_: str | None) -> Callable[[], Awaitable[Any]]:
        question = TrendQuestion(TENANT, grouping, id_, exact_window(31, today), today, zone)
        return lambda: history.read_trend(question)

    found = {f"{g}, {p}": listed(g, p) for g in GROUPINGS for p in PERIODS}
    found |= {f"{g}, one group": one(g) for g in GROUPINGS}
    found |= {f"{g}, trend of one": trend(g, IDS[g]) for g in GROUPINGS}
    found["action, trend of all"] = trend("action", None)
    return found


async def measure(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Read each case `rounds` times after one read that warms the caches."""
    pool = make_pool(
        Settings(database_url=options.url), max_size=1, statement_timeout_ms=TIMEOUT_MS
    )
    found: dict[str, dict[str, Any]] = {}
    today = Calendar(options.zone).day_of(options.now_ms)
    async with pool:
        history = PostgresHistory(pool, timeout_s=TIMEOUT_MS / 1_000)
        for name, read in make_cases(history, today, options.zone).items():
            if options.case and not any(name.startswith(case) for case in options.case):
                continue
            took_ms = []
            await read()
            before_s = cpu_s(options.server_pid, family=True)
            for _ in range(options.rounds):
                began_s = time.perf_counter()
                await read()
                took_ms.append((time.perf_counter() - began_s) * 1_000)
            spent_ms = (cpu_s(options.server_pid, family=True) - before_s) / options.rounds * 1_000
            found[name] = {"took_ms": took_ms, "cpu_ms": spent_ms}
    return found


async def write(options: argparse.Namespace) -> None:
    """Write events in transactions of 5,000, in the order of their times, a tenth of them late."""
    pool = make_pool(Settings(database_url=options.url), max_size=1)
    rng = random.Random(1)
    async with pool:
        writer = HistoryWriter(pool)
        for first in range(0, options.write, TRANSACTION):
            events = []
            for offset in range(first, first + TRANSACTION):
                late_ms = rng.randrange(30 * DAY_MS) if rng.random() < 0.1 else 0
                action = int(200 * rng.random() ** 2)
                event = Event(
                    event_id=rng.randbytes(16),
                    tenant=TENANT,
                    customer=f"C-{int(500_000 * rng.random() ** 2):07d}",
                    offer=f"off_{action:03d}",
                    creative=f"cr_{action:03d}_{offset % 3}",
                    channel=f"ch_{offset % 6}",
                    outcome=rng.choice(("impression", "impression", "click", "dismiss")),
                    occurred_ms=options.now_ms - options.write + offset - late_ms,
                    interaction_id=None,
                    direction="outbound",
                    campaign=None,
                    recommendation=rng.randbytes(16).hex(),
                    conversion_value=None,
                    context=None,
                )
                events.append(SourcedEvent(event, offset, options.now_ms))
            await writer.write(
                topic="interactions",
                topic_id=TOPIC_ID,
                partition=0,
                expected_offset=first or None,
                next_offset=first + TRANSACTION,
                events=events,
            )


async def explain(options: argparse.Namespace) -> None:
    """Write the plan of each case, as it ran, to `options.explain`."""

    async def configure(connection: Connection) -> None:
        connection.add_notice_handler(note)
        await connection.execute("LOAD 'auto_explain'")
        await connection.execute(
            "SELECT set_config('auto_explain.log_min_duration', '0', false),"
            " set_config('auto_explain.log_analyze', 'on', false),"
            " set_config('auto_explain.log_buffers', 'on', false),"
            " set_config('auto_explain.log_timing', 'off', false),"
            " set_config('client_min_messages', 'log', false)"
        )
        await connection.commit()

    notes: list[str] = []

    def note(diagnostic: psycopg.errors.Diagnostic) -> None:
        notes.append(diagnostic.message_primary or "")

    pool = make_pool(
        Settings(database_url=options.url), max_size=1, statement_timeout_ms=TIMEOUT_MS
    )
    pool._configure = configure  # the driver has no other way to add it later
    today = Calendar(options.zone).day_of(options.now_ms)
    async with pool:
        history = PostgresHistory(pool, timeout_s=TIMEOUT_MS / 1_000)
        with options.explain.open("w") as file:
            for name, read in make_cases(history, today, options.zone).items():
                notes.clear()
                await read()
                plans = "\n".join(each for each in notes if "interaction_history" in each)
                file.write(f"## {name}\n{plans}\n\n")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.history_reads", description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--now-ms", type=int, required=True)
    parser.add_argument("--zone", default="UTC")
    parser.add_argument("--server-pid", type=int, help="process id of PostgreSQL")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--case", action="append", help="only cases that begin so")
    parser.add_argument("--explain", type=Path, help="file for the plans; then nothing is timed")
    parser.add_argument("--write", type=int, help="write events; then nothing is timed")
    options = parser.parse_args()
    if options.write:
        asyncio.run(write(options))
    elif options.explain:
        asyncio.run(explain(options))
    else:
        print(json.dumps(asyncio.run(measure(options))))


if __name__ == "__main__":
    main()
