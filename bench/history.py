"""Measure the answers of history: milliseconds of each question on a large table, before and after.

    python -m bench.history [--rows 10000000] [--days 90] [--before COMMIT] [--explain FOLDER]

A PostgreSQL of its own, with its default settings, gets the rows by SQL: one tenant, their times
spread evenly over the days. Each question is then asked as the API asks it, with warm caches; the
processor time is that of PostgreSQL, also of its parallel workers. `--before` asks again with the
code and the indexes of an earlier commit, on the same rows. Last, what writing costs: processor
time of PostgreSQL per event, of both.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import psycopg

from bench.cpu_time import cpu_s
from bench.servers import ROOT, temporary_folder
from store.postgres.migrate import migrate
from store.windows import DAY_MS
from tests.support.services.tcp import TcpPostgres

DESCRIPTION, _, DETAILS = (__doc__ or "").partition("\n")
DRIVER = ROOT / "bench" / "history_reads.py"
#: Rows of one INSERT.
CHUNK = 500_000
#: 200 actions, three treatments of each, 6 channels. Few actions and few customers have most rows:
#: the most frequent customer has 0.15% of them.
INSERT = """
INSERT INTO interaction_history
SELECT 'acme', md5(n::text)::uuid, NULL,
       'C-' || lpad(floor(%(customers)s * power(c, 2))::integer::text, 7, '0'),
       'off_' || lpad(a::text, 3, '0'), 'cr_' || lpad(a::text, 3, '0') || '_' || n %% 3,
       'ch_' || n %% 6,
       (ARRAY[
           'impression', 'impression', 'impression', 'impression', 'impression', 'impression',
           'click', 'click', 'dismiss', 'accept', 'convert', 'deferred'
       ])[1 + floor(12 * o)::integer],
       'outbound', NULL, gen_random_uuid()::text, NULL, %(start)s + n * %(step)s,
       'interactions', '00000000-0000-0000-0000-000000000001', n %% 4, n / 4,
       %(start)s + n * %(step)s, NULL
FROM (
    SELECT n, random() AS c, random() AS o, floor(200 * power(random(), 2))::integer AS a
    FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS n OFFSET 0
) AS made
"""

#: Turns the indexes of migration 0009 into those before it.
INDEXES_BEFORE = (
    "CREATE INDEX interaction_history_time ON interaction_history (tenant_id, occurred_at)",
    "DROP INDEX interaction_history_days",
    "DROP INDEX interaction_history_customer",
)


class Code(NamedTuple):
    """One state of the program: the folder with its `store`, and what makes its indexes."""

    name: str
    folder: Path
    statements: Sequence[str]


def fill(url: str, options: argparse.Namespace) -> float:
    """Load the rows; return the seconds that it took."""
    began_s = time.monotonic()
    end = datetime.fromtimestamp(options.now_ms / 1_000, UTC)
    span = timedelta(days=options.days)
    with psycopg.connect(url, autocommit=True) as connection:
        for first in range(0, options.rows, CHUNK):
            connection.execute(
                INSERT,
                {
                    "customers": options.customers,
                    "start": end - span,
                    "step": span / options.rows,
                    "first": first,
                    "last": min(first + CHUNK, options.rows) - 1,
                },
            )
        connection.execute("VACUUM (ANALYZE) interaction_history")
    return time.monotonic() - began_s


@contextmanager
def code_before(commit: str, folder: Path) -> Iterator[Path]:
    """Yield a folder with the package `store` of a commit."""
    target = folder / "before"
    target.mkdir()
    archive = subprocess.run(
        ["git", "archive", "--format=tar", commit, "store"],  # noqa: S607
        cwd=ROOT, check=True, capture_output=True,
    ).stdout  # fmt: skip
    (target / "store.tar").write_bytes(archive)
    with tarfile.open(target / "store.tar") as tar:
        tar.extractall(target, filter="data")
    yield target


def run_driver(code: Code, url: str, options: argparse.Namespace, *arguments: str) -> str:
    """Run the driver with the code; return what it printed."""
    command = [sys.executable, str(DRIVER), "--url", url, "--now-ms", str(options.now_ms)]
    env = {**os.environ, "PYTHONPATH": f"{code.folder}{os.pathsep}{ROOT}"}
    done = subprocess.run(
        [*command, "--zone", options.zone, *arguments],
        env=env, cwd=code.folder, check=True, capture_output=True, text=True,
    )  # fmt: skip
    return done.stdout


def measure(
    code: Code, server: TcpPostgres, options: argparse.Namespace
) -> Mapping[str, Mapping[str, Any]]:
    """Return case -> its times, with the indexes of this code; write the plans."""
    url = server.url
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in code.statements:
            connection.execute(statement.encode())
        connection.execute("VACUUM (ANALYZE) interaction_history")
    if options.explain:
        options.explain.mkdir(parents=True, exist_ok=True)
        plans = (options.explain / f"{code.name}.txt").absolute()
        run_driver(code, url, options, "--explain", str(plans))
    cases = [part for case in options.case or () for part in ("--case", case)]
    cases += ["--rounds", str(options.rounds), "--server-pid", str(server.pid)]
    found = run_driver(code, url, options, *cases)
    return json.loads(found)  # type: ignore[no-any-return]


def write_cost(code: Code, server: TcpPostgres, options: argparse.Namespace) -> tuple[float, float]:
    """Return µs of PostgreSQL's processor time per event, and bytes of history per event."""
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS written")
        connection.execute("CREATE DATABASE written")
    url = server.url.removesuffix("/postgres") + "/written"
    asyncio.run(migrate(url, today=_day(options.now_ms - 40 * DAY_MS)))
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in code.statements:
            connection.execute(statement.encode())
        connection.execute("CHECKPOINT")
    before_s = cpu_s(server.pid, family=True)
    run_driver(code, url, options, "--write", str(options.write))
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CHECKPOINT")
        size = connection.execute(
            "SELECT sum(pg_total_relation_size(inhrelid)) FROM pg_inherits"
            " WHERE inhparent = 'interaction_history'::regclass"
        ).fetchone()
    assert size is not None
    spent_s = cpu_s(server.pid, family=True) - before_s
    return spent_s / options.write * 1e6, float(size[0]) / options.write


