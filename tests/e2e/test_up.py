"""`up --demo`: everything on one machine, from nothing, stopped, killed, and started again."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from cli.embedded.server import free_port
from cli.traffic.demo_catalog import demo_catalog
from store.settings import Settings
from tests.support import expected
from tests.support.answers import Bodies, all_answers, all_pages
from tests.support.program import PROGRAM, Api, Process, read_topic
from tests.support.waiting import eventually

#: By contract.
READY_S = 60.0
STOPPED_S = 30.0
TENANT = "default"
CATALOG = demo_catalog(TENANT)


class Machine:
    """One data folder, and `up` on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.port = free_port()
        self.up: Process
        self.all_pids: set[int] = set()

    def start(self) -> None:
        """Returns when it says that it is up."""
        arguments = ["up", "--demo", "--port", str(self.port), "--data-dir", str(self.data)]
        self.up = Process(arguments, dict(os.environ), self.folder / "up.log")
        eventually(self._is_up, timeout_s=READY_S, message="up")
        self._look()

    def _look(self) -> None:
        self.pids = descendants(self.up.pid)
        self.all_pids |= self.pids

    def _is_up(self) -> bool:
        if not self.up.alive():
            raise RuntimeError(self.up.tail())
        return "Interaction Summary is up" in self.up.log()

    def env(self) -> dict[str, str]:
        """What it says that other commands need."""
        words = shlex.split((self.data / "env").read_text())
        return dict(word.split("=", 1) for word in words if word != "export")

    def child(self, command: str) -> int:
        """The process that runs this command of ours."""
        found = [p for p in self.pids if f"cli.main\0{command}\0" in command_line(p) + "\0"]
        assert len(found) == 1, f"{command}: {found}"
        return found[0]

    def kill_worker(self) -> None:
        """Returns when another one runs."""
        killed = self.child("worker")
        os.kill(killed, signal.SIGKILL)

        def another_runs() -> bool:
            self._look()
            return self.child("worker") != killed

        eventually(another_runs, timeout_s=20, message="another worker")
        assert "worker was ended by SIGKILL; starting it again" in self.up.log()

    def status(self) -> dict[str, Any]:
        done = subprocess.run(
            [str(PROGRAM), "status", "--json"], env=os.environ | self.env(), capture_output=True
        )
        assert done.returncode == 0, done.stderr.decode()
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def rest(self) -> None:
        """Holds the live traffic; returns when all of it is counted and in history."""
        os.kill(self.child("load"), signal.SIGSTOP)

        def all_done() -> bool:
            status = self.status()
            assert (status["lag"], status["historyLag"]) == (0, 0), status
            return True

        eventually(all_done, timeout_s=30, message="all counted")

    def go_on(self) -> None:
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def api(self) -> Api:
        return Api(self.up, httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=30))

    def history(self) -> Bodies:
        """What history says: asked of a reader that finds no Redis."""
        port = free_port()
        env = os.environ | self.env() | {"REDIS_URL": f"redis://127.0.0.1:{free_port()}/0"}
        reader = Process(["api", "--port", str(port)], env, self.folder / "history.log")
        client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)
        try:
            eventually(lambda: answers(client), timeout_s=30, message="the second reader")
            return all_pages(Api(reader, client), "history", TENANT)
        finally:
            reader.terminate()

    def left(self) -> dict[int, str]:
        """What still runs of all that it ever started."""
        return {pid: command_line(pid) for pid in self.all_pids if runs(pid)}


@pytest.fixture
def machine() -> Iterator[Machine]:
    # Not pytest's own folder: PostgreSQL runs as another user there, when we are root.
    folder = Path(tempfile.mkdtemp(prefix="interaction-summary-up-"))
    folder.chmod(0o755)
    started = Machine(folder)
    try:
        yield started
    finally:
        print(started.up.tail(60))  # noqa: T201 - shown where the test fails
        started.up.kill()
        started.go_on()  # a process that is held does not end
        try:
            eventually(lambda: not started.left(), timeout_s=STOPPED_S, message="all gone")
        finally:
            for pid in started.left():
                os.kill(pid, signal.SIGKILL)
            shutil.rmtree(folder)


@pytest.mark.timeout(400)
def test_up_starts_from_nothing_and_its_numbers_outlive_a_stop_and_a_kill(
    machine: Machine,
) -> None:
    machine.start()
    url = re.search(r"curl '(\S+)'", machine.up.log())
    assert url is not None, machine.up.log()
    rows = httpx.get(url[1]).json()["summary"]
    assert len(rows) == 3
    for row in rows:
        assert row["name"] in {offer["name"] for offer in CATALOG["offers"]}
        assert row["impression"] > row["click"] > row["accept"] > row["convert"] > 0
        assert 0 < row["cvr"] < row["ctr"] < 50
    before = totals(machine.api())
    eventually(lambda: totals(machine.api()) != before, message="live traffic")

    # A worker that crashes is replaced. At rest the counters, history and a plain count of the
    # topic are one.
    machine.kill_worker()
    machine.rest()
    settings = Settings(kafka_bootstrap_servers=machine.env()["KAFKA_BOOTSTRAP_SERVERS"])
    events = expected.distinct(r.value for r in read_topic(settings, settings.interactions_topic))
    assert machine.history() == all_answers(machine.api(), "materialized", TENANT, events, CATALOG)
    first = totals(machine.api())
    assert sum(first.values()) == len(events)

    # Ctrl-C ends everything; starting again keeps the numbers, and the traffic goes on.
    machine.go_on()
    machine.up.interrupt()
    assert machine.up.wait(STOPPED_S) == 0
    assert machine.up.log().endswith("stopped\n")
    assert machine.left() == {}
    machine.start()
    second = same_from_both_and_never_less(machine, first)

    # The same after a kill. The log is new each time: its offsets start again.
    machine.go_on()
    machine.up.kill()
    eventually(lambda: not machine.left(), timeout_s=STOPPED_S, message="its children ended")
    machine.start()
    same_from_both_and_never_less(machine, second)


def same_from_both_and_never_less(machine: Machine, before: dict[str, int]) -> dict[str, int]:
    eventually(lambda: more(totals(machine.api()), before), message="live traffic")
    machine.rest()
    assert machine.history() == all_pages(machine.api(), "materialized", TENANT)
    now = totals(machine.api())
    assert all(now[action] >= n for action, n in before.items()), (before, now)
    return now


def more(now: dict[str, int], before: dict[str, int]) -> bool:
    return sum(now.values()) > sum(before.values())


def totals(api: Api) -> dict[str, int]:
    """Action -> its interactions of all time."""
    rows = api.summary(TENANT, groupBy="action", days=3650).json()["summary"]
    return {row["id"]: row["total"] for row in rows}


def answers(client: httpx.Client) -> bool:
    try:
        return bool(client.get("/readyz").json()["stores"]["postgres"] == "ok")
    except httpx.TransportError:
        return False


def descendants(pid: int) -> set[int]:
    """The processes that it started, and those that they started."""
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found |= {child, *descendants(child)}
    return found


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""  # ended meanwhile


def runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"  # ended, and not yet collected by its new parent
