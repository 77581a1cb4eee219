"""The running API does what its own description says: schemathesis, all checks on, with keys."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from store.postgres.api_keys import create_key
from store.postgres.pool import open_pool
from store.settings import Settings
from tests.support.api_process import serving

PEPPER = "p" * 64
ROOT = Path(__file__).resolve().parents[2]
HOOKS = {"SCHEMATHESIS_HOOKS": "tests.support.schemathesis_hooks", "PYTHONPATH": str(ROOT)}


@pytest.mark.long
def test_no_generated_request_breaks_the_description(
    tmp_path: Path, redis_url: str, database_url: str
) -> None:
    settings = Settings(database_url=database_url)

    async def make() -> str:
        async with open_pool(settings, max_size=1) as pool:
            _, key = await create_key(pool, "acme", "admin", name="", pepper=PEPPER)
            return key

    key = asyncio.run(make())
    environment = {
        "AUTH_MODE": "keys",
        "API_KEY_PEPPER": PEPPER,
        "REDIS_URL": redis_url,
        "DATABASE_URL": database_url,
        "READ_BUDGET_MS": "5000",
        "RATE_LIMIT_PER_MINUTE": "0",
    }
    with serving(tmp_path / "log", environment) as (process, client):
        url = str(client.base_url).rstrip("/")
        command = [
            sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json",
            "--checks", "all", "--header", f"X-API-Key: {key}", "--max-examples", "25",
            "--seed", "7", "--generation-database", "none", "--no-color",
        ]  # fmt: skip
        done = subprocess.run(
            command, cwd=tmp_path, env={**os.environ, **HOOKS}, capture_output=True, text=True,
            timeout=500,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-8_000:] + done.stderr[-2_000:]
        assert process.poll() is None
    log = (tmp_path / "log").read_text()
    assert '"status":500' not in log
    assert key not in log
