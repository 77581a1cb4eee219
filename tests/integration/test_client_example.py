"""The client of the API guide, run against the API as a process."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from store.postgres.api_keys import create_key
from store.postgres.pool import open_pool
from store.settings import Settings
from store.windows import DAY_MS
from tests.support.api_process import serving
from tests.support.contract import Writer
from tests.support.events import make_event
from tests.support.stores import Stores

CLIENT = Path(__file__).resolve().parents[2] / "examples/client.py"
PEPPER = "p" * 64


def run(url: str, action: str, key: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, CLIENT, url, action],
        env={"INTERACTION_SUMMARY_KEY": key},
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_it_compares_a_week_with_the_week_before(
    tmp_path: Path, redis_url: str, database_url: str
) -> None:
    settings = Settings(redis_url=redis_url, database_url=database_url)
    now_ms = time.time_ns() // 1_000_000
    today = now_ms // DAY_MS

    async def fill() -> str:
        async with Stores(settings) as opened:
            generation = await opened.counters.create(
                "acme", day=today, timezone="UTC", complete=True, watermarks=[]
            )
            ages = [3, 3, 3, 4, 10]  # days; none near a midnight that may pass meanwhile
            await Writer(opened.counters, generation).commit(
                [
                    make_event(offer="gold/1", outcome=outcome, occurred_ms=now_ms - age * DAY_MS)
                    for age, outcome in zip(ages, ["impression"] * 4 + ["click"], strict=True)
                ]
            )
        async with open_pool(settings, max_size=1) as pool:
            _, key = await create_key(pool, "acme", "viewer", name="", pepper=PEPPER)
            return key

    key = asyncio.run(fill())
    environment = {
        "AUTH_MODE": "keys",
        "API_KEY_PEPPER": PEPPER,
        "REDIS_URL": redis_url,
        "DATABASE_URL": database_url,
        "READ_BUDGET_MS": "5000",
    }
    with serving(tmp_path / "log", environment) as (_, http):
        url = str(http.base_url).rstrip("/")
        done = run(url, "gold/1", key)
        if datetime.now(UTC).date() != datetime.fromtimestamp(now_ms / 1_000, UTC).date():
            return  # midnight passed: the counters wait for a worker to roll them
        assert done.returncode == 0, done.stderr
        lines = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
        day = datetime.fromtimestamp(now_ms / 1_000, UTC).date()
        assert list(lines) == [str(day - timedelta(age)) for age in range(6, -1, -1)]
        assert lines[str(day - timedelta(3))].split() == ["3", "+2", "0.0%"]
        assert lines[str(day - timedelta(4))].split() == ["1", "+1", "0.0%"]
        assert lines[str(day)].split() == ["0", "+0", "0.0%"]
        unknown = run(url, "blue", key)
        assert (unknown.returncode, unknown.stdout) == (1, "")
        assert unknown.stderr == "there never was an interaction of this action; check id\n"
        refused = run(url, "gold/1", "krn_" + "x" * 32)
        assert refused.returncode == 1
        assert refused.stderr == "the API key is not valid, or revoked\n"