def print_table(results: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
    """Print p50, p95 and processor time of each case, one cell for each state."""
    print("| ms: p50 / p95 (processor time) | " + " | ".join(results) + " |")
    print("|---|" + "---|" * len(results))
    for case in next(iter(results.values())):
        cells = [_cell(**found[case]) for found in results.values()]
        print(f"| {case} | " + " | ".join(cells) + " |")


def _cell(took_ms: Sequence[float], cpu_ms: float) -> str:
    ordered = sorted(took_ms)
    p95 = ordered[math.ceil(0.95 * len(ordered)) - 1]
    return f"{ordered[(len(ordered) - 1) // 2]:,.0f} / {p95:,.0f} ({cpu_ms:,.0f})"


def _day(ms: int) -> date:
    return datetime.fromtimestamp(ms / 1_000, UTC).date()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.history", description=DESCRIPTION, epilog=DETAILS
    )
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--days", type=int, default=90, help="over which the rows are spread")
    parser.add_argument("--customers", type=int, default=500_000)
    parser.add_argument("--rounds", type=int, default=10, help="reads of each question")
    parser.add_argument("--zone", default="UTC", help="time zone of the days")
    parser.add_argument("--case", action="append", help="only questions that begin so")
    parser.add_argument("--before", help="commit to compare with: one without migration 0009")
    parser.add_argument("--explain", type=Path, help="folder for the plans")
    parser.add_argument("--write", type=int, default=300_000, help="events written; 0 = none")
    options = parser.parse_args()
    # 12:00 UTC of today: half a day of rows is today's.
    options.now_ms = time.time_ns() // 1_000_000 // DAY_MS * DAY_MS + DAY_MS // 2
    with temporary_folder() as folder:
        codes = [Code("after", ROOT, ())]
        server = TcpPostgres(folder, None)
        server.start()
        try:
            asyncio.run(migrate(server.url, today=_day(options.now_ms) - timedelta(options.days)))
            took_s = fill(server.url, options)
            print(f"{options.rows:,} rows over {options.days} days, loaded in {took_s:.0f} s")
            results, writes = {}, {}
            with code_before(options.before or "HEAD", folder) as old:
                if options.before:
                    codes.append(Code("before", old, INDEXES_BEFORE))
                for code in codes:
                    results[code.name] = measure(code, server, options)
                    if options.write:
                        writes[code.name] = write_cost(code, server, options)
            print_table(results)
            for name, (us, size) in writes.items():
                print(f"{name}: {us:.1f} µs of PostgreSQL per event, {size:.0f} bytes per row")
        finally:
            server.stop()


if __name__ == "__main__":
    main()
