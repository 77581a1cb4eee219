"""The page `/docs` in a browser without a network: it shows every endpoint."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from api.app import build
from store.settings import Settings
from tests.support.api_process import serving
from tests.support.browser import find_chromium
from tests.support.services.base import Services

NOWHERE = {"REDIS_URL": "redis://127.0.0.1:1/0", "DATABASE_URL": "postgresql://127.0.0.1:1/none"}


def test_the_page_shows_every_endpoint_in_a_browser_without_a_network(
    services: Services, tmp_path: Path
) -> None:
    chromium = find_chromium(services)
    with serving(tmp_path / "log", NOWHERE) as (_, client):
        done = subprocess.run(
            [
                chromium, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
                "--disable-background-networking", "--disable-component-update", "--disable-sync",
                f"--user-data-dir={tmp_path / 'profile'}",
                # Every name but that of the page fails to resolve.
                "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
                "--virtual-time-budget=20000", "--dump-dom", f"{client.base_url}/docs",
            ],
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2_000:]
    shown = set(re.findall(r'data-path="([^"]+)"', done.stdout))
    paths = build(Settings(auth_mode="open")).openapi()["paths"]
    assert {path.replace("{", "").replace("}", "") for path in paths} == {
        path.replace("{", "").replace("}", "") for path in shown
    }, done.stdout[:2_000]
    assert "Interaction Summary" in done.stdout
