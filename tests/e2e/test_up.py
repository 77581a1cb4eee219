"""`up --demo`: a first start, a stop, a kill, and a start after each."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import stat
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
from tests.support.other_user import NOBODY, connect_as
from tests.support.program import PROGRAM, Api, Process, read_topic
from tests.support.waiting import eventually

#: Limits of the contract.
READY_S = 60.0
STOPPED_S = 30.0
TENANT = "default"
CATALOG = demo_catalog(TENANT)
#: Settings of other servers, in the shell that starts `up`.
FOREIGN = {"DATABASE_URL_FILE": "/nonexistent", "KAFKA_SASL_PASSWORD": "of-another-broker"}


class Machine:
    """A data folder and the `up` process that uses it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.port = free_port()
        self.up: Process
        self.all_pids: set[int] = set()

    def start(self) -> None:
        """Start `up` and return when it prints that it is up."""
        arguments = ["up", "--demo", "--port", str(self.port), "--data-dir", str(self.data)]
        self.up = Process(arguments, os.environ | FOREIGN, self.folder / "up.log")
        eventually(self._is_up, timeout_s=READY_S, message="up")
        self._update_pids()

    def _update_pids(self) -> None:
        self.pids = descendants(self.up.pid)
        self.all_pids |= self.pids

    def _is_up(self) -> bool:
        if not self.up.alive():
            raise RuntimeError(self.up.tail())
        return "Interaction Summary is up" in self.up.log()

    def env(self) -> dict[str, str]:
        """Return the environment that `up` writes for other commands."""
        words = shlex.split((self.data / "env").read_text())
        return dict(word.split("=", 1) for word in words if "=" in word)

    def child(self, command: str) -> int:
        """Return the pid of the child process that runs `command`."""
        found = [p for p in self.pids if f"cli.main\0{command}\0" in command_line(p) + "\0"]
        assert len(found) == 1, f"{command}: {found}"
        return found[0]

    def kill_worker(self) -> None:
        """Kill the worker and return when `up` has started another one."""
        killed = self.child("worker")
        os.kill(killed, signal.SIGKILL)

        def another_runs() -> bool:
            self._update_pids()
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

    def pause_traffic(self) -> None:
        """Pause the live traffic; return when all events are counted and in history."""
        os.kill(self.child("load"), signal.SIGSTOP)

        def all_done() -> bool:
            status = self.status()
            assert (status["lag"], status["historyLag"]) == (0, 0), status
            return True

        eventually(all_done, message="all counted")

    def resume(self) -> None:
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def api(self) -> Api:
        return Api(self.up, httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=30))

    def history(self) -> Bodies:
        """Return the answers from history, through an API that has no Redis."""
        port = free_port()
        env = os.environ | self.env() | {"REDIS_URL": f"redis://127.0.0.1:{free_port()}/0"}
        reader = Process(["api", "--port", str(port)], env, self.folder / "history.log")
        client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)
        try:
            eventually(lambda: answers(client), message="the second reader")
            return all_pages(Api(reader, client), "history", TENANT)
        finally:
            reader.terminate()

    def left(self) -> dict[int, str]:
        """Return the processes that still run, of all that `up` has started."""
        return {pid: command_line(pid) for pid in self.all_pids if runs(pid)}


@pytest.fixture
def machine() -> Iterator[Machine]:
    # Not pytest's tmp_path: as root, PostgreSQL runs as another user, without access to it.
    folder = Path(tempfile.mkdtemp(prefix="interaction-summary-up-"))
    folder.chmod(0o755)
    started = Machine(folder)
    try:
        yield started
    finally:
        print(started.up.tail(60))  # noqa: T201 - shown if the test fails
        started.up.kill()
        started.resume()  # a paused process does not end
        try:
            eventually(lambda: not started.left(), timeout_s=STOPPED_S, message="all gone")
        finally:
            for pid in started.left():
                os.kill(pid, signal.SIGKILL)
            shutil.rmtree(folder)


