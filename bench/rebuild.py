"""Measure rebuilds from history and from the topic beside live counting, on the same events.

    python -m bench.rebuild [--events 5000000] [--customers 300000] [--services real] [--json]

In one run: a worker counts and stores all events (the live rate), then stops. `rebuild` makes the
counters again, from history and from the topic; each time includes the start of the command. Last,
PostgreSQL alone materializes the same sums, by one GROUP BY per grouping, day and type. The pages
of every grouping and period are compared after each step: all must be equal.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import subprocess
import sys
import time
from typing import Any, NamedTuple

import psycopg
import redis

from bench.ingest import Meter
from bench.servers import KINDS, ROOT, TENANT, Bench, Process, produce, servers, wait_until
from store.clock import system_clock_ms
from store.records import GROUPINGS, CounterPage, Question
from store.redis.counters import open_counters
from store.redis.keys import Keys
from store.redis.reports import PROGRESS_OLD_MS
from store.windows import PERIODS, Calendar, window_of

DEADLINE_S = 3_600.0
PAGE = 500
DESCRIPTION, _, DETAILS = (__doc__ or "").partition("\n")
_MATERIALIZE = """
CREATE UNLOGGED TABLE sums_{column} AS
SELECT {column}, occurred_at::date AS day, outcome_type, count(*)
FROM interaction_history WHERE tenant_id = %s AND {column} IS NOT NULL GROUP BY 1, 2, 3
"""


class Step(NamedTuple):
    """Result of one step."""

    name: str
    events: int
    seconds: float
    cpu_s: dict[str, float]

    @property
    def events_s(self) -> float:
        return self.events / self.seconds


def live(bench: Bench, client: redis.Redis, events: int) -> Step:
    """Count and store all events with one worker."""
    meta = Keys(bench.settings.redis_prefix).meta(TENANT, 1)
    with psycopg.connect(bench.settings.database_url, autocommit=True) as connection:

        def counted() -> int:
            fields: dict[bytes, bytes] = client.hgetall(meta)  # type: ignore[assignment]
            return sum(int(value) for name, value in fields.items() if name.startswith(b"w:"))

        def stored() -> bool:
            query = "SELECT coalesce(sum(next_offset), 0)::bigint FROM history_watermarks"
            return int(connection.execute(query).fetchone()[0]) >= events  # type: ignore[index]

        meter = Meter(counted, events)
        with Process(["cli.main", "worker"], bench.env, bench.folder / "worker.log") as worker:
            wait_until(lambda: counted() > 0, worker, 60.0, "the first event")
            before = bench.cpu_s() | {"python": worker.cpu_s()}
            wait_until(meter.done, worker, DEADLINE_S, "all events counted")
            spent = _difference(before, bench.cpu_s() | {"python": worker.cpu_s()})
            wait_until(stored, worker, DEADLINE_S, "all events in history")
    return Step("live", events, events / meter.rate_s, spent)


def rebuild(bench: Bench, events: int, *arguments: str) -> Step:
    """Run the command `rebuild`."""
    command = [sys.executable, "-m", "cli.main", "rebuild", "--tenant", TENANT, *arguments]
    before, began_s = bench.cpu_s() | {"python": _children_s()}, time.monotonic()
    done = subprocess.run(
        command, cwd=ROOT, env=dict(bench.env), capture_output=True, text=True, check=False
    )
    seconds = time.monotonic() - began_s
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-3_000:]}")
    print(f"  {done.stdout.strip()}", flush=True)
    after = bench.cpu_s() | {"python": _children_s()}
    return Step(" ".join(arguments), events, seconds, _difference(before, after))


def _children_s() -> float:
    """Return the processor time of the child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def materialize(bench: Bench, events: int) -> Step:
    """Make the sums of all groupings in PostgreSQL."""
    before, began_s = bench.cpu_s(), time.monotonic()
    with psycopg.connect(bench.settings.database_url, autocommit=True) as connection:
        for column in ("offer_id", "creative_id", "channel_id", "customer_id"):
            connection.execute(_MATERIALIZE.format(column=column).encode(), (TENANT,))
    seconds = time.monotonic() - began_s
    return Step("GROUP BY in Postgres", events, seconds, _difference(before, bench.cpu_s()))


async def pages(bench: Bench) -> list[Any]:
    """Return the first page of each grouping and period; all must be answered by the counters."""
    today = Calendar("UTC").day_of(system_clock_ms())
    found = []
    async with open_counters(bench.settings) as counters:
        for grouping in GROUPINGS:
            for period in PERIODS:
                window = window_of(period, today)
                asked = Question(TENANT, grouping, period, window, today, "UTC", PAGE, 0)
                answer = await counters.read(asked)
                if not isinstance(answer, CounterPage):
                    raise SystemExit(f"the counters do not answer: {answer}")
                found.append(answer.page)
    return found


def _difference(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    return {name: round(after[name] - before[name], 1) for name in before}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.rebuild", description=DESCRIPTION, epilog=DETAILS
    )
    parser.add_argument("--events", type=int, default=5_000_000)
    parser.add_argument("--customers", type=int, default=300_000)
    parser.add_argument("--services", choices=KINDS, default="real")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    options = parser.parse_args()
    with servers(options.services) as bench:
        client = redis.Redis.from_url(bench.settings.redis_url)
        began_s = time.monotonic()
        asyncio.run(produce(bench.settings, options.events, options.customers))
        print(f"topic filled in {time.monotonic() - began_s:.0f} s", flush=True)
        steps = [live(bench, client, options.events)]
        _print(steps[0], steps[0])
        before = asyncio.run(pages(bench))
        time.sleep(PROGRESS_OLD_MS / 1e3 + 1)  # no worker counts any more, as a rebuild can see
        for source in ("history", "topic"):
            steps.append(rebuild(bench, options.events, "--from", source))
            _print(steps[-1], steps[0])
            if asyncio.run(pages(bench)) != before:
                raise SystemExit(f"the counters differ after a rebuild from {source}")
        steps.append(materialize(bench, options.events))
        _print(steps[-1], steps[0])
        client.close()
    if options.json:
        print(json.dumps([step._asdict() | {"events_s": step.events_s} for step in steps]))


def _print(step: Step, live_step: Step) -> None:
    ratio = step.events_s / live_step.events_s
    cpu = ", ".join(f"{name} {seconds:.0f}" for name, seconds in step.cpu_s.items())
    print(
        f"{step.name:22} {step.events_s:9,.0f} events/s  {ratio:5.1f} x live  "
        f"{step.seconds:7.1f} s   s of CPU: {sum(step.cpu_s.values()):.0f} ({cpu})",
        flush=True,
    )


if __name__ == "__main__":
    main()
