"""How a worker process ends: its exit code, and what its log says about it. No servers."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
#: A process that gets SIGTERM while it waits for a broker, as one that starts before Kafka does.
#: `stop` is the rest of `on_stop`.
PROGRAM = """
import asyncio, os, signal

from store import logs
from store.settings import Settings
from streams import faust_app

class Hooks:
    find_start = on_no_partitions = on_truncated = full_partitions = submit = None
    async def run(self): ...

settings = Settings(auth_mode="open")
logs.configure("INFO")
faust_app.STOP_MAX_S = {limit_s}
stopped = asyncio.Event()

async def on_start():
    os.kill(os.getpid(), signal.SIGTERM)
    await stopped.wait()

async def on_stop():
    stopped.set()
    {stop}

faust_app.run_app(
    faust_app.create_app(settings, Hooks()),
    settings,
    on_start=on_start,
    on_stop=on_stop,
    has_failed=lambda: {has_failed},
)
"""
LONG_S = 60.0
WAIT_FOR_EVER = "await asyncio.Event().wait()"


class Ended(NamedTuple):
    code: int
    lines: list[dict[str, Any]]
    log: str

    def line(self, event: str) -> dict[str, Any]:
        """Return the one line of this event."""
        [found] = [line for line in self.lines if line["event"] == event]
        return found


def run(stop: str = "pass", *, limit_s: float = LONG_S, has_failed: bool = False) -> Ended:
    """Run the program until it ends."""
    program = textwrap.dedent(PROGRAM).format(stop=stop, limit_s=limit_s, has_failed=has_failed)
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    lines = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    return Ended(done.returncode, lines, done.stderr)


def test_a_clean_stop_ends_with_0_and_logs_no_error() -> None:
    ended = run()
    assert ended.code == 0, ended.log
    assert [line for line in ended.lines if line["level"] in ("warning", "error")] == []


def test_an_error_while_the_batches_in_hand_are_finished_is_logged() -> None:
    """The worker still leaves its group, and does not wait for the limit of the stop."""
    ended = run("raise ValueError('no such batch')")
    assert ended.code == 1, ended.log
    line = ended.line("worker stop failed")
    assert line["error"] == "ValueError: no such batch"
    assert "on_stop" in line["exception"]


def test_an_error_at_the_end_of_the_event_loop_is_logged() -> None:
    """Here Faust discards the error, whatever it is."""
    ended = run("faust_app.FaustWorker._gather_all = lambda self: 1 / 0")
    assert ended.code == 1, ended.log
    assert ended.line("worker stop failed")["error"] == "ZeroDivisionError: division by zero"


def test_a_stop_that_takes_too_long_is_logged() -> None:
    ended = run(WAIT_FOR_EVER, limit_s=0.1)
    assert ended.code == 0, ended.log
    line = ended.line("stop not finished in time: the process ends")
    assert (line["limit_s"], line["exit_code"]) == (0.1, 0)


def test_a_stop_that_takes_too_long_after_a_failure_is_logged() -> None:
    ended = run(WAIT_FOR_EVER, limit_s=0.1, has_failed=True)
    assert ended.code == 1, ended.log
    assert ended.line("stop not finished in time: the process ends")["exit_code"] == 1