def test_up_starts_from_nothing_and_its_numbers_outlive_a_stop_and_a_kill(
    machine: Machine,
) -> None:
    machine.start()
    url = re.search(r"curl '(\S+)'", machine.up.log())
    assert url is not None, machine.up.log()
    page = f"http://127.0.0.1:{machine.port}/"
    welcome = machine.up.log().partition("Interaction Summary is up")[2]
    assert welcome.index(page) < welcome.index("curl"), "the page is not the first address"
    assert httpx.get(page).headers["content-type"] == "text/html; charset=utf-8"
    rows = httpx.get(url[1]).json()["summary"]
    assert len(rows) == 3
    for row in rows:
        assert row["name"] in {offer["name"] for offer in CATALOG["offers"]}
        assert row["impression"] > row["click"] > row["accept"] > row["convert"] > 0
        assert 0 < row["cvr"] < row["ctr"] < 50
    before = totals(machine.api())
    eventually(lambda: totals(machine.api()) != before, message="live traffic")
    is_closed_to_other_users(machine)

    # A crashed worker is replaced. Without traffic, counters, history and the expected counts of
    # the topic are equal.
    machine.kill_worker()
    machine.pause_traffic()
    settings = Settings(kafka_bootstrap_servers=machine.env()["KAFKA_BOOTSTRAP_SERVERS"])
    events = expected.distinct(r.value for r in read_topic(settings, settings.interactions_topic))
    assert machine.history() == all_answers(machine.api(), "materialized", TENANT, events, CATALOG)
    first = totals(machine.api())
    assert sum(first.values()) == len(events)

    # Ctrl-C stops everything; the next start keeps the numbers, and the traffic continues.
    machine.resume()
    machine.up.interrupt()
    assert machine.up.wait(STOPPED_S) == 0
    assert machine.up.log().endswith("stopped\n")
    assert machine.left() == {}
    machine.start()
    second = same_from_both_and_never_less(machine, first)

    # The same after a kill. The topic is new at each start: its offsets begin at 0.
    machine.resume()
    machine.up.kill()
    eventually(lambda: not machine.left(), timeout_s=STOPPED_S, message="its children ended")
    machine.start()
    same_from_both_and_never_less(machine, second)


def is_closed_to_other_users(machine: Machine) -> None:
    """Check that nobody else gets into the data folder or to the stores, and nothing leaks in."""
    assert stat.S_IMODE(machine.data.stat().st_mode) & 0o067 == 0  # as root 0710, else 0700
    assert stat.S_IMODE((machine.data / "env").stat().st_mode) == 0o600
    for command in ("worker", "api", "load"):
        environment = Path(f"/proc/{machine.child(command)}/environ").read_text()
        assert not [name for name in FOREIGN if f"{name}=" in environment]
    urls = (machine.env()["DATABASE_URL"], machine.env()["REDIS_URL"])
    assert connect_as(os.geteuid(), *urls) == ["connected", "connected"]
    if os.geteuid() == 0:
        answers = connect_as(NOBODY, *urls)
        assert all("Permission denied" in answer for answer in answers), answers


def same_from_both_and_never_less(machine: Machine, before: dict[str, int]) -> dict[str, int]:
    eventually(lambda: more(totals(machine.api()), before), message="live traffic")
    machine.pause_traffic()
    assert machine.history() == all_pages(machine.api(), "materialized", TENANT)
    now = totals(machine.api())
    assert all(now[action] >= n for action, n in before.items()), (before, now)
    return now


def more(now: dict[str, int], before: dict[str, int]) -> bool:
    return sum(now.values()) > sum(before.values())


def totals(api: Api) -> dict[str, int]:
    """Return action -> number of interactions of all time."""
    rows = api.summary(TENANT, groupBy="action", days=3650).json()["summary"]
    return {row["id"]: row["total"] for row in rows}


def answers(client: httpx.Client) -> bool:
    try:
        return bool(client.get("/readyz").json()["stores"]["postgres"] == "ok")
    except httpx.TransportError:
        return False


def descendants(pid: int) -> set[int]:
    """Return the pids of all descendants of a process."""
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found |= {child, *descendants(child)}
    return found


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""  # has ended


def runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"  # a zombie has ended
