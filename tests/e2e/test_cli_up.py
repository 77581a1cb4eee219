"""`up --demo`: from nothing to right numbers, through a crash of the worker and a second start."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.waiting import eventually

ROOT = Path(__file__).parents[2]
START_S = 90
STOP_S = 20


@pytest.fixture
def folder() -> Iterator[Path]:
    # Not pytest's own: PostgreSQL runs as another user there, when we are root.
    path = Path(tempfile.mkdtemp(prefix="interaction-summary-up-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


class Up:
    """A run of `up`."""

    def __init__(self, data: Path, *options: str) -> None:
        self.data = data
        self.output = data.with_suffix(".out")
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-m", "cli.main"),
                    *("up", "--port", "0", "--data-dir", str(data), *options),
                ],
                cwd=ROOT,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def is_up(self) -> bool:
        assert self.process.poll() is None, self.output.read_text()
        return "Interaction Summary is up" in self.output.read_text()

    @property
    def environment(self) -> dict[str, str]:
        lines = (self.data / "env").read_text().splitlines()
        return dict(line.removeprefix("export ").split("=", 1) for line in lines)

    def summary(self, query: str) -> tuple[str, dict[str, Any]]:
        """The source of the answer, and its body."""
        port = self.environment["API_PORT"]
        url = f"http://127.0.0.1:{port}/api/v1/interaction-summary?{query}"
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.headers["X-Summary-Source"], json.load(response)

    def total(self) -> int:
        """All interactions, from the counters."""
        source, body = self.summary("groupBy=channel&days=3650")
        assert source == "materialized"
        return sum(int(row["total"]) for row in body["summary"])

    def stored(self) -> int:
        """All interactions, from history."""
        with psycopg.connect(self.environment["DATABASE_URL"]) as connection:
            row = connection.execute("SELECT count(*) FROM interaction_history").fetchone()
        assert row is not None
        return int(row[0])

    def status(self) -> dict[str, Any]:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "cli.main", "status", "--json"],
            cwd=ROOT,
            env={**os.environ, **self.environment},
            capture_output=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        state: dict[str, Any] = json.loads(done.stdout)
        return state

    def child(self, name: str) -> int | None:
        """The process id of a command that `up` runs."""
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    stat = (entry / "stat").read_text()
                    arguments = (entry / "cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue  # gone meanwhile
                parent = int(stat.rpartition(")")[2].split()[1])
                if parent == self.process.pid and [b"cli.main", name.encode()] == arguments[3:5]:
                    return int(entry.name)
        return None


@contextmanager
def up(data: Path, *options: str) -> Iterator[Up]:
    run = Up(data, *options)
    try:
        eventually(run.is_up, timeout_s=START_S)
        yield run
    finally:
        run.process.terminate()
        try:
            run.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            run.process.kill()
            run.process.wait()
            raise


@pytest.mark.timeout(300)
def test_the_demo_counts_right_through_a_crash_and_a_second_start(folder: Path) -> None:
    data = folder / "data"
    with up(data, "--demo") as first:
        for grouping in ("action", "treatment", "channel", "customer"):
            for days in (1, 7, 30, 40):
                source, body = first.summary(f"groupBy={grouping}&days={days}&limit=3")
                assert source == "materialized"
                assert body["summary"]
                assert grouping == "customer" or body["summary"][0]["name"]
        before = first.total()
        assert before >= 20_000
        eventually(lambda: first.total() > before, timeout_s=20)  # there is live traffic

        worker = first.child("worker")
        assert worker is not None
        os.kill(worker, signal.SIGKILL)
        eventually(lambda: first.child("worker") not in (None, worker), timeout_s=20)
        assert "worker was ended by SIGKILL; starting it again" in first.output.read_text()

        load = first.child("load")
        assert load is not None
        os.kill(load, signal.SIGSTOP)  # so that the numbers come to rest
        eventually(lambda: first.status()["lag"] == 0, timeout_s=60)
        eventually(lambda: first.status()["historyLag"] == 0, timeout_s=30)
        counted = first.total()
        assert counted == first.stored()
        assert counted > before
        os.kill(load, signal.SIGKILL)
    assert first.process.returncode == 0, first.output.read_text()
    assert first.output.read_text().endswith("stopped\n")

    with up(data) as second:  # a new log, whose offsets start again
        eventually(lambda: second.summary("days=40")[0] == "materialized", timeout_s=30)
        rest = second.total()
        assert rest == second.stored()
        assert rest >= counted
        source, exact = second.summary("groupBy=customer&days=3650&window=exact&limit=500")
        assert source == "history"
        assert exact == second.summary("groupBy=customer&days=3650&limit=500")[1]
    assert second.process.returncode == 0


@pytest.mark.timeout(120)
def test_stopping_it_leaves_nothing_behind(folder: Path) -> None:
    with up(folder / "data") as run:
        pids = {run.child("worker"), run.child("api")}
        env = run.environment
        run.process.kill()  # it has no time to stop anything
        run.process.wait()
        eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), timeout_s=30)
    assert None not in pids
    with up(folder / "data") as again:  # and its servers do not stand in the way of the next
        assert again.environment["DATABASE_URL"] != env["DATABASE_URL"]
